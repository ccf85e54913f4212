"""Corrupted photographs: how much accuracy each corruption costs.

    for name, pixels in corrupt(split.images(range(100)), seed=2017):   # uint8 [100, size, size, 3]
        classifier.predict(pixels)

The kinds follow Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions (2019), at
one strength each.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pawprint.data.dataset import Split
from pawprint.evaluation import intervals
from pawprint.evaluation.metrics import Figure
from pawprint.files import Closed
from pawprint.inference.classifier import Classifier


class CorruptionReport(Closed):
    """Accuracy on a part of the test photographs, as they are and corrupted."""

    photographs: int
    accuracy: float  # as they are
    under: dict[str, float]  # accuracy by corruption
    lost: dict[str, Figure]  # accuracy lost by corruption: paired, 95 % for all of them together (Bonferroni)

    @property
    def worst(self) -> tuple[str, Figure] | None:
        """(corruption, accuracy lost) of the worst; None where nothing was measured."""
        return max(self.lost.items(), key=lambda one: one[1].value, default=None)


class Corruptions:
    """The first `most` photographs of a split under every corruption, made once for all models.

    A split is sorted by content hash, so the first ones are a fair sample of it. 100 photographs take 216 MB.
    """

    def __init__(self, split: Split, most: int, seed: int) -> None:
        plain = split.images(range(min(most, len(split))))
        self.labels = split.labels[: len(plain)]
        self.pictures = {"none": plain, **dict(corrupt(plain, seed))}

    def measure(self, classifier: Classifier) -> CorruptionReport:
        n = len(self.labels)
        if not n:
            return CorruptionReport(photographs=0, accuracy=0.0, under={}, lost={})
        right = {
            name: classifier.predict(pixels, maps=False).probabilities.argmax(axis=1) == self.labels
            for name, pixels in self.pictures.items()
        }
        plain = right.pop("none")
        level = 1 - (1 - intervals.LEVEL) / len(right)
        lost = {}
        for name, under in right.items():
            counts = int((plain & ~under).sum()), int((under & ~plain).sum())
            lost[name] = Figure.of((counts[0] - counts[1]) / n, intervals.paired_proportions(*counts, n, level))
        accuracy = {name: float(under.mean()) for name, under in right.items()}
        return CorruptionReport(photographs=n, accuracy=float(plain.mean()), under=accuracy, lost=lost)


def corrupt(pixels: NDArray[np.uint8], seed: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name, uint8 [n, size, size, 3]) under each corruption; the same from the same seed."""
    # Imported here: the gate's arithmetic and the tables need none of it. Where torch is not loaded yet, albumentations
    # is kept from loading it for a transform that is not used here: seconds of every evaluation.
    if "torch" not in sys.modules:
        sys.modules.setdefault("albumentations.pytorch", None)  # type: ignore[arg-type]  # None: cannot be imported
    import albumentations as a

    size = pixels.shape[1]
    kinds: dict[str, Sequence[a.BasicTransform]] = {
        "JPEG quality 30": [a.ImageCompression(quality_range=(30, 30), p=1)],
        "blur": [a.GaussianBlur(sigma_limit=(2, 2), blur_limit=0, p=1)],
        "noise": [a.GaussNoise(std_range=(0.1, 0.1), p=1)],
        "low light": [a.RandomGamma(gamma_limit=(220, 220), p=1), a.MultiplicativeNoise((0.5, 0.5), p=1)],
        "rotation by 15 degrees": [a.Rotate(limit=(15, 15), border_mode=1, p=1)],
        "half size": [a.Resize(size // 2, size // 2), a.Resize(size, size)],
        "grayscale": [a.ToGray(p=1)],
    }
    for name, steps in kinds.items():
        change = a.Compose(steps, seed=seed)
        yield name, np.stack([change(image=one)["image"] for one in pixels]) if len(pixels) else pixels
