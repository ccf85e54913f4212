"""Pictures of something else: are they refused, or predicted as a class?

    measured = measure(classifier, strangers(Path("../strangers"), classifier))
    measured.accepted               # 0.013 [0.005, 0.034]

A folder of them is the measurement (`refusal.strangers`). Without one drawn shapes are a smoke test: almost every
method refuses shapes, stripes and noise, so they show that refusing works at all and rank nothing.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.evaluation.metrics import BATCH, Figure
from pawprint.files import Closed
from pawprint.inference.classifier import Classifier


class OODReport(Closed):
    """How many pictures of something else are predicted as a class."""

    pictures: int
    real: bool  # False: drawn shapes, a smoke test
    accepted: Figure | None  # share that is predicted as a class; None without pictures

    @property
    def kind(self) -> str:
        """What they are, in words."""
        return "strangers" if self.real else "drawn shapes (a smoke test)"


def measure(classifier: Classifier, pictures: NDArray[np.uint8], real: bool) -> OODReport:
    """`pictures` uint8 [m, size, size, 3] of something else."""
    batches = (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
    found = (classifier.predict(batch, maps=False) for batch in batches)
    accepted = sum(not one.refusal for batch in found for one in classifier.decide(batch))
    share = Figure.share(accepted, len(pictures)) if len(pictures) else None
    return OODReport(pictures=len(pictures), real=real, accepted=share)


def clutter(count: int, seed: int, size: int = image.SIZE) -> NDArray[np.uint8]:
    """Pictures of nothing in particular, uint8 [count, size, size, 3]; each depends on its own number and the seed."""
    pictures = [_clutter(np.random.default_rng([seed, number]), size) for number in range(count)]
    return np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)


def _clutter(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    coarse = rng.uniform(0, 255, (int(rng.integers(1, 24)),) * 2 + (3,)).astype(np.float32)
    smooth = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_NEAREST
    canvas = cv2.resize(coarse, (size, size), interpolation=smooth).clip(0, 255)
    for _ in range(rng.integers(0, 16)):
        colour = tuple(float(level) for level in rng.uniform(0, 255, 3))
        a, b = (tuple(int(place) for place in rng.integers(0, size, 2)) for _ in range(2))
        match rng.integers(3):
            case 0:
                cv2.rectangle(canvas, a, b, colour, -1)
            case 1:
                cv2.line(canvas, a, b, colour, int(rng.integers(1, 20)))
            case _:
                cv2.circle(canvas, a, int(rng.integers(5, 80)), colour, int(rng.choice([-1, 3])))
    canvas = canvas + rng.normal(0, rng.uniform(0, 25), canvas.shape)
    return np.asarray(canvas.clip(0, 255).astype(np.uint8))
