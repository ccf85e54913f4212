"""Curves of an evaluation as CSV files, which `dvc plots show` draws and `dvc plots diff` lays over each other.

write(Path("reports/curves"), "mlp", {"train_loss": [(1, 0.7)], ...}, scores)
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from pawprint.evaluation.metrics import Scores
from pawprint.files import new_file


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
        _write(out / "loss" / f"{name}.csv", ("epoch", *learning), rows)

    truth = np.eye(len(scores.classes))[scores.labels]
    rates = roc_curve(truth.ravel(), scores.probabilities.ravel())  # micro-average: every class against the rest
    _write(out / "roc" / f"{name}.csv", ("false_positive_rate", "true_positive_rate"), zip(*rates[:2], strict=True))

    predicted = scores.probabilities.argmax(axis=1)
    pairs = ((scores.classes[a], scores.classes[b]) for a, b in zip(scores.labels, predicted, strict=True))
    _write(out / "confusion" / f"{name}.csv", ("class", "predicted"), pairs)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
