"""The content of data/: its name, its classes, and what is wrong with it."""

from pathlib import Path

import pytest

from pawprint.data.class_folders import dataset
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
