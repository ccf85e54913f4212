"""Which side a photograph falls on: a function of its own content and the seed, so that it never moves.

    side_of("9f86d0...", seed=2017, split=params.split)     # "train" | "validation" | "test"

Adding or removing other photographs changes nothing for this one.
"""

import hashlib
from typing import Literal, get_args

from pawprint.params import Split

SideName = Literal["train", "validation", "test"]
SIDES: tuple[SideName, ...] = get_args(SideName)


def side_of(photograph_hash: str, seed: int, split: Split) -> SideName:
    """The side of the photograph with this content hash (hex)."""
    draw = hashlib.sha256(f"{photograph_hash}:{seed}".encode()).digest()
    place = int.from_bytes(draw[:8], "big") / 2**64  # uniform in [0, 1)
    if place < split.train:
        return "train"
    return "validation" if place < split.train + split.validation else "test"
