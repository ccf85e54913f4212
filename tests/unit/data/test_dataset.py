"""The prepared set is read in any order and in any process; an old or damaged one is named."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from odd_pictures import photograph
from pawprint import image
from pawprint.config import load_params
from pawprint.data.build import prepare
from pawprint.data.class_folders import dataset
from pawprint.data.dataset import MANIFEST_VERSION, REJECTED, PreparedDataset, read_manifest
from pawprint.errors import PawprintError
from photo_sources import unpacked

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared set of 40 photographs."""
    names = {f"{'cat' if n % 2 else 'dog'}/{n}.jpg": photograph(n, width=120, height=90) for n in range(40)}
    data = unpacked(tmp_path / "data", names)
    prepare(dataset(data), data, tmp_path / "out", load_params(ROOT / "params.yaml"))
    return tmp_path / "out"


def test_read_gives_any_photograph_in_any_order_also_in_another_process(folder: Path) -> None:
    split = PreparedDataset.open(folder).split("train")
    order = np.random.default_rng(1).permutation(len(split))
    shuffled = split.images(order)
    for place, index in enumerate(order):
        original = (folder.parent / "data" / split.origins[index]).read_bytes()
        assert np.array_equal(shuffled[place], image.load(original))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for there in pool.starmap(_in_another_process, [(folder, order.tolist())] * 2):
            assert there == shuffled.sum()


def _in_another_process(folder: Path, order: list[int]) -> int:
    return int(PreparedDataset.open(folder).split("train").images(order).sum())


def test_a_manifest_of_an_older_version_is_named_with_what_to_do(folder: Path) -> None:
    """Before version 2 the columns were called `class`, `side` and `fingerprint`."""
    assert json.loads((folder / "report.json").read_text())["schema_version"] == MANIFEST_VERSION
    manifest = folder / "manifest.csv"
    header, *rows = manifest.read_text().splitlines(keepends=True)
    old = header.replace("label", "class").replace("split", "side").replace("phash", "fingerprint")
    manifest.write_text("".join([old, *rows]))
    with pytest.raises(PawprintError, match=r"another version of pawprint\. Run `dvc repro preprocess`"):
        PreparedDataset.open(folder)
    manifest.write_text("".join([header, *rows]))
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(report | {"schema_version": 1}))
    with pytest.raises(PawprintError, match=r"another version of pawprint\. Run `dvc repro preprocess`"):
        PreparedDataset.open(folder)


@pytest.mark.parametrize("name", ["manifest.csv", "report.json"])
def test_a_damaged_set_is_named_with_what_to_do(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(PawprintError, match=r"damaged.*dvc repro preprocess"):
        PreparedDataset.open(folder)
    (folder / name).unlink()
    with pytest.raises(PawprintError, match=r"missing.*dvc repro preprocess"):
        PreparedDataset.open(folder)


def test_rejected_photographs_are_in_the_manifest_with_their_reason_and_in_no_split(folder: Path) -> None:
    data = folder.parent / "data"
    (data / "cat" / "broken.jpg").write_bytes(b"no picture")
    (data / "dog" / "again.jpg").write_bytes((data / "dog" / "0.jpg").read_bytes())
    prepare(dataset(data), data, folder, load_params(ROOT / "params.yaml"))
    rejected = {row.origin: row for row in read_manifest(folder / "manifest.csv") if row.split == REJECTED}
    broken = rejected["cat/broken.jpg"]
    assert (broken.reason, broken.label) == ("not_an_image", "cat")
    assert broken.hash == hashlib.sha256(b"no picture").hexdigest()
    assert [row.reason for origin, row in rejected.items() if origin.startswith("dog/")] == ["copy"]
    again = PreparedDataset.open(folder)
    assert len(again.rows) == 40
    assert "" not in {row.shard for row in again.rows}


def test_the_manifest_of_a_model_of_before_is_read(folder: Path) -> None:
    """Version 2 had no column for the reason."""
    manifest = folder / "manifest.csv"
    rows = read_manifest(manifest)
    manifest.write_text("".join(line.rpartition(",")[0] + "\n" for line in manifest.read_text().splitlines()))
    assert read_manifest(manifest) == rows
