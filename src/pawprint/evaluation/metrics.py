"""Scores of a model on photographs it has not learned from, each with a 95 % interval.

scores = score(Classifier(folder), data.side("test"))
evaluation = measure(scores, resamples=2000, seed=2017)
print(evaluation.accuracy)          # 0.994 [0.986, 0.997]
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats
from sklearn import metrics as sk

from pawprint.prepared.read import Side
from pawprint.runtime import Classifier

LEVEL = 0.95
BATCH = 32


@dataclass(frozen=True)
class Scores:
    """What a model said of each photograph of a side."""

    hashes: tuple[str, ...]
    origins: tuple[str, ...]
    labels: NDArray[np.int64]  # [n]
    probabilities: NDArray[np.float64]  # [n, classes], rows sum to one
    classes: tuple[str, ...]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[n], whether the most probable class is the right one."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)

    @property
    def losses(self) -> NDArray[np.float64]:
        """[n], minus the natural logarithm of the right class's probability."""
        right = self.probabilities[np.arange(len(self.labels)), self.labels]
        return np.asarray(-np.log(np.clip(right, 1e-15, 1.0)))

    def write(self, path: Path) -> None:
        """One line a photograph, for a person and for plots."""
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["photograph", "hash", "class", "predicted", *self.classes])
            for origin, digest, label, row in zip(
                self.origins, self.hashes, self.labels, self.probabilities, strict=True
            ):
                predicted = self.classes[int(row.argmax())]
                rows.writerow([origin, digest, self.classes[label], predicted, *(f"{p:.6f}" for p in row)])


class Figure(BaseModel):
    """A figure with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Evaluation(BaseModel):
    """One model on one set of photographs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photographs: int
    mistakes: int
    accuracy: Figure
    balanced_accuracy: Figure
    log_loss: Figure
    calibration_error: Figure
    f1: dict[str, Figure]  # by class
    auroc: Figure | None  # None where a class is not in these photographs
    confusion: list[list[int]]  # rows: right class, columns: predicted

    def flat(self, prefix: str) -> dict[str, float]:
        """`{"test_accuracy": ..., "test_accuracy_low": ..., ...}`: the names that MLflow shows."""
        named = {name: getattr(self, name) for name in ("accuracy", "balanced_accuracy", "log_loss", "auroc")}
        named["calibration_error"] = self.calibration_error
        named |= {f"f1_{label}": figure for label, figure in self.f1.items()}
        flat = {f"{prefix}_mistakes": float(self.mistakes), f"{prefix}_photographs": float(self.photographs)}
        for name, figure in named.items():
            if figure is not None:
                flat[f"{prefix}_{name}"] = figure.value
                flat[f"{prefix}_{name}_low"] = figure.low
                flat[f"{prefix}_{name}_high"] = figure.high
        return flat


def score(classifier: Classifier, side: Side) -> Scores:
    """Ask the model about every photograph of a side, through the runtime that will serve it."""
    rows = []
    for start in range(0, len(side), BATCH):
        indices = range(start, min(start + BATCH, len(side)))
        rows.append(classifier.predict(side.images(indices)).probabilities)
    classes = len(classifier.info.classes)
    probabilities = np.concatenate(rows) if rows else np.empty((0, classes), np.float32)
    return Scores(side.hashes, side.origins, side.labels, probabilities.astype(np.float64), side.classes)


def measure(scores: Scores, resamples: int, seed: int) -> Evaluation:
    """All figures of one model. Accuracy has Wilson's interval, which holds at 100 % too; the others have the
    percentile bootstrap's over photographs (Efron and Tibshirani, 1993)."""
    labels, probabilities = scores.labels, scores.probabilities
    n, k = probabilities.shape
    right = int(scores.correct.sum())
    wilson = stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, n, size=(resamples, n))

    def figure(statistic: Callable[[NDArray[np.int64]], float]) -> Figure:
        values = np.array([statistic(draw) for draw in draws])
        low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Figure(value=statistic(np.arange(n)), low=float(low), high=float(high))

    predicted = probabilities.argmax(axis=1)
    confidence, correct, losses = probabilities.max(axis=1), scores.correct, scores.losses
    one_hot = np.eye(k)[labels]
    said = np.eye(k)[predicted]

    def recall(draw: NDArray[np.int64]) -> float:
        hit = (one_hot[draw] * said[draw]).sum(axis=0)
        there = one_hot[draw].sum(axis=0)
        return float((hit[there > 0] / there[there > 0]).mean())

    def f1(label: int) -> Callable[[NDArray[np.int64]], float]:
        def statistic(draw: NDArray[np.int64]) -> float:
            hit = float((one_hot[draw, label] * said[draw, label]).sum())
            total = float(one_hot[draw, label].sum() + said[draw, label].sum())
            return 2 * hit / total if total else float("nan")

        return statistic

    whole = len(np.unique(labels)) == k
    few = draws[: min(resamples, 500)]  # AUROC sorts at every draw
    return Evaluation(
        photographs=n,
        mistakes=n - right,
        accuracy=Figure(value=right / n, low=float(wilson.low), high=float(wilson.high)),
        balanced_accuracy=figure(recall),
        log_loss=figure(lambda draw: float(losses[draw].mean())),
        calibration_error=figure(lambda draw: calibration_error(confidence[draw], correct[draw])),
        f1={name: figure(f1(label)) for label, name in enumerate(scores.classes)},
        auroc=_auroc(labels, probabilities, few) if whole else None,
        confusion=sk.confusion_matrix(labels, predicted, labels=range(k)).tolist(),
    )


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over equal-width bins (Guo et al., 2017)."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _auroc(labels: NDArray[np.int64], probabilities: NDArray[np.float64], draws: NDArray[np.int64]) -> Figure:
    """Area under the ROC curve; for more than two classes the mean over one class against the rest."""

    def area(draw: NDArray[np.int64]) -> float:
        there = np.unique(labels[draw])
        if len(there) < probabilities.shape[1]:
            return float("nan")
        if probabilities.shape[1] == 2:
            return float(sk.roc_auc_score(labels[draw], probabilities[draw, 1]))
        return float(sk.roc_auc_score(labels[draw], probabilities[draw], multi_class="ovr"))

    values = np.array([area(draw) for draw in draws])
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=area(np.arange(len(labels))), low=float(low), high=float(high))
