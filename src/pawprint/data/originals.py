"""The photographs of a split from their originals, as a model saw them that was trained with another `preprocess`.

prepared_as(data.split("test"), params.preprocess, root / "data").images([0])     # uint8 [1, size, size, 3]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.config import Preprocess
from pawprint.data.dataset import Split
from pawprint.data.inventory import Inventory


@dataclass(frozen=True)
class SplitOfOriginals(Split):
    """The photographs of a split, prepared as `how` says each time they are read."""

    data: Path = Path()  # where the originals are
    how: Preprocess = field(default_factory=Preprocess)

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels of the photographs at `indices`: uint8 RGB [k, size, size, 3]."""
        out, how = np.empty((len(indices), self.size, self.size, 3), np.uint8), self.how
        for number, index in enumerate(indices):
            path = self.data / self.origins[index]
            content = self._inventory.read(path) if self._inventory else path.read_bytes()
            out[number] = image.load(content, how.fit, how.quality, how.max_pixels, self.size)
        return out

    @cached_property
    def _inventory(self) -> Inventory | None:
        return Inventory.of(self.data)


def prepared_as(split: Split, how: Preprocess, data: Path) -> Split:
    """The same photographs, prepared from the originals in `data`."""
    return SplitOfOriginals(split.name, split.classes, split.rows, split.shards, how.size, data, how)
