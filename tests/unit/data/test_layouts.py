"""Each layout that people bring is recognised by the paths of its files."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from odd_pictures import saved, two_colours
from pawprint.config import load_params
from pawprint.data import preprocess
from pawprint.data.class_folders import dataset
from pawprint.data.ingest import ingest
from photo_sources import KAGGLE, small, tarred, unpacked, zipped

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
