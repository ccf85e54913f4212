"""Curves of an evaluation as CSV files, which `dvc plots show` draws and `dvc plots diff` lays over each other.

write(Path("reports/curves"), "mlp", {"train_loss": [(1, 0.7)], ...}, scores)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix, roc_curve

from pawprint.evaluation.metrics import Scores, most_confused
from pawprint.files import write_csv

POINTS = 2000  # of a curve at most
NUMBERS = 20_000_000  # probabilities that it is drawn from at most; each takes 60 bytes while it is


def write(out: Path, name: str, learning: Mapping[str, Sequence[tuple[int, float]]], scores: Scores) -> None:
    """`<out>/{loss,roc,confusion}/<name>.csv` of one model.

    Args:
        learning: curve of a training -> (epoch, value).
        scores: the model's predictions on the test photographs.
    """
    by_epoch: dict[int, dict[str, float]] = {}
    for curve, points in learning.items():
        for epoch, value in points:
            by_epoch.setdefault(epoch, {})[curve] = value
    if by_epoch:  # a quantized model was not trained
        rows = [
            (epoch, *(f"{by_epoch[epoch].get(curve, np.nan):.6g}" for curve in learning)) for epoch in sorted(by_epoch)
        ]
        write_csv(out / "loss" / f"{name}.csv", [("epoch", *learning), *rows])

    some = slice(None, None, -(-scores.probabilities.size // NUMBERS))
    truth = np.arange(len(scores.classes)) == scores.labels[some, None]
    rates = roc_curve(truth.ravel(), scores.probabilities[some].ravel())  # micro-average: every class against the rest
    every = -(-len(rates[0]) // POINTS)
    thinned = (np.append(rate[:-1:every], rate[-1]) for rate in rates[:2])
    rows = [("false_positive_rate", "true_positive_rate"), *zip(*thinned, strict=True)]
    write_csv(out / "roc" / f"{name}.csv", rows)

    predicted = scores.probabilities.argmax(axis=1)
    shown = set(most_confused(confusion_matrix(scores.labels, predicted, labels=range(len(scores.classes)))).tolist())
    pairs = (
        (scores.classes[a], scores.classes[b])
        for a, b in zip(scores.labels.tolist(), predicted.tolist(), strict=True)
        if {a, b} <= shown
    )
    write_csv(out / "confusion" / f"{name}.csv", [("class", "predicted"), *pairs])
