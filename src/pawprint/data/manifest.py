"""The manifest of a prepared set: a Parquet file with a row a photograph, held by column.

write(Path("prepared/manifest.parquet"), rows)      # ManifestRows, sorted by hash
rows = read(Path("prepared/manifest.parquet"))      # a sequence of ManifestRow; read by column where it is needed
test = rows.of_splits("test")
digest(rows)                                        # of what the rows say, wherever the photographs lie
"""

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pawprint.errors import PawprintError
from pawprint.lineage import sha256

VERSION = 5  # of the columns below. Before version 5 it was manifest.csv
FILE = "manifest.parquet"
REJECTED = "rejected"  # in place of a split
GROUP = 65_536  # rows that are written, or turned into Python's objects, at a time
LAYOUT = ("shard", "offset")  # where a photograph lies; no part of the digest


class ManifestRow(NamedTuple):
    """A photograph in the manifest; the fields are its columns. A rejected one has no place in a shard."""

    hash: str  # SHA-256 of the original bytes, in hex (32 bytes in the file)
    label: str
    split: str
    shard: str
    offset: int  # of the JPEG in the shard
    length: int
    crc32: str  # of the member, in hex (a number in the file)
    origin: str  # path below data/
    flags: str
    phash: str  # perceptual hash, in hex (18 bytes in the file)
    reason: str = ""  # why it is rejected: a short code
    group: str = ""  # what it shares a split with; "": it is by itself

    @property
    def unit(self) -> str:
        """What is drawn into a split or a fold as one: its group, or the photograph itself."""
        return self.group or self.hash


_few = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("hash", pa.binary()), ("label", _few), ("split", _few), ("shard", _few), ("offset", pa.uint32()),
        ("length", pa.uint32()), ("crc32", pa.uint32()), ("origin", pa.string()), ("flags", _few),
        ("phash", pa.binary()), ("reason", _few), ("group", pa.string()),
    ],
    metadata={"pawprint.manifest": str(VERSION)},
)  # fmt: skip


class Rows(Sequence[ManifestRow]):
    """Rows by column. A column is read when it is first asked for, a row is made when it is."""

    def __init__(self, column: Callable[[str], Any], places: NDArray[np.int32]) -> None:
        self._column, self._places = column, places

    @classmethod
    def of(cls, rows: Iterable[ManifestRow]) -> "Rows":
        if isinstance(rows, Rows):
            return rows
        table = pa.Table.from_batches(_batches(rows), SCHEMA).unify_dictionaries()
        return cls(table.column, np.arange(table.num_rows, dtype=np.int32))

    def column(self, name: str, indices: Sequence[int] | NDArray[np.int64] | None = None) -> Any:
        """A column as it is in the file (pyarrow), of all rows or those at `indices`."""
        places = self._places if indices is None else self._places[np.asarray(indices, np.int64)]
        return self._column(name).take(pa.array(places))

    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of the original bytes, in hex."""
        return tuple(value.hex() for value in self.column("hash").to_pylist())

    def of_splits(self, *names: str) -> Self:
        inside = pc.is_in(self.column("split").cast(pa.string()), value_set=pa.array(names))
        return type(self)(self._column, self._places[inside.to_numpy(zero_copy_only=False)])

    def at(self, indices: Iterable[int] | NDArray[np.int64]) -> Self:
        """The rows at these indices, in their order."""
        return type(self)(self._column, self._places[np.fromiter(indices, np.int64)])

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[ManifestRow]:
        for start in range(0, len(self), GROUP):
            columns = (_values(self, name, start) for name in ManifestRow._fields)
            yield from map(ManifestRow._make, zip(*columns, strict=True))

    @overload
    def __getitem__(self, index: int) -> ManifestRow: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "ManifestRow | Rows":
        if isinstance(index, slice):
            return type(self)(self._column, self._places[index])
        place = int(self._places[index])
        return ManifestRow._make(_value(name, self._column(name)[place].as_py()) for name in ManifestRow._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _values(rows: Rows, name: str, start: int) -> list[Any]:
    """The values of a column as ManifestRow has them, GROUP of them from `start`."""
    values: list[Any] = rows.column(name, np.arange(start, min(start + GROUP, len(rows)))).to_pylist()
    return [_value(name, value) for value in values] if name in ("hash", "phash", "crc32") else values


def _value(name: str, value: Any) -> Any:
    if name in ("hash", "phash"):
        return value.hex()
    if name == "crc32":
        return "" if value is None else f"{value:08x}"
    return value


def write(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write manifest.parquet; rows are sorted by hash."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for batch in _batches(rows):
            writer.write_batch(batch)


def read(path: Path) -> Rows:
    """Read a manifest, or manifest.csv of a model of before; PawprintError where it is missing or damaged."""
    try:
        if path.suffix == ".csv":
            return Rows.of(_read_csv(path))
        file = pq.ParquetFile(path, read_dictionary=[one.name for one in SCHEMA if one.type == _few])
        if (file.schema_arrow.metadata or {}).get(b"pawprint.manifest") != str(VERSION).encode():
            raise ValueError("another version")
    except (OSError, ValueError, TypeError, IndexError, StopIteration):  # pyarrow's errors are ValueErrors
        raise PawprintError(
            f"{path} is missing, damaged or from another version of pawprint. Run `dvc repro preprocess`."
        ) from None

    @cache
    def read_column(name: str) -> Any:
        try:
            # One column is no work for a second thread, and pyarrow's threads keep what they read until the next task.
            found = file.read([name], use_threads=False).unify_dictionaries().column(name)
            # In one piece rows are found sooner; strings are not: a piece of them has 2 GB at most.
            whole = found.type == _few or pa.types.is_integer(found.type)
            return pa.chunked_array([found.combine_chunks()]) if whole else found
        except (OSError, ValueError) as error:
            raise PawprintError(f"{path} is damaged ({error}). Run `dvc repro preprocess`.") from None

    one_at_a_time = Lock()  # two threads that read one ParquetFile hang, or crash the process

    def column(name: str) -> Any:
        with one_at_a_time:
            return read_column(name)

    return Rows(column, np.arange(file.metadata.num_rows, dtype=np.int32))


def digest(rows: Rows) -> str:
    """SHA-256 of what the rows say of the photographs; in which shards they lie is left out.

    Column by column, of GROUP rows at a time: the lengths of the values as 64-bit numbers, then the values; of numbers
    32 bits each.
    """
    found = hashlib.sha256()
    for name in (name for name in ManifestRow._fields if name not in LAYOUT):
        for start in range(0, len(rows), GROUP):
            values = rows.column(name, np.arange(start, min(start + GROUP, len(rows))))
            if pa.types.is_integer(values.type):
                found.update(values.fill_null(0).to_numpy().astype("<u4").tobytes())
                continue
            whole = (values.cast(pa.string()) if values.type == _few else values).cast(pa.large_binary())
            _, ends, data = whole.combine_chunks().buffers()
            found.update(np.diff(np.frombuffer(ends, "<i8")[: len(whole) + 1]).tobytes())
            found.update(data or b"")
    return found.hexdigest()


def is_manifest(path: Path, expected: str) -> bool:
    """Is this the manifest that a lineage names as `expected`? Of manifest.csv it names the file's own SHA-256."""
    if not path.is_file():
        return False
    if path.suffix == ".csv":
        return sha256(path) == expected
    try:
        return digest(read(path)) == expected
    except PawprintError:
        return False


def learned_hashes(manifest: Path) -> frozenset[str]:
    """SHA-256 of the photographs that a training on this manifest learns from or is tuned on."""
    return frozenset(read(manifest).of_splits("train", "validation").hashes())


def _batches(rows: Iterable[ManifestRow]) -> Iterator[Any]:
    rows = iter(rows)
    while group := list(islice(rows, GROUP)):
        columns = dict(zip(ManifestRow._fields, zip(*group, strict=True), strict=True))
        for name in ("hash", "phash"):
            columns[name] = tuple(bytes.fromhex(value) for value in columns[name])
        columns["crc32"] = tuple(int(value, 16) if value else None for value in columns["crc32"])
        yield pa.record_batch([pa.array(columns[one.name], one.type) for one in SCHEMA], schema=SCHEMA)


def _read_csv(path: Path) -> Iterator[ManifestRow]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        columns = ManifestRow._fields
        if tuple(next(reader)) not in (columns, columns[:-1], columns[:-2]):  # version 3 had no group, 2 no reason
            raise ValueError("other columns")
        for row in reader:
            yield ManifestRow(*row[:4], int(row[4]), int(row[5]), *row[6:])  # type: ignore[call-arg, arg-type]
