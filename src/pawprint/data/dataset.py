"""prepared/ -> pixels and labels, in any order.

data = PreparedDataset.open(Path("prepared"))
train = data.split("train")
train.images([0, 5, 7])          # uint8 [3, size, size, 3]
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pawprint import files, image
from pawprint.data import manifest
from pawprint.data.manifest import ManifestRow, Rows
from pawprint.data.splits import SPLITS, SplitName
from pawprint.errors import PawprintError
from pawprint.parallel import cores

Place = tuple[str, int, int]  # shard, offset and length of a JPEG


@dataclass(frozen=True)
class Split:
    """The photographs of one split, sorted by hash."""

    name: str
    classes: tuple[str, ...]
    rows: Rows = field(repr=False)
    shards: Path = field(repr=False)
    size: int = image.SIZE  # pixels a side

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of the original bytes."""
        return self.rows.hashes()

    @cached_property
    def origins(self) -> tuple[str, ...]:
        """Paths below data/."""
        return tuple(self.rows.column("origin").to_pylist())

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Indices into `classes`, [n]."""
        return self.labels_among(self.classes)

    def labels_among(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Indices into other classes, [n]; ValueError where a photograph's class is not among them."""
        found = pc.index_in(self.rows.column("label").cast(pa.string()), value_set=pa.array(classes))
        if found.null_count:
            raise ValueError(f"photographs are of a class that is not among {', '.join(classes)}")
        return np.asarray(found.to_numpy(), np.int64)

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels of the photographs at `indices`: uint8 RGB [k, size, size, 3]."""
        return read(self.shards, self.places(indices), self.size, self._pool.map if len(indices) >= 8 else map)

    def places(self, indices: Sequence[int] | NDArray[np.int64]) -> list[Place]:
        # not by to_pylist, which takes six times as long
        columns = (self.rows.column(name, indices).to_numpy() for name in ("shard", "offset", "length"))
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def only(self, keep: Collection[str]) -> "Split":
        """The photographs whose hash is in `keep`, in the same order."""
        return replace(self, rows=self.rows.at(place for place, name in enumerate(self.hashes) if name in keep))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(cores(), thread_name_prefix="unpack")


def read(
    shards: Path, places: Sequence[Place], size: int, each: Callable[..., Iterator[None]] = map
) -> NDArray[np.uint8]:
    """Pixels of the photographs at `places` of the folder `shards`: uint8 RGB [k, size, size, 3]."""
    out = np.empty((len(places), size, size, 3), np.uint8)

    def work(number: int) -> None:
        shard, offset, length = places[number]
        out[number] = image.unpack(files.read_range(shards / shard, offset, length))

    list(each(work, range(len(places))))
    return out


@dataclass(frozen=True)
class PreparedDataset:
    """The output of preprocess."""

    folder: Path
    dataset: str
    drawn: bool
    classes: tuple[str, ...]
    own_test: int  # photographs of the source's own test split, where `split.keep_test` keeps it; else 0
    groups: int  # of photographs that stay on one split
    rows: Sequence[ManifestRow] = field(repr=False)  # of the three splits
    size: int = image.SIZE  # pixels a side of a photograph
    data_hash: str = ""  # DVC's, of the photographs that it was made from; "" where that is not known

    @classmethod
    def open(cls, folder: Path) -> Self:
        """PawprintError where `folder` is missing, incomplete or of another version."""
        rows = manifest.read(folder / manifest.FILE)
        try:
            report = json.loads((folder / "report.json").read_bytes())
            if report["schema_version"] != manifest.VERSION:
                raise ValueError("another version")
            about = report["dataset"], report["drawn"], tuple(report["classes"]), report["own_test"], report["groups"]
        except (OSError, ValueError, KeyError, TypeError):
            raise PawprintError(
                f"{folder}/ is missing, damaged or from another version of pawprint. Run `dvc repro preprocess`."
            ) from None
        return cls(folder, *about, rows.of_splits(*SPLITS), report.get("size", image.SIZE), report.get("data_hash", ""))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the manifest says of all photographs, rejected ones too."""
        return manifest.digest(manifest.read(self.folder / manifest.FILE))

    def split(self, name: SplitName) -> Split:
        return Split(name, self.classes, Rows.of(self.rows).of_splits(name), self.folder / "shards", self.size)
