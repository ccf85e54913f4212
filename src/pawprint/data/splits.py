"""Which split a photograph falls on: a function of its own content (or its group) and the seed: it never moves.

    split_of("9f86d0...", seed=2017, split=params.split)     # "train" | "validation" | "test"

Adding or removing other photographs changes nothing for this one.
"""

import hashlib
from typing import Literal, get_args

from pawprint.config import SplitShares

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


def split_of(
    photograph_hash: str, seed: int, shares: SplitShares, own_test: frozenset[str] = frozenset(), group: str = ""
) -> SplitName:
    """The split of the photograph with this content hash (hex), or of its `group`, where it is of one.

    `own_test` are the hashes of the source's own test photographs: with `keep_test` they are the test split, and the
    others are drawn into train and validation.
    """
    if shares.keep_test and photograph_hash in own_test:
        return "test"
    draw = hashlib.sha256(f"{group or photograph_hash}:{seed}".encode()).digest()
    place = int.from_bytes(draw[:8], "big") / 2**64  # uniform in [0, 1)
    if shares.keep_test and own_test:
        place *= shares.train + shares.validation
    if place < shares.train:
        return "train"
    return "validation" if place < shares.train + shares.validation else "test"


def draw(unit: str, seed: int, what: str) -> float:
    """A number in [0, 1) for a photograph, or a group of them, that depends on nothing else; `what` names the draw."""
    digest = hashlib.sha256(f"{unit}:{seed}:{what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
