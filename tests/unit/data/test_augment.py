"""Augmentation draws each of its changes by itself, and again the same from the same seed, epoch and photograph."""

import numpy as np
import pytest

from pawprint.data.augment import AUGMENTATIONS, augment

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)


def test_changes_are_independent_of_each_other() -> None:
    """Of 200 photographs a share of (1 - p)(1 - p) / 2 stays as it is, and as large a share is mirrored alone."""
    vary = augment("standard", seed=2017, epoch=1)
    assert vary is not None
    spec = AUGMENTATIONS["standard"]
    varied = [vary(PIXELS, str(number)) for number in range(200)]
    expected = 200 * (1 - spec.rotate_chance) * (1 - spec.colour_chance) / 2
    for plain in (PIXELS, PIXELS[:, ::-1]):
        assert abs(sum(np.array_equal(one, plain) for one in varied) - expected) <= 4 * expected**0.5


@pytest.mark.parametrize("kind", ["standard", "strong"])
def test_the_same_photograph_in_the_same_epoch_is_changed_alike(kind: str) -> None:
    first, again = (augment(kind, 2017, 1) for _ in range(2))  # type: ignore[arg-type]
    assert first is not None and again is not None
    first(PIXELS, "another")
    np.testing.assert_array_equal(first(PIXELS, "one"), again(PIXELS, "one"))
