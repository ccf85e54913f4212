"""Photographs that stay in a bucket: a list of them is the set, and only what is new is read."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from tenacity import stop_after_attempt

from odd_pictures import photograph
from pawprint.config import Params, load_params
from pawprint.data import inventory, manifest
from pawprint.data.build import prepare
from pawprint.data.class_folders import INVENTORY
from pawprint.data.dataset import PreparedDataset
from pawprint.data.inventory import Inventory, dataset
from pawprint.errors import PawprintError
from s3_server import s3

SOURCE = "s3://photos/pets"


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder behind SOURCE: forty photographs, one that is none, and files that are no photographs."""
    folder = tmp_path / "buckets" / "photos" / "pets"
    for number in range(40):
        path = folder / ("cat", "dog")[number % 2] / "a b" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(number, width=120, height=90))
    (folder / "cat" / "broken.jpg").write_bytes(b"no photograph")
    (folder / "cat" / "notes.txt").write_text("no photograph")
    (folder / "readme.jpg").write_bytes(b"of no class")
    with s3(tmp_path / "buckets", monkeypatch):
        yield folder


def given() -> Params:
    loaded = load_params(Path(__file__).parents[3] / "params.yaml")
    return loaded.model_copy(update={"preprocess": loaded.preprocess.model_copy(update={"max_bad_share": 1.0})})


def test_a_list_of_a_bucket_is_prepared_as_its_folder_would_be_and_only_what_is_new_is_read(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    assert inventory.write(SOURCE, data, None, write_once=True) == 41
    assert sorted(path.name for path in data.iterdir()) == ["dataset.json", INVENTORY]
    found = dataset(data)
    assert (found.name, found.classes, len(found.photographs)) == ("pets", ("cat", "dog"), 41)
    report = prepare(found, data, out, given())
    assert [(one["path"], one["reason"]) for one in report["rejected"]] == [("cat/cat/broken.jpg", "not_an_image")]
    assert str(data / "cat") not in (out / "report.html").read_text()

    copied = tmp_path / "copied"
    shutil.copytree(pets, copied)
    (copied / "readme.jpg").unlink()
    (copied / "cat" / "notes.txt").unlink()
    prepare(dataset(copied), copied, tmp_path / "local", given())
    here, there = (PreparedDataset.open(folder) for folder in (out, tmp_path / "local"))
    assert [(row.hash, row.split, row.crc32) for row in here.rows] == [(r.hash, r.split, r.crc32) for r in there.rows]

    read: list[str] = []
    get = Inventory._get
    monkeypatch.setattr(Inventory, "_get", lambda self, where, version: read.append(where) or get(self, where, version))
    (pets / "dog" / "new.jpg").write_bytes(photograph(100, width=120, height=90))
    inventory.write(SOURCE, data, None, write_once=True)
    assert prepare(dataset(data), data, out, given())["photographs"] == 41
    # the rejected one has no member that could be used again
    assert sorted(set(read)) == [f"{SOURCE}/cat/broken.jpg", f"{SOURCE}/dog/new.jpg"]


def test_an_object_that_changed_or_is_gone_is_refused_by_name(pets: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    inventory.write(SOURCE, data, "my-pets", write_once=True)
    (pets / "dog" / "a b" / "7.jpg").write_bytes(photograph(900, width=120, height=90))
    with pytest.raises(PawprintError, match=r"s3://photos/pets/dog/a b/7.jpg has changed since .*photos inventory"):
        prepare(dataset(data), data, out, given())
    (pets / "dog" / "a b" / "7.jpg").unlink()
    with pytest.raises(PawprintError, match=r"s3://photos/pets/dog/a b/7.jpg is gone since"):
        prepare(dataset(data), data, out, given())
    assert not out.exists()
    inventory.write(SOURCE, data, "my-pets", write_once=True)
    assert prepare(dataset(data), data, out, given())["photographs"] == 39
    assert manifest.read(out / manifest.FILE)[0].origin.startswith(("cat/cat/", "dog/dog/"))


def test_a_bucket_without_versions_must_be_said_to_be_written_once(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match=r"bucket photos keeps no versions.*--write-once"):
        inventory.write(SOURCE, tmp_path / "data", None, write_once=False)
    for source, sentence in (
        ("s3://photos/pets/cat", "fewer than two folders"),
        ("s3://nowhere/pets", "cannot be listed"),
        ("pets", "is no folder of a bucket"),
    ):
        with pytest.raises(PawprintError, match=sentence):
            inventory.write(source, tmp_path / "data", None, write_once=True)
    assert not (tmp_path / "data").exists()


def test_a_bucket_that_cannot_be_reached_is_a_sentence(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    inventory.write(SOURCE, data, None, write_once=True)
    first = dataset(data).photographs[0][1]
    monkeypatch.setattr(inventory.Inventory._get.retry, "stop", stop_after_attempt(1))  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ACCESS_KEY_ID", "")):
        monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(PawprintError, match="cannot read s3://photos/pets/cat/a b/0"):
            Inventory(data).read(first)
        with pytest.raises(PawprintError, match="s3://photos/pets cannot be listed"):
            inventory.write(SOURCE, tmp_path / "again", None, write_once=True)


def test_an_inventory_of_other_columns_is_a_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["1.jpg"]}), tmp_path / INVENTORY)
    (tmp_path / "dataset.json").write_text('{"name": "pets", "source": "s3://photos/pets"}')
    with pytest.raises(PawprintError, match="no column label, size, etag, version"):
        dataset(tmp_path)


def test_objects_without_an_etag_are_refused_for_nothing_would_tell_a_changed_one() -> None:
    class Bucket:
        def call_s3(self, *_: str, **__: str) -> dict[str, object]:
            return {"Contents": [{"Key": "cat/1.jpg", "Size": 9, "ETag": '"a"'}, {"Key": "cat/2.jpg", "Size": 9}]}

    listed = inventory._listed(Bucket(), "pets", "", versions=False)
    assert next(listed).etag == "a"
    with pytest.raises(PawprintError, match=r"no ETag of cat/2\.jpg"):
        next(listed)
