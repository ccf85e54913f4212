"""Augmentation of training photographs: one table, by albumentations on the CPU (training/gpu_dataloader.py on a GPU).

    vary = augment("standard", seed=2017, epoch=3)
    vary(pixels, photograph_hash)        # uint8 [size, size, 3] -> the same shape

The result depends on the seed, the epoch and the photograph's hash: not on its place in a batch.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pawprint import image

Pixels = NDArray[np.uint8]
Kind = Literal["none", "flip", "standard", "strong"]


@dataclass(frozen=True)
class Augmentation:
    """A mirror image half the time, then geometry (black beyond the border), then colour."""

    rotate: float  # degrees, at most
    rotate_chance: float  # of the rotation; of scale and shift too, where there is no crop
    colour: float  # brightness, contrast and saturation are multiplied by 1 +- this
    scale: tuple[float, float] = (1.0, 1.0)  # of each axis
    shift: float = 0.0  # share of the width and height, at most
    crop: tuple[float, float] | None = None  # share of the area (Szegedy et al., Going Deeper with Convolutions, 2014)
    ratio: tuple[float, float] = (0.75, 4 / 3)  # of the crop's sides
    colour_chance: float = 0.8
    hue: float = 0.02  # of a full turn


AUGMENTATIONS = {
    "standard": Augmentation(rotate=12, rotate_chance=0.8, colour=0.2, scale=(0.85, 1.15), shift=0.06),
    "strong": Augmentation(rotate=10, rotate_chance=0.5, colour=0.4, crop=(0.35, 1.0)),  # for training from scratch
}


def mirrored(seed: int, epoch: int, photograph_hash: str) -> bool:
    """Whether "flip" shows this photograph's mirror image in this epoch: half the time."""
    return hashlib.sha256(f"{seed}:{epoch}:{photograph_hash}".encode()).digest()[4] % 2 == 1


def augment(kind: Kind, seed: int, epoch: int, size: int = image.SIZE) -> Callable[[Pixels, str], Pixels] | None:
    """The augmentation of an epoch; None for "none"."""
    if kind == "none":
        return None
    if kind == "flip":
        return lambda pixels, photograph_hash: pixels[:, ::-1] if mirrored(seed, epoch, photograph_hash) else pixels
    import albumentations as A

    spec = AUGMENTATIONS[kind]
    if spec.crop:
        geometry = [
            A.RandomResizedCrop(size=(size, size), scale=spec.crop, ratio=spec.ratio),
            A.Rotate(limit=spec.rotate, p=spec.rotate_chance),
        ]
    else:
        shift = (-spec.shift, spec.shift)
        turn = (-spec.rotate, spec.rotate)
        geometry = [A.Affine(scale=spec.scale, rotate=turn, translate_percent=shift, p=spec.rotate_chance)]
    colour = A.ColorJitter(
        brightness=spec.colour, contrast=spec.colour, saturation=spec.colour, hue=spec.hue, p=spec.colour_chance
    )
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), *geometry, colour])

    def vary(pixels: Pixels, photograph_hash: str) -> Pixels:
        draw = hashlib.sha256(f"{seed}:{epoch}:{photograph_hash}".encode()).digest()
        seeds = np.random.SeedSequence(int.from_bytes(draw)).generate_state(len(pipeline.transforms))
        for transform, number in zip(pipeline.transforms, seeds, strict=True):
            transform.set_random_seed(int(number))  # the pipeline's own seed would make all draw the same numbers
        varied: Pixels = pipeline(image=pixels)["image"]
        return varied

    return vary
