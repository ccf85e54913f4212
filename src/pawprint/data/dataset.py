"""prepared/ -> pixels and labels, in any order; and its manifest, a row a photograph.

data = PreparedDataset.open(Path("prepared"))
train = data.split("train")
train.images([0, 5, 7])          # uint8 [3, 300, 300, 3]
"""

import csv
import json
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pawprint import files, image
from pawprint.data.splits import SplitName
from pawprint.errors import PawprintError

MANIFEST_VERSION = 4  # of the columns below; report.json holds it. Version 3 had no group, version 2 no reason either
REJECTED = "rejected"  # in place of a split


class ManifestRow(NamedTuple):
    """A photograph in manifest.csv; the fields are its columns. A rejected one has no place in a shard."""

    hash: str  # SHA-256 of the original bytes
    label: str
    split: str
    shard: str
    offset: int  # of the JPEG in the shard
    length: int
    crc32: str  # of the member, in hex
    origin: str  # path below data/
    flags: str
    phash: str  # perceptual hash, in hex
    reason: str = ""  # why it is rejected: a short code
    group: str = ""  # what it shares a split with; "": it is by itself

    @property
    def unit(self) -> str:
        """What is drawn into a split or a fold as one: its group, or the photograph itself."""
        return self.group or self.hash


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write manifest.csv; rows are sorted by hash."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ManifestRow._fields)
        writer.writerows(rows)


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read manifest.csv, of this version or the one before; PawprintError where it is missing or damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            columns = ManifestRow._fields
            if tuple(next(reader)) not in (columns, columns[:-1], columns[:-2]):  # models of before have 2 or 3
                raise ValueError("other columns")
            return [ManifestRow(*row[:4], int(row[4]), int(row[5]), *row[6:]) for row in reader]  # type: ignore[call-arg, arg-type]
    except (OSError, ValueError, TypeError, IndexError, StopIteration):
        raise PawprintError(
            f"{path} is missing, damaged or from another version of pawprint. Run `dvc repro preprocess`."
        ) from None


def learned_hashes(manifest: Path) -> frozenset[str]:
    """SHA-256 of the photographs that a training on this manifest learns from or is tuned on."""
    return frozenset(row.hash for row in read_manifest(manifest) if row.split in ("train", "validation"))


@dataclass(frozen=True)
class Split:
    """The photographs of one split, sorted by hash."""

    name: str
    classes: tuple[str, ...]
    rows: tuple[ManifestRow, ...] = field(repr=False)
    _shards: Path = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of the original bytes."""
        return tuple(row.hash for row in self.rows)

    @cached_property
    def origins(self) -> tuple[str, ...]:
        """Paths below data/."""
        return tuple(row.origin for row in self.rows)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Indices into `classes`, [n]."""
        return np.array([self.classes.index(row.label) for row in self.rows], np.int64)

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels of the photographs at `indices`: uint8 RGB [k, 300, 300, 3]."""
        out = np.empty((len(indices), image.SIZE, image.SIZE, 3), np.uint8)

        def work(place: int) -> None:
            row = self.rows[indices[place]]
            out[place] = image.unpack(files.read_range(self._shards / row.shard, row.offset, row.length))

        list((self._pool.map if len(indices) >= 8 else map)(work, range(len(indices))))
        return out

    def only(self, keep: Collection[str]) -> "Split":
        """The photographs whose hash is in `keep`, in the same order."""
        return replace(self, rows=tuple(row for row in self.rows if row.hash in keep))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="unpack")


@dataclass(frozen=True)
class PreparedDataset:
    """The output of preprocess."""

    folder: Path
    manifest: Path
    dataset: str
    drawn: bool
    classes: tuple[str, ...]
    own_test: int  # photographs of the source's own test split, where `split.keep_test` keeps it; else 0
    groups: int  # of photographs that stay on one split
    rows: tuple[ManifestRow, ...] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """PawprintError where `folder` is missing, incomplete or of another version."""
        rows = tuple(row for row in read_manifest(folder / "manifest.csv") if row.split != REJECTED)
        try:
            report = json.loads((folder / "report.json").read_bytes())
            if report["schema_version"] != MANIFEST_VERSION:
                raise ValueError("another version")
            about = report["dataset"], report["drawn"], tuple(report["classes"]), report["own_test"], report["groups"]
        except (OSError, ValueError, KeyError, TypeError):
            raise PawprintError(
                f"{folder}/ is missing, damaged or from another version of pawprint. Run `dvc repro preprocess`."
            ) from None
        return cls(folder, folder / "manifest.csv", *about, rows)

    def split(self, name: SplitName) -> Split:
        """The photographs of a split."""
        rows = tuple(row for row in self.rows if row.split == name)
        return Split(name, self.classes, rows, self.folder / "shards")
