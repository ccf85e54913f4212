"""Variations of a training photograph, by albumentations (the one place that imports it); the mirror needs none.

    vary = augment("standard", seed=2017, epoch=3)
    vary(pixels, photograph_hash)        # uint8 [300, 300, 3] -> the same shape

What a photograph becomes depends on the seed, the epoch and its own hash: not on its place in a batch.
"""

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pawprint import image

Pixels = NDArray[np.uint8]


def mirrored(seed: int, epoch: int, photograph_hash: str) -> bool:
    """Whether "flip" shows this photograph's mirror image in this epoch: half the time."""
    return hashlib.sha256(f"{seed}:{epoch}:{photograph_hash}".encode()).digest()[4] % 2 == 1


def augment(
    kind: Literal["none", "flip", "standard", "strong"], seed: int, epoch: int
) -> Callable[[Pixels, str], Pixels] | None:
    """The variation of an epoch; None for "none". "strong" is for a network from scratch."""
    if kind == "none":
        return None
    if kind == "flip":
        return lambda pixels, photograph_hash: pixels[:, ::-1] if mirrored(seed, epoch, photograph_hash) else pixels
    import albumentations

    steps = [albumentations.HorizontalFlip(p=0.5)]
    if kind == "standard":
        steps += [
            albumentations.Affine(scale=(0.85, 1.15), rotate=(-12, 12), translate_percent=(-0.06, 0.06), p=0.8),
            albumentations.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02, p=0.8),
        ]
    if kind == "strong":
        steps += [
            albumentations.RandomResizedCrop(size=(image.SIZE, image.SIZE), scale=(0.35, 1.0)),
            albumentations.Rotate(limit=10, p=0.5),
            albumentations.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.02, p=0.8),
        ]
    pipeline = albumentations.Compose(steps)

    def vary(pixels: Pixels, photograph_hash: str) -> Pixels:
        draw = hashlib.sha256(f"{seed}:{epoch}:{photograph_hash}".encode()).digest()
        pipeline.set_random_seed(int.from_bytes(draw[:4], "big"))
        varied: Pixels = pipeline(image=pixels)["image"]
        return varied

    return vary
