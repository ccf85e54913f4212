"""What is read from a picture's bytes before it is decoded: no bytes make it fail."""

import random
from contextlib import suppress

import pytest

import hostile
import mutations
from pawprint.image import BadImage
from pawprint.serving import structure

SEEDS = mutations.picture_seeds()


def read(data: bytes) -> None:
    """All that the service reads of a picture; BadImage is the one error that it may raise."""
    structure.is_quick(data)
    structure.memory(data)
    with suppress(BadImage):
        structure.check(data)


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_picture_that_ends_anywhere_is_read(number: int) -> None:
    _, seed = SEEDS[number]
    for end in range(min(len(seed), 700)):
        read(seed[:end])


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_mutated_pictures_are_read(number: int) -> None:
    mutate, seed = SEEDS[number]
    rng = random.Random(number)
    for _ in range(200):
        data = mutate(seed, rng)
        read(data)
        read(data[: rng.randrange(len(data) + 1)])


def test_a_jpeg_that_ends_in_its_frame_header_is_not_quick() -> None:
    assert structure.is_quick(hostile.photograph())
    assert not structure.is_quick(b"\xff\xd8\xff\xc0\x00\x11\x08\x00")
