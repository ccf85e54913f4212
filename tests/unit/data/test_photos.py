"""Photographs in: what is taken, what is refused, and that a refusal leaves data/ as it was."""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odd_pictures import photograph
from pawprint.config import SplitShares
from pawprint.data import ingest
from pawprint.data.splits import SPLITS, split_of
from pawprint.errors import PawprintError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def folders(root: Path, **classes: int) -> Path:
    """root/<class>/<n>.jpg."""
    for number, (kind, count) in enumerate(classes.items()):
        (root / kind).mkdir(parents=True)
        for index in range(count):
            (root / kind / f"{index}.jpg").write_bytes(photograph(1000 * number + index, width=60, height=40))
    return root


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
    taken = ingest.ingest(source, data).dataset
    assert (taken.name, taken.classes, taken.drawn) == ("dogs-cats", ("cat", "dog"), False)
    assert [kind for kind, _ in taken.photographs] == ["cat"] * 3 + ["dog"] * 3
    assert all(file.is_relative_to(data) and file.is_file() for _, file in taken.photographs)
    assert json.loads((data / "dataset.json").read_text())["name"] == "dogs-cats"
    assert not (data / "old").exists()
    assert [entry.name for entry in data.parent.iterdir()] == ["data"]


def test_a_folder_with_a_folder_a_class_keeps_any_number_of_classes(tmp_path: Path, data: Path) -> None:
    taken = ingest.ingest(folders(tmp_path / "My Flowers", rose=2, tulip=3, lily=1), data).dataset
    assert (taken.name, taken.classes) == ("my-flowers", ("lily", "rose", "tulip"))
    assert len(taken.photographs) == 6
    assert ingest.ingest(tmp_path / "My Flowers", data, name="garden").dataset.name == "garden"
    assert ingest.dataset(data).name == "garden"


REFUSED = {
    "nothing there": (lambda root: root / "nowhere.zip", "nowhere.zip does not exist"),
    "not an archive": (lambda root: zipped(root / "a.zip", {}).rename(root / "b.zip"), "b.zip"),
    "an archive of something else": (lambda root: zipped(root / "a.zip", {"readme.txt": b"hello"}), "a.zip"),
    "a single class": (lambda root: folders(root / "pets", cat=2), "two classes"),
    "a single class in a zip": (lambda root: zipped(root / "a.zip", {"train/cat.0.jpg": b"x"}), "two classes"),
    "an empty class": (lambda root: folders(root / "pets", cat=2, dog=0), "dog"),
    "a class of the reserved name": (lambda root: folders(root / "pets", cat=1, Unknown=2), "a class `Unknown`"),
    "an empty folder": (lambda root: folders(root / "pets"), "does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name_and_changes_nothing(tmp_path: Path, data: Path, name: str) -> None:
    make, said = REFUSED[name]
    before = contents(data)
    with pytest.raises(PawprintError, match=said):
        ingest.ingest(make(tmp_path), data)
    assert contents(data) == before
    assert [entry.name for entry in data.parent.iterdir()] == ["data"]


def test_a_name_that_is_none_is_refused(tmp_path: Path, data: Path) -> None:
    before = contents(data)
    with pytest.raises(PawprintError, match="cannot name a data set"):
        ingest.ingest(folders(tmp_path / "pets", cat=1, dog=1), data, name="My Pets!")
    assert contents(data) == before


DAMAGED = ("[]", "{", '{"name": 3}', '{"name": "../up"}', "\xff")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_dataset_json_is_named(data: Path, text: str) -> None:
    (data / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PawprintError, match=r"dataset\.json is damaged"):
        ingest.dataset(data)


def test_data_that_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="is missing"):
        ingest.dataset(tmp_path / "data")
    (tmp_path / "data").mkdir()
    with pytest.raises(PawprintError, match="two classes"):
        ingest.dataset(tmp_path / "data")
    folders(tmp_path / "data", cat=1)
    with pytest.raises(PawprintError, match="only `cat`"):
        ingest.dataset(tmp_path / "data")
    (tmp_path / "data" / "dog").mkdir()
    with pytest.raises(PawprintError, match="dog/ holds no photographs"):
        ingest.dataset(tmp_path / "data")
    folders(tmp_path / "other", cat=1, unknown=1)
    with pytest.raises(PawprintError, match="a class `unknown`, which is the answer"):
        ingest.dataset(tmp_path / "other")


HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
SPLIT = SplitShares()


@given(st.lists(HASHES, min_size=1, max_size=50, unique=True), st.data())
def test_a_side_depends_on_nothing_but_content_and_seed(hashes: list[str], data: st.DataObject) -> None:
    """Whatever else is there: the split of each is what it is alone."""
    some = data.draw(st.lists(st.sampled_from(hashes)))
    among_all = {one: split_of(one, 2017, SPLIT) for one in hashes}
    assert {one: split_of(one, 2017, SPLIT) for one in some} == {one: among_all[one] for one in some}


def test_the_shares_are_kept_and_another_seed_shuffles() -> None:
    hashes = [f"{number:064x}" for number in range(20_000)]
    splits = [split_of(one, 2017, SPLIT) for one in hashes]
    for split, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        assert abs(splits.count(split) / len(splits) - share) < 0.01
    assert [split_of(one, 2018, SPLIT) for one in hashes] != splits


def test_a_larger_training_share_takes_from_the_others_and_gives_nothing_back() -> None:
    wider = SplitShares(train=0.8, validation=0.1, test=0.1)
    hashes = [f"{number:064x}" for number in range(2000)]
    assert all(split_of(one, 7, wider) == "train" for one in hashes if split_of(one, 7, SPLIT) == "train")
