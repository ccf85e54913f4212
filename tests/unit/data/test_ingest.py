"""An import: what is accepted, what is refused, photographs that are added to others, and where each came from."""

import io
import json
import os
import re
from pathlib import Path

import make_sample
import pytest

from odd_pictures import photograph
from pawprint.config import load_params
from pawprint.data import preprocess
from pawprint.data.class_folders import dataset
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from photo_sources import KAGGLE, contents, folders, pets, small, unpacked, zipped

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data/ that is there already and must survive every refusal."""
    root = folders(tmp_path / "work" / "data", old=1, older=1)
    (root / "dataset.json").write_text('{"name": "before"}')
    return root


def test_kaggle_s_zip_becomes_a_folder_a_class(tmp_path: Path, data: Path) -> None:
    source = zipped(
        tmp_path / "train.zip",
        {f"train/{kind}.{n}.jpg": photograph(n + 50 * (kind == "dog")) for kind in ("cat", "dog") for n in range(3)},
    )
    taken = ingest(source, data).dataset
    assert (taken.name, taken.classes, taken.drawn) == ("dogs-cats", ("cat", "dog"), False)
    assert [kind for kind, _ in taken.photographs] == ["cat"] * 3 + ["dog"] * 3
    assert all(file.is_relative_to(data) and file.is_file() for _, file in taken.photographs)
    assert json.loads((data / "dataset.json").read_text())["name"] == "dogs-cats"
    assert not (data / "old").exists()
    assert [entry.name for entry in data.parent.iterdir()] == ["data"]


def test_a_folder_with_a_folder_a_class_keeps_any_number_of_classes(tmp_path: Path, data: Path) -> None:
    taken = ingest(folders(tmp_path / "My Flowers", rose=2, tulip=3, lily=1), data).dataset
    assert (taken.name, taken.classes) == ("my-flowers", ("lily", "rose", "tulip"))
    assert len(taken.photographs) == 6
    assert ingest(tmp_path / "My Flowers", data, name="garden").dataset.name == "garden"
    assert dataset(data).name == "garden"


REFUSED = {
    "nothing there": (lambda root: root / "nowhere.zip", "nowhere.zip does not exist"),
    "not an archive": (lambda root: zipped(root / "a.zip", {}).rename(root / "b.zip"), "b.zip"),
    "an archive of something else": (lambda root: zipped(root / "a.zip", {"readme.txt": b"hello"}), "a.zip"),
    "a single class": (lambda root: folders(root / "pets", cat=2), "two classes"),
    "a single class in a zip": (lambda root: zipped(root / "a.zip", {"train/cat.0.jpg": b"x"}), "which class"),
    "an empty class": (lambda root: folders(root / "pets", cat=2, dog=0), "dog"),
    "a class of the reserved name": (lambda root: folders(root / "pets", cat=1, Unknown=2), "a class `Unknown`"),
    "an empty folder": (lambda root: folders(root / "pets"), "does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name_and_changes_nothing(tmp_path: Path, data: Path, name: str) -> None:
    make, output = REFUSED[name]
    before = contents(data)
    with pytest.raises(PawprintError, match=output):
        ingest(make(tmp_path), data)
    assert contents(data) == before
    assert [entry.name for entry in data.parent.iterdir()] == ["data"]


def test_a_name_that_is_none_is_refused(tmp_path: Path, data: Path) -> None:
    before = contents(data)
    with pytest.raises(PawprintError, match=r"cannot name a data set.*`my-pets`"):
        ingest(folders(tmp_path / "pets", cat=1, dog=1), data, name="My Pets!")
    assert contents(data) == before


def test_names_never_collide_and_stay_readable(tmp_path: Path) -> None:
    """Same name, other content; also where only upper and lower case differ, and with odd characters."""
    source = unpacked(tmp_path / "in" / "cat", {f"{n or '.'}/1.jpg": small(n) for n in range(5)}).parent
    unpacked(source / "dog", {"1.JPG": small(501), "deep/1.jpg": small(502), "x: y?.jpg": small(503)})
    unpacked(source / "dog", {"long" * 50 + ".jpg": small(504)})
    data = tmp_path / "data"
    taken = ingest(source, data)
    names = [file.relative_to(data).as_posix() for _, file in taken.dataset.photographs]
    assert len(names) == 9
    assert len({name.casefold() for name in names}) == 9
    assert {"cat/1.jpg", "dog/x_ y_.jpg"} <= set(names)
    assert all(len(Path(name).name) <= 150 for name in names)
    kept = contents(data)
    assert {kept[name] for name in names if name.startswith("cat")} == {small(n) for n in range(5)}


def test_added_photographs_join_those_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(zipped(tmp_path / "train.zip", KAGGLE), data)
    before = {name: data_ for name, data_ in contents(data).items() if name.endswith(".jpg")}
    more = zipped(
        tmp_path / "more.zip",
        {"Cat/cat.0.jpg": small(70), "Cat/known.jpg": KAGGLE["train/cat.1.jpg"], "Dog/dog.9.jpg": small(571)},
    )
    taken = ingest(more, data, add=True)
    assert (taken.added, taken.known, taken.contradictions) == (2, 1, [])
    assert taken.dataset.classes == ("cat", "dog")  # `Cat` is the `cat` that is there
    assert taken.dataset.name == "dogs-cats"
    after = contents(data)
    assert before.items() <= after.items()
    assert sorted(set(after) - set(before) - {"dataset.json", "origins.csv"})[1] == "dog/dog.9.jpg"
    origins = (data / "origins.csv").read_text()
    assert "more.zip,Cat/known.jpg" in origins
    assert not ingest(more, data, add=True).changed
    assert contents(data) == after


def test_one_class_is_added_where_it_belongs_or_is_meant_to_be_new(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(unpacked(tmp_path / "pets", pets()), data)
    assert ingest(unpacked(tmp_path / "more", {"cat/9.jpg": small(70)}), data, add=True).added == 1
    foxes = unpacked(tmp_path / "fox", {"9.jpg": small(71)})
    with pytest.raises(PawprintError, match=r"mkdir .*fox"):
        ingest(foxes, data, add=True)
    (data / "fox").mkdir()
    assert ingest(foxes, data, add=True).dataset.classes == ("cat", "dog", "fox")


def test_the_same_content_under_another_class_is_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(unpacked(tmp_path / "pets", pets()), data)
    more = unpacked(tmp_path / "more", {"dog/9.jpg": pets()["cat/1.jpg"], "dog/8.jpg": small(77)})
    taken = ingest(more, data, add=True)
    assert taken.added == 1
    assert taken.contradictions == ["more/dog/9.jpg is called dog; cat/1.jpg has the same content and stays"]
    assert not (data / "dog" / "9.jpg").exists()
    # In one import nobody can say which is right: both are taken, and the check leaves both out by name.
    both = ingest(unpacked(tmp_path / "both", pets() | {"dog/9.jpg": pets()["cat/1.jpg"]}), data)
    assert len(both.contradictions) == 1
    bad, _ = preprocess.survey(dataset(data), data, load_params(ROOT / "params.yaml"))
    assert {(one.path.name, one.reason) for one in bad} == {("1.jpg", "two_labels"), ("9.jpg", "two_labels")}


def test_photographs_without_origins_get_one_when_others_are_added(tmp_path: Path) -> None:
    """Put there by hand, or before there were origins: known by content all the same."""
    data = unpacked(tmp_path / "data", pets() | {"dataset.json": b'{"name": "mine", "source": "camera"}'})
    taken = ingest(unpacked(tmp_path / "more", pets() | {"cat/new.jpg": small(99)}), data, add=True)
    assert (taken.added, taken.known, taken.dataset.name) == (1, 6, "mine")
    rows = (data / "origins.csv").read_text().splitlines()
    assert sum(",camera,cat/" in row for row in rows) == 3
    (data / "cat" / "0.jpg").unlink()  # a person's own hand; its origin goes with it
    ingest(unpacked(tmp_path / "last", {"cat/last.jpg": small(98), "dog/last.jpg": small(598)}), data, add=True)
    assert not any(row.startswith("cat/0.jpg") for row in (data / "origins.csv").read_text().splitlines())


def test_photographs_are_not_added_to_drawings(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_sample.write(data, per_class=1)
    with pytest.raises(PawprintError, match="drawn sample"):
        ingest(unpacked(tmp_path / "pets", pets()), data, add=True)


def test_damaged_origins_are_named_where_they_are_needed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    source = unpacked(tmp_path / "pets", pets())
    ingest(source, data)
    (data / "origins.csv").write_text("what,is,this\n")
    with pytest.raises(PawprintError, match=r"origins\.csv is damaged"):
        ingest(source, data, add=True)
    assert ingest(source, data).changed


def test_a_folder_s_links_and_hidden_files_do_no_harm(tmp_path: Path) -> None:
    source = unpacked(tmp_path / "pets", pets() | {"cat/.hidden.jpg": b"x", ".git/x/1.jpg": b"x", "cat/a.jpg.txt": b""})
    (source / "cat" / ".#gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (source / "dog" / "linked.jpg").symlink_to(unpacked(source, {"cat/else.JPG": small(42)}) / "cat" / "else.JPG")
    taken = ingest(source, tmp_path / "data")
    names = {file.name for _, file in taken.dataset.photographs}
    assert names == {"0.jpg", "1.jpg", "2.jpg", "else.JPG", "linked.jpg"}
    assert not any(file.is_symlink() for _, file in taken.dataset.photographs)
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["source"] == "pets"
    assert taken.ignored == ("pets/cat/a.jpg.txt",)


def test_a_link_that_is_no_photograph_of_the_source_is_refused_by_name(tmp_path: Path, data: Path) -> None:
    before = contents(data)
    for place, target in (
        ("cat/p.jpg", Path("/etc/passwd")),
        ("fox", unpacked(tmp_path / "foxes", {"1.jpg": small(3)})),
        ("chat", Path("cat")),  # its photographs are there, under another name
        ("bear", Path("/media/disk-that-is-missing/bear")),
        ("cat/up", Path("..")),
    ):
        source = unpacked(tmp_path / place.replace("/", "-"), pets())
        (source / place).symlink_to(target)
        with pytest.raises(PawprintError, match=f"{place} is a link"):
            ingest(source, data)
        assert contents(data) == before


NAMES = [
    "A",
    "a",
    "?",
    "*",
    "<",
    "Corn_(maize)___Common_rust_",
    "Pepper,_bell___healthy",
    "-1",
    "50 % $x$",
    "猫",
    "x" * 100,
]


def test_classes_keep_their_spelling_and_are_never_merged(tmp_path: Path) -> None:
    members = {f"{name}/1.jpg": small(n) for n, name in enumerate(NAMES)}
    for source in (unpacked(tmp_path / "odd", members), zipped(tmp_path / "odd.zip", members)):
        taken = ingest(source, tmp_path / source.name.replace(".", "-") / "data").dataset
        assert set(taken.classes) == set(NAMES)
    more = unpacked(tmp_path / "more", {"a/9.jpg": small(90), "corn_(MAIZE)___common_rust_/9.jpg": small(91)})
    assert ingest(more, tmp_path / "odd-zip" / "data", add=True).dataset.classes == taken.classes


@pytest.mark.parametrize("other", ["cafe\u0301", "caf\u00e9 ", "caf\u00e9\u200b"])
def test_classes_that_only_look_alike_are_refused(tmp_path: Path, other: str) -> None:
    source = zipped(tmp_path / "cafes.zip", {"caf\u00e9/1.jpg": small(1), f"{other}/2.jpg": small(2)})
    with pytest.raises(PawprintError, match=f"look alike .*{re.escape(ascii(other))}"):
        ingest(source, tmp_path / "data")


BAD_NAMES = {
    "a file of data/": "origins.csv", "a control character": "ca\rt", "a line": "ca\u2028t", "too long": "猫" * 90,
    "a backslash": "ca\\t", "the refusal": "UNKNOWN",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_class_that_no_folder_can_be_called_is_refused_by_name(tmp_path: Path, data: Path, name: str) -> None:
    before = contents(data)
    table = "file,label\n" + "".join(f'{n}.jpg,"{(BAD_NAMES[name], "dog")[n % 2]}"\n' for n in range(4))
    source = unpacked(tmp_path / "pets", {f"{n}.jpg": small(n) for n in range(4)})
    (tmp_path / "labels.csv").write_text(table, newline="")
    with pytest.raises(PawprintError, match=r"a class .* which") as refused:
        ingest(source, data, labels=str(tmp_path / "labels.csv"))
    assert "\n" not in str(refused.value)
    assert contents(data) == before


def test_a_file_s_name_with_a_control_character_or_no_utf8_is_refused(tmp_path: Path, data: Path) -> None:
    before = contents(data)
    for name in (b"cat/1\r.jpg", b"cat/\xff.jpg"):
        source = unpacked(tmp_path / ascii(name), pets())
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(small(7))
        with pytest.raises(PawprintError, match="whose name has control characters") as refused:
            ingest(source, data)
        str(refused.value).encode()  # can be printed
        assert contents(data) == before


def test_long_names_of_any_script_are_shortened(tmp_path: Path) -> None:
    source = unpacked(tmp_path / "pets", pets() | {f"cat/{'猫' * 80}.jpg": small(8)})
    names = [file.name for _, file in ingest(source, tmp_path / "data").dataset.photographs]
    assert max(len(name.encode()) for name in names) in range(140, 151)


def test_a_large_import_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pawprint.progress.PATIENCE", 0.0)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    import sys

    ingest(unpacked(tmp_path / "pets", pets()), tmp_path / "data")
    assert isinstance(sys.stderr, io.StringIO)
    assert "importing photographs of pets: 1 of 6" in sys.stderr.getvalue()
