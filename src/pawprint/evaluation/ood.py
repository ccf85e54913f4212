"""Out-of-distribution pictures: does the model predict `unknown`, or a class?

    measured = measure(classifier, scores, clutter(100, seed=2017))
    measured.auroc, measured.false_accept

The pictures are drawn: shapes, stripes, noise and gradients. They are easier than a real car or a plate of food, so
the figures are an upper bound and are shown as one.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import roc_auc_score

from pawprint import image
from pawprint.evaluation.metrics import Scores
from pawprint.inference.classifier import Classifier


class OODReport(BaseModel):
    """How well the OOD score separates the test photographs from drawn clutter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clutter: int  # pictures
    auroc: float | None  # of the kNN similarity
    confidence_auroc: float | None  # of the largest probability (Hendrycks and Gimpel, 2017)
    false_accept: float  # share of the clutter that is predicted as a class
    refused: float  # share of the test photographs that is predicted `unknown`


def measure(classifier: Classifier, scores: Scores, pictures: NDArray[np.uint8]) -> OODReport:
    """Drawn `pictures` uint8 [m, 300, 300, 3] against the test photographs of `scores`."""
    predictions, threshold = classifier.predict(pictures), classifier.info.ood_threshold
    return OODReport(
        clutter=len(pictures),
        auroc=_auroc(scores.knn_similarity, predictions.knn_similarity),
        confidence_auroc=_auroc(scores.probabilities.max(axis=1), predictions.probabilities.max(axis=1)),
        false_accept=float((predictions.knn_similarity >= threshold).mean()) if len(pictures) else 0.0,
        refused=float((scores.knn_similarity < threshold).mean()),
    )


def clutter(count: int, seed: int) -> NDArray[np.uint8]:
    """Pictures of nothing in particular, uint8 [count, 300, 300, 3]; each depends on its own number and the seed."""
    pictures = [_clutter(np.random.default_rng([seed, number])) for number in range(count)]
    return np.stack(pictures) if pictures else np.empty((0, image.SIZE, image.SIZE, 3), np.uint8)


def _clutter(rng: np.random.Generator) -> NDArray[np.uint8]:
    size = image.SIZE
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


def _auroc(photographs: NDArray[np.floating], clutter: NDArray[np.floating]) -> float | None:
    if not (len(photographs) and len(clutter)):
        return None
    truth = np.repeat([1, 0], [len(photographs), len(clutter)])
    return float(roc_auc_score(truth, np.concatenate([photographs, clutter])))
