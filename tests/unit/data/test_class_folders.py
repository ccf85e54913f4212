"""The content of data/: its name, its classes, and what is wrong with it."""

import os
from pathlib import Path

import pytest

from pawprint.data.class_folders import dataset
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from photo_sources import folders

DAMAGED = ("[]", "{", '{"name": 3}', '{"name": "../up"}', "\xff")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_dataset_json_is_named(tmp_path: Path, text: str) -> None:
    data = folders(tmp_path / "data", cat=1, dog=1)
    (data / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PawprintError, match=r"dataset\.json is damaged"):
        dataset(data)


def test_data_that_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="is missing"):
        dataset(tmp_path / "data")
    (tmp_path / "data").mkdir()
    with pytest.raises(PawprintError, match="two classes"):
        dataset(tmp_path / "data")
    folders(tmp_path / "data", cat=1)
    with pytest.raises(PawprintError, match="only `cat`"):
        dataset(tmp_path / "data")
    (tmp_path / "data" / "dog").mkdir()
    with pytest.raises(PawprintError, match="dog/ holds no photographs"):
        dataset(tmp_path / "data")
    folders(tmp_path / "other", cat=1, unknown=1)
    with pytest.raises(PawprintError, match="a class `unknown`, which is the answer"):
        dataset(tmp_path / "other")


def test_links_that_dvc_does_not_follow_and_folders_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    big = folders(tmp_path / "big", cat=1, dog=1)
    (tmp_path / "data").symlink_to(big)
    with pytest.raises(PawprintError, match=r"data is a link to .*big, and DVC versions no folder behind a link"):
        dataset(tmp_path / "data")
    with pytest.raises(PawprintError, match="data is a link"):
        ingest(folders(tmp_path / "pets", cat=1, dog=1), tmp_path / "data")
    assert (tmp_path / "data").is_symlink()
    (tmp_path / "data").unlink()
    assert ingest(tmp_path / "pets", tmp_path / "data").added == 2
    (tmp_path / "data" / "fox").symlink_to(big / "cat")
    with pytest.raises(PawprintError, match="fox is a link"):
        dataset(tmp_path / "data")
    assert not ingest(tmp_path / "big", tmp_path / "data").undecided  # and no import is blocked by it
    assert dataset(tmp_path / "data").classes == ("cat", "dog")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", cat=1, dog=1)
    (data / "cat").chmod(0)
    with pytest.raises(PawprintError, match="cat cannot be read"):
        dataset(data)


def test_what_macos_puts_into_a_folder_is_no_class_and_no_photograph(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", cat=2, dog=1, __MACOSX=3)
    (data / "cat" / "._0.jpg").write_bytes(b"x")
    found = dataset(data)
    assert (found.classes, len(found.photographs)) == (("cat", "dog"), 3)
