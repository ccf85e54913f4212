"""The prepared set is read in any order and in any process; an old or damaged one is named."""

import csv
import hashlib
import json
import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odd_pictures import photograph
from pawprint import image
from pawprint.config import load_params
from pawprint.data import manifest
from pawprint.data.build import prepare
from pawprint.data.class_folders import dataset
from pawprint.data.dataset import PreparedDataset
from pawprint.data.manifest import REJECTED, ManifestRow
from pawprint.data.originals import prepared_as
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


def test_a_manifest_of_another_version_is_named_with_what_to_do(folder: Path) -> None:
    path = folder / manifest.FILE
    good, report = path.read_bytes(), json.loads((folder / "report.json").read_text())
    assert report["schema_version"] == manifest.VERSION
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"pawprint.manifest": "6"}), path)
    with pytest.raises(PawprintError, match=r"another version of pawprint\. Run `dvc repro preprocess`"):
        PreparedDataset.open(folder)
    path.write_bytes(good)
    (folder / "report.json").write_text(json.dumps(report | {"schema_version": 1}))
    with pytest.raises(PawprintError, match=r"another version of pawprint\. Run `dvc repro preprocess`"):
        PreparedDataset.open(folder)


@pytest.mark.parametrize("name", ["manifest.parquet", "report.json"])
def test_a_damaged_set_is_named_with_what_to_do(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(PawprintError, match=r"damaged.*dvc repro preprocess"):
        PreparedDataset.open(folder)
    (folder / name).unlink()
    with pytest.raises(PawprintError, match=r"missing.*dvc repro preprocess"):
        PreparedDataset.open(folder)


def test_rejected_photographs_are_in_the_manifest_with_their_reason_and_in_no_split(folder: Path) -> None:
    data = folder.parent / "data"
    (data / "cat" / "broken.jpg").write_bytes(b"no photograph")
    (data / "dog" / "again.jpg").write_bytes((data / "dog" / "0.jpg").read_bytes())
    prepare(dataset(data), data, folder, load_params(ROOT / "params.yaml"))
    rejected = {row.origin: row for row in manifest.read(folder / manifest.FILE) if row.split == REJECTED}
    broken = rejected["cat/broken.jpg"]
    assert (broken.reason, broken.label) == ("not_an_image", "cat")
    assert broken.hash == hashlib.sha256(b"no photograph").hexdigest()
    assert [row.reason for origin, row in rejected.items() if origin.startswith("dog/")] == ["copy"]
    again = PreparedDataset.open(folder)
    assert len(again.rows) == 40
    assert "" not in {row.shard for row in again.rows}


@pytest.mark.parametrize("columns", [10, 11, 12])
def test_the_manifest_of_a_model_of_before_is_read(folder: Path, columns: int) -> None:
    """manifest.csv, in version 2 without a column for the reason; a lineage names it by the file's own digest."""
    rows, before = manifest.read(folder / manifest.FILE), folder / "manifest.csv"
    with before.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(row[:columns] for row in (ManifestRow._fields, *rows))
    assert list(manifest.read(before)) == list(rows)
    assert manifest.is_manifest(before, hashlib.sha256(before.read_bytes()).hexdigest())
    assert manifest.learned_hashes(before) == manifest.learned_hashes(folder / manifest.FILE)


def test_threads_may_share_a_manifest(folder: Path) -> None:
    """The first that needs a column reads it; two readers at once would hang or crash."""
    known = list(manifest.read(folder / manifest.FILE))
    for _ in range(30):
        rows = manifest.read(folder / manifest.FILE)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(rows.__getitem__, range(16)))
        assert found == known[:16]


def test_the_digest_is_of_the_photographs_and_not_of_their_places(folder: Path) -> None:
    rows = list(manifest.read(folder / manifest.FILE))
    moved, relabelled = folder / "moved.parquet", folder / "relabelled.parquet"
    manifest.write(moved, (row._replace(shard=f"{number}.tar", offset=0) for number, row in enumerate(rows)))
    manifest.write(relabelled, [rows[0]._replace(label="bird"), *rows[1:]])
    digest = PreparedDataset.open(folder).digest
    assert manifest.is_manifest(folder / manifest.FILE, digest)
    assert manifest.is_manifest(moved, digest)
    assert not manifest.is_manifest(relabelled, digest)
    assert not manifest.is_manifest(folder / "none.parquet", digest)


def test_any_number_of_rows_is_held_by_column(tmp_path: Path) -> None:
    """70,000 rows, more than are written at a time: three splits in 80 bytes a row."""
    places = {"train": 0.7, "validation": 0.15, "test": 0.15}
    rng, splits, n = random.Random(1), list(places), 70_000
    hashes = sorted(rng.randbytes(32).hex() for _ in range(n))
    chosen = rng.choices(splits, list(places.values()), k=n)
    rows = [
        ManifestRow(
            one, f"class {i % 1000}", chosen[i], f"{i // 1024:05}.tar", 512 * i, 25_000, "00ff00ff", f"a/{i}.jpg",
            "grey" if i % 50 == 0 else "", one[:36],
        )
        for i, one in enumerate(hashes)
    ]  # fmt: skip
    manifest.write(tmp_path / manifest.FILE, rows)
    before = pa.total_allocated_bytes()
    whole = manifest.read(tmp_path / manifest.FILE)
    parts = [whole.of_splits(name) for name in splits]
    for part in parts:
        for column in ("hash", "label", "shard", "offset", "length"):
            part.column(column, [0, len(part) - 1])
    assert (pa.total_allocated_bytes() - before + sum(part._places.nbytes for part in (whole, *parts))) / n < 80
    assert whole[66_000] == rows[66_000]
    assert whole[-1] == rows[-1]
    assert list(whole[65_530:65_540]) == rows[65_530:65_540]
    assert list(parts[2]) == [row for row in rows if row.split == "test"]
    assert parts[1].hashes() == tuple(row.hash for row in rows if row.split == "validation")
    assert [row.hash for row in parts[0].at([5, 3])] == [parts[0][5].hash, parts[0][3].hash]


def test_photographs_of_another_size_and_as_a_model_of_before_saw_them(folder: Path) -> None:
    params, data = load_params(ROOT / "params.yaml"), folder.parent / "data"
    how = params.preprocess.model_copy(update={"size": 224, "fit": "letterbox"})
    prepare(dataset(data), data, folder.parent / "other", params.model_copy(update={"preprocess": how}))
    before, now = (PreparedDataset.open(one).split("train") for one in (folder, folder.parent / "other"))
    assert now.images([0, 3, 5]).shape == (3, 224, 224, 3)
    again = prepared_as(now.only(now.hashes[:6]), params.preprocess, data)
    assert (again.images([0, 3, 5]) == before.images([0, 3, 5])).all()
    assert again.images([]).shape == (0, 300, 300, 3)
