"""Photographs that stay in a bucket: data/inventory.parquet names them, and DVC versions that file alone.

    write("s3://bucket/pets/", Path("data"), write_once=False)     # key, label, size, etag and version of each object
    found = Inventory.of(Path("data"))                             # None where photographs lie in data/ itself
    found.read(Path("data/cat/cat/1.jpg"))                         # the object's bytes, or PawprintError if it changed

A photograph's path below data/ is `<label>/<key>`; no such file exists. Keys are those below the inventory's source.
"""

import socket
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import tenacity

from pawprint import image
from pawprint.data import class_folders
from pawprint.data.class_folders import DATASET, INVENTORY, NAME, Dataset, description, refuse_name
from pawprint.errors import PawprintError
from pawprint.files import etag, file_system, hidden, recover, replace_folder, write_json

SCHEMA = pa.schema(
    [
        ("label", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("version", pa.string()),
    ]
)
SEEN = SCHEMA.append(pa.field("hash", pa.string()))  # of a prepared set: what each object's bytes were
GROUP = 65_536  # rows that are turned into Python's objects at a time


def _may_pass(error: BaseException) -> bool:
    from botocore.exceptions import NoCredentialsError

    return not isinstance(error, FileNotFoundError | PermissionError | NoCredentialsError)


retried = tenacity.retry(
    retry=tenacity.retry_if_exception(_may_pass),
    stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_exponential(max=10), reraise=True,
)  # fmt: skip


class Entry(NamedTuple):
    """An object of the bucket."""

    label: str
    key: str  # below the source
    size: int
    etag: str
    version: str  # "" in a bucket that is not versioned
    hash: str = ""  # SHA-256 of its bytes, where they were read


class Entries:
    """Rows of an inventory, sorted by label and key; one is made when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = [table.column(name).combine_chunks() for name in table.column_names]

    @classmethod
    def read(cls, path: Path) -> "Entries":
        """PawprintError where it is damaged or lacks a column."""
        try:
            table = pq.read_table(path, memory_map=True)
            names = [name for name in SEEN.names if name in table.column_names]
            if missing := [name for name in SCHEMA.names if name not in names]:
                raise ValueError(f"it has no column {', '.join(missing)}")
            table = table.select(names).sort_by([("label", "ascending"), ("key", "ascending")])
            return cls(table.cast(pa.schema([SEEN.field(name) for name in names])))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise PawprintError(f"{path} is no inventory: {error}. `pawprint photos inventory` makes one.") from None

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, place: int) -> Entry:
        label, key, size, etag, version, *seen = (column[place].as_py() for column in self._columns)
        return Entry(label, key, size or 0, etag or "", version or "", *seen)

    def names(self) -> Iterator[tuple[str, str]]:
        """(label, key) of each."""
        labels, keys = self._columns[:2]
        for start in range(0, len(self), GROUP):
            part = slice(start, start + GROUP)
            yield from zip(labels[part].to_pylist(), keys[part].to_pylist(), strict=True)

    def find(self, label: str, key: str) -> Entry | None:
        labels, keys = self._columns[:2]
        place = bisect_left(range(len(self)), (label, key), key=lambda at: (labels[at].as_py(), keys[at].as_py()))
        found = self[place] if place < len(self) else None
        return found if found and (found.label, found.key) == (label, key) else None


class Inventory:
    """The photographs of data/, where they lie in a bucket."""

    def __init__(self, data: Path) -> None:
        self.data, self.source = data, str(description(data).get("source", ""))
        if not self.source.startswith("s3://"):
            raise PawprintError(f'{data / DATASET} names no bucket. It should have "source": "s3://BUCKET/FOLDER".')
        self.entries = Entries.read(data / INVENTORY)

    @classmethod
    def of(cls, data: Path) -> "Inventory | None":
        """The inventory of data/; None where it has none."""
        return cls(data) if (data / INVENTORY).exists() else None

    def photographs(self) -> list[tuple[str, Path]]:
        """(class, path) of each, sorted by path."""
        found = [(label, self.data / label / key) for label, key in self.entries.names()]
        for label in sorted({label for label, _ in found}):
            refuse_name(label, str(self.data / INVENTORY))
        return found

    def entry(self, path: Path) -> Entry:
        label, _, key = path.relative_to(self.data).as_posix().partition("/")
        found = self.entries.find(label, key)
        assert found, path
        return found

    def read(self, path: Path) -> bytes:
        """The object's bytes; PawprintError where it has changed or is gone."""
        from botocore.exceptions import BotoCoreError

        entry = self.entry(path)
        where = f"{self.source.rstrip('/')}/{entry.key}"
        remedy = f"`pawprint photos inventory {self.source}` makes a new inventory, which is another version of the set"
        try:
            etag, content = self._get(where, entry.version)
        except FileNotFoundError:
            raise PawprintError(f"{where} is gone since the inventory was made. {remedy}.") from None
        except (OSError, BotoCoreError) as error:
            raise PawprintError(
                f"{socket.gethostname()} cannot read {where}: {error}. Run it again: what is done stays."
            ) from None
        if etag != entry.etag:
            raise PawprintError(
                f"{where} has changed since the inventory was made (etag {entry.etag}, now {etag}). {remedy}."
            )
        return content

    @retried
    def _get(self, where: str, version: str) -> tuple[str, bytes]:
        """(etag, content) by one request, so that they are of one object."""
        import fsspec.asyn

        bucket, _, key = where.removeprefix("s3://").partition("/")

        async def get() -> tuple[str, bytes]:
            given = {"VersionId": version} if version else {}
            answer = await self._system._call_s3("get_object", Bucket=bucket, Key=key, **given)
            async with answer["Body"] as body:
                return etag(answer), await body.read()

        tag, content = fsspec.asyn.sync(self._system.loop, get)
        return str(tag), bytes(content)

    @cached_property
    def _system(self) -> Any:
        return file_system(self.source)[0]


def dataset(data: Path) -> Dataset:
    """The set of data/, whose photographs are files or stay in a bucket. PawprintError as `class_folders.dataset`."""
    recover(data)
    if (found := Inventory.of(data)) is None:
        return class_folders.dataset(data)
    photographs, described = found.photographs(), description(data)
    classes = tuple(sorted({label for label, _ in photographs}))
    return Dataset(described.get("name", "photos"), bool(described.get("drawn", False)), classes, tuple(photographs))


def write(source: str, data: Path, name: str | None, write_once: bool) -> int:
    """Replace data/ by an inventory of the photographs below `source`; how many. A folder is a class.

    Raises:
        PawprintError: the bucket cannot be read, is neither versioned nor said to be written once, or has fewer than
            two classes.
    """
    from botocore.exceptions import BotoCoreError

    source = source.rstrip("/")
    bucket, _, folder = source.removeprefix("s3://").partition("/")
    if not source.startswith("s3://") or not bucket:
        raise PawprintError(f"{source} is no folder of a bucket. Name it like s3://BUCKET/FOLDER.")
    if name and not NAME.fullmatch(name):
        raise PawprintError(f"{name} is no name for a set. Use small letters, digits, dots and dashes.")
    prefix = f"{folder}/" if folder else ""
    system, _ = file_system(source)
    try:
        if not write_once and system.call_s3("get_bucket_versioning", Bucket=bucket).get("Status") != "Enabled":
            raise PawprintError(
                f"The bucket {bucket} keeps no versions, so an object that is replaced would be lost. Turn versioning "
                "on, or give --write-once where nothing in it is ever replaced (an object lock, a policy)."
            )
        found = sorted(_listed(system, bucket, prefix, versions=not write_once))
    except (OSError, BotoCoreError, NotImplementedError) as error:
        raise PawprintError(f"{source} cannot be listed: {error}.") from None
    if len({one.label for one in found}) < 2:
        raise PawprintError(f"{source} holds fewer than two folders of photographs. Each class needs one.")
    with replace_folder(data) as fresh:
        columns = zip(*(one[: len(SCHEMA)] for one in found), strict=True)
        table = pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
        pq.write_table(table, fresh / INVENTORY, compression="zstd")
        shown = name or PurePosixPath(folder or bucket).name.lower()
        write_json(fresh / DATASET, {"name": shown if NAME.fullmatch(shown) else "photos", "source": source})
    return len(found)


def remember(data: Path, hashes: Iterable[tuple[str, str]], out: Path) -> None:
    """Write the inventory of data/ with the hash of each photograph: (path below data/, SHA-256)."""
    known = dict(hashes)
    table = pq.read_table(data / INVENTORY, columns=SCHEMA.names)
    names = zip(table["label"].to_pylist(), table["key"].to_pylist(), strict=True)
    column = pa.array([known.get(f"{label}/{key}", "") for label, key in names], pa.string())
    pq.write_table(table.append_column("hash", column), out / INVENTORY, compression="zstd")


def _listed(system: Any, bucket: str, prefix: str, versions: bool) -> Iterator[Entry]:
    """The photographs of a bucket, as they are now."""
    method, part = ("list_object_versions", "Versions") if versions else ("list_objects_v2", "Contents")
    going_on: dict[str, str] = {}
    while True:
        page = system.call_s3(method, Bucket=bucket, Prefix=prefix, **going_on)
        for one in page.get(part, ()):
            key = one["Key"].removeprefix(prefix)
            path = PurePosixPath(key)
            if not one.get("IsLatest", True) or path.suffix.lower() not in image.IMAGE_SUFFIXES:
                continue
            if len(path.parts) > 1 and not any(hidden(name) for name in path.parts):
                if not (tag := etag(one)):
                    raise PawprintError(f"The bucket names no ETag of {one['Key']}, by which a change shows.")
                yield Entry(path.parts[0], key, one["Size"], tag, one["VersionId"] if versions else "")
        if not page.get("IsTruncated"):
            return
        going_on = (
            {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
            if versions
            else {"ContinuationToken": page["NextContinuationToken"]}
        )
