"""The layouts that are recognised, and the archives that are refused."""

import csv
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from odd_pictures import saved, two_colours
from pawprint.config import load_params
from pawprint.data import archives, preprocess
from pawprint.data.class_folders import dataset
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from photo_sources import KAGGLE, contents, pets, small, tarred, unpacked, zipped

ROOT = Path(__file__).resolve().parents[3]


def outer_zip(folder: Path) -> Path:
    """What Kaggle's `download all` gives: train.zip and test1.zip in a zip."""
    train = zipped(folder / "train.zip", KAGGLE).read_bytes()
    test = zipped(folder / "test1.zip", {"test1/1.jpg": small(90)}).read_bytes()
    return zipped(
        folder / "dogs-vs-cats.zip", {"sampleSubmission.csv": b"id,label", "test1.zip": test, "train.zip": train}
    )


MICROSOFT = {
    "PetImages/Cat/0.jpg": small(0), "PetImages/Cat/1.jpg": saved(two_colours(60, 40), "BMP"),
    "PetImages/Cat/666.jpg": b"", "PetImages/Cat/Thumbs.db": b"\xd0\xcf", "PetImages/Dog/0.jpg": small(500),
    "PetImages/Dog/1.jpg": small(501), "PetImages/Dog/11702.jpg": b"", "readme[1].txt": b"x",
    "MSR-LA - 3467.docx": b"x",
}  # fmt: skip
OXFORD = {
    "images/Abyssinian_1.jpg": small(0), "images/Maine_Coon_12.jpg": small(1), "images/Abyssinian_100.mat": b"MATLAB",
    "images/american_bulldog_7.jpg": small(500), "images/beagle_1.jpg": small(501),
}  # fmt: skip
FILTERED = {
    "cats_and_dogs_filtered/train/cats/cat.0.jpg": small(0),
    "cats_and_dogs_filtered/train/dogs/dog.0.jpg": small(500),
    "cats_and_dogs_filtered/validation/cats/cat.2000.jpg": small(1),
    "cats_and_dogs_filtered/validation/dogs/dog.2000.jpg": small(501),
    "cats_and_dogs_filtered/vectorize.py": b"import os",
}
KAGGLE_FILES = {f"{kind}/{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(3)}
GARDEN = {"rose/1.jpg": small(1), "rose/deep/1.jpg": small(2), "tulip/1.png": small(3), "Notes.txt": b"x"}

Make = Callable[[Path], Path]
TAKEN: dict[str, tuple[Make, str, set[str]]] = {
    "Kaggle's zip": (
        lambda root: zipped(root / "train.zip", KAGGLE), "dogs-cats", KAGGLE_FILES
    ),
    "Kaggle's outer zip": (outer_zip, "dogs-cats", KAGGLE_FILES),
    "Kaggle's, unpacked, with its test pictures": (
        lambda root: unpacked(root / "kaggle", KAGGLE | {"test1/1.jpg": small(90)}),
        "dogs-cats", KAGGLE_FILES,
    ),
    "Microsoft's": (
        lambda root: zipped(root / "kagglecatsanddogs_5340.zip", MICROSOFT), "microsoft-cats-dogs",
        {"cat/0.jpg", "cat/1.jpg", "cat/666.jpg", "dog/0.jpg", "dog/1.jpg", "dog/11702.jpg"},
    ),
    "Oxford's": (
        lambda root: tarred(root / "images.tar.gz", OXFORD), "oxford-iiit-pet",
        {"cat/Abyssinian_1.jpg", "cat/Maine_Coon_12.jpg", "dog/american_bulldog_7.jpg", "dog/beagle_1.jpg"},
    ),
    "Oxford's, unpacked": (
        lambda root: unpacked(root / "images", {name.split("/")[1]: data for name, data in OXFORD.items()}),
        "oxford-iiit-pet",
        {"cat/Abyssinian_1.jpg", "cat/Maine_Coon_12.jpg", "dog/american_bulldog_7.jpg", "dog/beagle_1.jpg"},
    ),
    "TensorFlow's": (
        lambda root: zipped(root / "cats_and_dogs_filtered.zip", FILTERED), "cats-and-dogs-filtered",
        {"cat/cat.0.jpg", "cat/cat.2000.jpg", "dog/dog.0.jpg", "dog/dog.2000.jpg"},
    ),
    "a zip with a folder a class": (
        lambda root: zipped(root / "My Garden.zip", GARDEN), "my-garden", {"rose/1.jpg", "rose/*", "tulip/1.png"}
    ),
    "a tar with a folder a class in a folder a split": (
        lambda root: tarred(
            root / "garden.tar",
            {"garden/train/rose/1.jpg": small(1), "garden/train/tulip/1.jpg": small(2),
             "garden/test/rose/1.jpg": small(3), "garden/test/tulip/2.jpg": small(4)},
        ),
        "garden", {"rose/1.jpg", "rose/*", "tulip/1.jpg", "tulip/2.jpg"},
    ),
    "one's own cats and dogs in a folder a split": (
        lambda root: zipped(
            root / "mine.zip", {"train/cats/1.jpg": small(1), "train/dogs/1.jpg": small(2), "test/dogs/2.jpg": small(3)}
        ),
        "mine", {"cats/1.jpg", "dogs/1.jpg", "dogs/2.jpg"},
    ),
    "a folder with a folder a class": (
        lambda root: unpacked(root / "garden", GARDEN), "garden", {"rose/1.jpg", "rose/*", "tulip/1.png"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_layout_is_known_by_what_is_in_it(tmp_path: Path, name: str) -> None:
    make, called, expected = TAKEN[name]
    data = tmp_path / "work" / "data"
    source = make(tmp_path)
    taken = ingest(source, data)
    found = {file.relative_to(data).as_posix() for _, file in taken.dataset.photographs}
    plain = {one for one in expected if "*" not in one}
    assert plain <= found
    assert len(found) == len(expected)  # a `*` is a second photograph of the same name
    assert taken.dataset.name == called
    before = {file: file.stat().st_mtime_ns for file in data.rglob("*")}
    again = ingest(source, data)
    assert not again.changed
    assert {file: file.stat().st_mtime_ns for file in data.rglob("*")} == before
    assert [entry.name for entry in data.parent.iterdir()] == ["data"]


def test_a_breed_and_where_each_came_from_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(tarred(tmp_path / "images.tar.gz", OXFORD), data)
    with (data / "origins.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows["dog/american_bulldog_7.jpg"]["breed"] == "american_bulldog"
    assert rows["cat/Maine_Coon_12.jpg"] | {"hash": ""} == {
        "file": "cat/Maine_Coon_12.jpg", "class": "cat", "hash": "", "source": "images.tar.gz",
        "name": "images/Maine_Coon_12.jpg", "breed": "Maine_Coon",
    }  # fmt: skip
    assert len(rows) == 4


def test_empty_and_non_jpeg_files_are_taken_and_then_named_by_the_check(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(zipped(tmp_path / "pets.zip", MICROSOFT), data)
    bad, flags = preprocess.survey(dataset(data), data, load_params(ROOT / "params.yaml"))
    assert {(one.path.relative_to(data).as_posix(), one.reason) for one in bad} == {
        ("cat/666.jpg", "empty"), ("dog/11702.jpg", "empty"),
    }  # fmt: skip
    assert flags["wrong_extension"] == 1


# --- what is refused ---------------------------------------------------------------------------------------------


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def zip_link(root: Path) -> Path:
    path = zipped(root / "pets.zip", pets())
    entry = zipfile.ZipInfo("cat/passwd.jpg")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    return path


def bomb(root: Path, name: str = "pets.zip") -> Path:
    """80 MB of zeros in 80 kB."""
    return zipped(root / name, pets() | {"cat/zeros.jpg": bytes(80 * 2**20)})


def encrypted(root: Path) -> Path:
    path = zipped(root / "pets.zip", pets())
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := data.find(mark, start + 1)) >= 0:
            data[start + place] |= 1
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def cut_between_members(root: Path) -> Path:
    path = tarred(root / "pets.tar", pets())
    with tarfile.open(path) as archive:
        end = archive.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:end])
    return path


def long_header(root: Path) -> Path:
    """A tar whose note before a member has 30 MB, in 30 kB: read whole, it would fill the memory."""
    path = root / "pets.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("cat/1.jpg")
        entry.pax_headers = {"comment": "x" * 30_000_000}
        archive.addfile(entry)
    return path


def flipped(root: Path) -> Path:
    path = zipped(root / "pets.zip", pets())
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    return path


REFUSED: dict[str, tuple[Make, str]] = {
    "a zip that climbs": (lambda root: zipped(root / "pets.zip", pets() | {"../../up.jpg": b"x"}), "outside itself"),
    "a zip that climbs with backslashes": (
        lambda root: zipped(root / "pets.zip", pets() | {"..\\up.jpg": b"x"}), "outside itself"
    ),
    "a tar with an absolute name": (
        lambda root: tarred(root / "pets.tar.gz", pets() | {"/tmp/up.jpg": b"x"}), "outside itself"
    ),
    "a symbolic link in a tar": (
        lambda root: tarred(root / "pets.tar", pets(), link("cat/p.jpg", "/etc/passwd", tarfile.SYMTYPE)), "a link"
    ),
    "a hard link in a tar": (
        lambda root: tarred(root / "pets.tar", pets(), link("cat/p.jpg", "../secret", tarfile.LNKTYPE)), "a link"
    ),
    "a device in a tar": (
        lambda root: tarred(root / "pets.tar", pets(), link("cat/p.jpg", "", tarfile.CHRTYPE)), "a link or a device"
    ),
    "a symbolic link in a zip": (zip_link, "a link"),
    "a zip bomb": (bomb, "unpacks to"),
    "a bomb in a tar.gz": (
        lambda root: tarred(root / "pets.tar.gz", pets() | {"cat/zeros.jpg": bytes(80 * 2**20)}), "unpacks to"
    ),
    "a bomb in a zip in a zip": (
        lambda root: zipped(root / "outer.zip", {"train.zip": bomb(root).read_bytes()}), "unpacks to"
    ),
    "an encrypted zip": (encrypted, "encrypted"),
    "a tar with an absurd header": (long_header, "a header of 30"),
    "a zip that is cut short": (lambda root: cut(zipped(root / "pets.zip", pets()), 0.6), "cut short"),
    "a zip with a damaged photograph": (flipped, "damaged"),
    "a tar.gz that is cut short": (lambda root: cut(tarred(root / "pets.tar.gz", pets()), 0.6), "cut short"),
    "a tar.gz that is cut at its head": (lambda root: cut(tarred(root / "pets.tar.gz", pets()), 0.01), "cut short"),
    "a tar that is cut between two members": (cut_between_members, "cut short"),
    "an empty file": (lambda root: unpacked(root, {"pets.zip": b""}) / "pets.zip", "no zip or tar"),
    "a text": (lambda root: unpacked(root, {"pets.zip": b"hello"}) / "pets.zip", "no zip or tar"),
    "pictures without a class": (
        lambda root: zipped(root / "pets.zip", {"1.jpg": small(1), "2.jpg": small(2)}), "which class.*Oxford's"
    ),
    "a camera's names in a folder `images`": (
        lambda root: zipped(root / "pets.zip", {"images/IMG_1.jpg": small(1), "images/dsc_2.jpg": small(2)}),
        "only `images`",
    ),
    "no pictures": (lambda root: zipped(root / "pets.zip", {"a.txt": b"x"}), "no pictures.*Microsoft's"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unsafe_or_damaged_is_refused_and_data_stays(tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    work = tmp_path / "deep" / "deeper" / "work"
    data = unpacked(work / "data", pets(900) | {"dataset.json": b'{"name": "before"}'})
    before = contents(tmp_path / "deep")
    source = make(tmp_path)
    with pytest.raises(PawprintError, match=said) as refused:
        ingest(source, data)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path / "deep") == before
    with pytest.raises(PawprintError, match=said):
        ingest(source, data, add=True)
    assert contents(tmp_path / "deep") == before
    assert [entry.name for entry in work.iterdir()] == ["data"]


def test_too_many_files_and_too_many_bytes_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zipped(tmp_path / "pets.zip", pets())
    monkeypatch.setattr(archives, "MAX_FILES", 5)
    with pytest.raises(PawprintError, match="more than 5 files"):
        ingest(source, tmp_path / "data")
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MAX_PHOTOGRAPH", 100)
    with pytest.raises(PawprintError, match=r"a file of .* bytes \(`cat/0.jpg`\)"):
        ingest(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_another_checksum_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    source = zipped(tmp_path / "pets.zip", pets())
    with pytest.raises(PawprintError, match="another checksum"):
        ingest(source, tmp_path / "data", sha256="0" * 64)
    with pytest.raises(PawprintError, match="64 hexadecimal digits"):
        ingest(source, tmp_path / "data", sha256="abc")
