"""Each layout that people bring is recognised by the paths of its files."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from odd_pictures import saved, two_colours
from pawprint.config import load_params
from pawprint.data import layouts, preprocess
from pawprint.data.class_folders import dataset
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from photo_sources import KAGGLE, pets, small, tarred, unpacked, zipped

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
    "Kaggle's, unpacked, with its test photographs": (
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
        "name": "images/Maine_Coon_12.jpg", "breed": "Maine_Coon", "split": "",
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


def paths(*groups: str, each: int = 5) -> list[str]:
    """`a/b*.jpg` -> a/b0.jpg, a/b1.jpg, ...; a name without `*` as it is."""
    return [group.replace("*", str(n)) for group in groups for n in range(each if "*" in group else 1)]


def both(*folders: str) -> tuple[str, ...]:
    """cat/ and dog/ in each of the folders."""
    return tuple(f"{folder}/{kind}/*.jpg" for folder in folders for kind in ("cat", "dog"))


PETS = {"cat", "dog"}
RIGHT: dict[str, tuple[list[str], set[str]]] = {
    "three class folders, one of them with numbered cats and dogs": (
        paths("rose/*.png", "tulip/*.png", "pets/cat.*.png", "pets/dog.*.png"), {"rose", "tulip", "pets"}
    ),
    "training_set and test_set": (paths(*both("pets/training_set", "pets/test_set")), PETS),
    "training_set, doubled": (paths(*both("training_set/training_set", "test_set/test_set")), PETS),
    "Intel's seg_train/seg_train": (
        paths("seg_train/seg_train/sea/*.jpg", "seg_train/seg_train/glacier/*.jpg", "seg_test/seg_test/sea/*.jpg",
              "seg_test/seg_test/glacier/*.jpg", "seg_pred/seg_pred/*.jpg"), {"sea", "glacier"}
    ),
    "train and dev": (paths(*both("train", "dev")), PETS),
    "train and val beside a stray folder": (paths(*both("x/train", "x/val"), "x/extra/1.jpg"), PETS),
    "a doubled top folder": (paths("flowers/flowers/rose/*.jpg", "flowers/flowers/lily/*.jpg"), {"rose", "lily"}),
    "the same set twice": (
        paths("f/rose/*.jpg", "f/lily/*.jpg", "f/f/rose/*.jpg", "f/f/lily/*.jpg"), {"rose", "lily"}
    ),
    "ILSVRC's": (
        paths("ILSVRC/Data/CLS-LOC/train/n01440764/*.JPEG", "ILSVRC/Data/CLS-LOC/train/n01443537/*.JPEG",
              "ILSVRC/Data/CLS-LOC/val/n01440764/*.JPEG", "ILSVRC/Annotations/CLS-LOC/val/*.xml",
              "ILSVRC/Data/CLS-LOC/test/*.JPEG"), {"n01440764", "n01443537"}
    ),
    "images beside labels": (paths(*both("images/train", "images/val"), "labels/train/cat/*.txt"), PETS),
    "__MACOSX": (paths(*both("x"), "__MACOSX/x/cat/._*.jpg", "x/cat/._*.jpg", "x/@eaDir/cat/*.jpg"), PETS),
    "a class's folder of splits": (paths("x/cat/train/*.jpg", "x/cat/test/*.jpg", "x/dog/train/*.jpg"), PETS),
    "images in each class": (paths("x/cat/images/*.jpg", "x/dog/images/*.jpg"), PETS),
    "MVTec's, with masks": (
        paths("bottle/train/good/*.png", "bottle/test/good/*.png", "bottle/test/broken/*.png",
              "bottle/ground_truth/broken/*_mask.png"), {"good", "broken"}
    ),
    "a class of masks": (paths("mask/*.jpg", "no_mask/*.jpg"), {"mask", "no_mask"}),
    "a class that is called like its set": (paths("cat/cat/*.jpg", "cat/dog/*.jpg"), PETS),
    "class and split in one name": (paths("x/train_cat/*.jpg", "x/test_cat/*.jpg", "x/training dog/*.jpg"), PETS),
    "the split behind the class": (paths("cat-Train/*.jpg", "cat-Val/*.jpg", "dogTrain/*.jpg"), PETS),
    "CycleGAN's": (paths("zoo/trainA/*.jpg", "zoo/trainB/*.jpg", "zoo/testA/*.jpg", "zoo/testB/*.jpg"), {"A", "B"}),
    "classes that begin like a split": (paths("train_station/*.jpg", "harbour/*.jpg"), {"train_station", "harbour"}),
    "two layouts side by side": (paths(*both("train2017", "val2017"), "test2017/*.jpg"), PETS),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_splits_containers_and_systems_files_are_no_classes(name: str) -> None:
    names, expected = RIGHT[name]
    found = layouts.recognise(names, "it")
    assert {one.label for one in found.photographs} == expected
    assert found.set_name == ""


ASKED: dict[str, tuple[list[str], str]] = {
    "years in classes": (paths("cat/2020/*.jpg", "cat/2021/*.jpg", "dog/2020/*.jpg"),
                         r"(?s)--layout top: 2 classes \(cat 10, dog 5\).*--layout parent: 2 classes \(2020 10"),
    "breeds in kinds": (paths("cats/siamese/*.jpg", "dogs/beagle/*.jpg"),
                        r"(?s)--layout top: 2 classes \(cats.*--layout parent: 2 classes \(beagle"),
    "a third lies beside the splits": (paths(*both("train"), "extra/*.jpg"), "5 of 15 photographs are of no class"),
    "splits without classes": (paths("images/train/*.jpg", "images/val/*.jpg", "labels/train/*.txt"), "of no class"),
    "splits without classes, in capitals": (paths("TrainImages/*.jpg", "TestImages/*.jpg"), "of no class"),
    "a table of labels": (paths("images/a*.jpg", "labels.csv"), "--labels labels.csv"),
    "a train among vehicles": (paths("train/*.jpg", "bus/*.jpg", "car/*.jpg"), "--layout parent: 3 classes"),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_where_two_layouts_fit_or_none_does_a_preview_names_the_option(name: str) -> None:
    names, output = ASKED[name]
    with pytest.raises(PawprintError, match=output):
        layouts.recognise(names, "it")


def test_pictures_of_one_folder_name_the_option_that_gives_classes(tmp_path: Path) -> None:
    table = b"file,label\n0.jpg,cat\n1.jpg,dog\n"
    for name, members, output in (
        (
            "tabled",
            {"images/0.jpg": small(70), "images/1.jpg": small(71), "about.tsv": table},
            "--labels tabled/about.tsv",
        ),
        ("named", {"cat_0.jpg": small(1), "dog_0.jpg": small(2)}, r"--layout names: 2 classes \(cat 1, dog 1\)"),
        ("plain", {"0.jpg": small(1), "1.jpg": small(2)}, "fewer than two classes: only `plain`. Known are"),
    ):
        source = unpacked(tmp_path / name, members)
        with pytest.raises(PawprintError, match=output):
            ingest(source, tmp_path / "data")
    ingest(unpacked(tmp_path / "pets", pets()), tmp_path / "data")
    with pytest.raises(PawprintError, match=r"(?s)only `tabled`, and .* has cat, dog.*--labels tabled/about\.tsv"):
        ingest(tmp_path / "tabled", tmp_path / "data", add=True)
    assert ingest(tmp_path / "tabled", tmp_path / "data", add=True, labels="tabled/about.tsv").added == 2


def test_the_option_decides() -> None:
    names = paths("cat/2020/*.jpg", "cat/2021/*.jpg", "dog/2020/*.jpg")
    assert layouts.recognise(names, "it", "top").counts() == "2 classes (cat 10, dog 5)"
    assert layouts.recognise(names, "it", "parent").counts() == "2 classes (2020 10, 2021 5)"
    named = paths("x/Abyssinian_*.jpg", "x/great danes (*).jpg", "x/cat.*.jpg")
    assert layouts.recognise(named, "it", "names").counts() == "3 classes (Abyssinian 5, cat 5, great danes 5)"


def test_a_table_of_labels_gives_the_classes(tmp_path: Path) -> None:
    table = b"id,width,breed\n" + b"".join(b"p%d,40,%s\n" % (n, (b"b/w", b"red")[n % 2]) for n in range(6))
    pictures = {f"train/p{n}.jpg": small(n) for n in range(7)}
    source = zipped(tmp_path / "dogs.zip", pictures | {"labels.csv": table.replace(b"b/w", b"brown")})
    taken = ingest(source, tmp_path / "data", labels="labels.csv")
    assert (taken.dataset.classes, taken.added, len(taken.ignored)) == (("brown", "red"), 6, 2)
    own = tmp_path / "mine.tsv"
    own.write_bytes(table.replace(b",", b"\t"))
    with pytest.raises(PawprintError, match=r"a class 'b/w', which has .* a slash"):
        ingest(source, tmp_path / "data", labels=str(own))
    for content, output in (
        (b"image,MEL,NV\np1,0.0,1.0\np2,1.0,0.0\n", "no table of labels.* a column `label`"),  # ISIC's, one-hot
        (b"file,class,x\np1.jpg,cat,0\np1.jpg,dog,9\np2.jpg,cat,1\n", r"more than one class to `p1\.jpg` \(1 in all"),
        (b"id,label\np1,cat\np2,dog\n", r"`p1` in the table of labels is `test/p1.jpg` or `train/p1.jpg`"),
    ):
        own.write_bytes(content)
        doubled = zipped(tmp_path / "doubled.zip", pictures | {"test/p1.jpg": small(9)})
        with pytest.raises(PawprintError, match=output):
            ingest(doubled, tmp_path / "data", labels=str(own))
    own.write_bytes(b"id,label\n" + b"".join(b"p%d,%s\n" % (n, ("猫", "狗狗")[n % 2].encode()) for n in range(900)))
    assert ingest(source, tmp_path / "data", labels=str(own)).dataset.classes == ("狗狗", "猫")
    with pytest.raises(PawprintError, match="no table of labels"):
        ingest(source, tmp_path / "data", labels="p1.jpg")


def test_a_source_s_own_splits_are_kept_with_the_origins(tmp_path: Path) -> None:
    data = tmp_path / "data"
    names = [f"{split}/{kind}/{n}.jpg" for split in ("train", "test_set") for kind in ("cat", "dog") for n in range(2)]
    taken = ingest(zipped(tmp_path / "p.zip", {name: small(n) for n, name in enumerate(names)}), data)
    assert "test 4, train 4" in taken.summary()
    with (data / "origins.csv").open(newline="") as file:
        assert {row["name"].split("/")[0]: row["split"] for row in csv.DictReader(file)} == {
            "train": "train", "test_set": "test",
        }  # fmt: skip
    names = [f"{split}_{kind}/1.jpg" for split in ("train", "test") for kind in ("a", "b")]
    halves = {name: small(n) for n, name in enumerate(names)}
    assert "test 2" in ingest(zipped(tmp_path / "h.zip", halves), data).summary()
    ingest(unpacked(tmp_path / "test", pets()), data)  # one folder that is called `test` is no split
    assert ",test\n" not in (data / "origins.csv").read_text()


def test_pictures_are_known_by_content_in_folders_and_archives(tmp_path: Path) -> None:
    members = {"cat/one": small(1), "cat/two.jpg_large": small(2), "dog/three.dat": small(3), "dog/four.md": b"no"}
    for source in (unpacked(tmp_path / "odd", members), zipped(tmp_path / "odd.zip", members),
                   tarred(tmp_path / "odd.tar.gz", members)):  # fmt: skip
        taken = ingest(source, tmp_path / f"to-{source.name}" / "data", name="odd")
        assert (taken.added, [Path(name).name for name in taken.ignored]) == (3, ["four.md"])
        assert taken.summary().endswith(f" Ignored: {taken.ignored[0]}.")
