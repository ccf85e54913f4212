"""Scores of a model on photographs it has not learned from, each with a 95 % interval.

scores = score(Classifier(folder), data.split("test"))
evaluation = measure(scores, resamples=2000, seed=2017)
print(evaluation.accuracy)          # 0.994 [0.986, 0.997]
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats
from sklearn import metrics as sk

from pawprint.data.dataset import Split
from pawprint.files import new_file
from pawprint.inference.classifier import Classifier

COLUMNS = ("photograph", "hash", "class", "predicted", "log_loss", "knn_similarity")  # then a probability a class
LEVEL = 0.95
BATCH = 32
BINS = 15  # of confidence, for the calibration error
SORTED = 500  # resamples of what has to sort in each


@dataclass(frozen=True)
class Scores:
    """A model's predictions for the photographs of a split."""

    hashes: tuple[str, ...]
    origins: tuple[str, ...]
    labels: NDArray[np.int64]  # [n]
    probabilities: NDArray[np.float64]  # [n, classes], rows sum to one
    classes: tuple[str, ...]
    knn_similarity: NDArray[np.float64]  # [n], cosine similarity to the nearest training photographs

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
        """A CSV file with a row a photograph; nine digits hold a float32 exactly."""
        rows = zip(
            self.hashes, self.origins, self.labels, self.probabilities, self.knn_similarity, self.losses, strict=True
        )
        with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow([*COLUMNS, *self.classes])
            for digest, origin, label, probabilities, similarity, loss in rows:
                predicted = self.classes[int(probabilities.argmax())]
                numbers = (f"{number:.9g}" for number in (similarity, *probabilities))
                out.writerow([origin, digest, self.classes[label], predicted, f"{loss:.6f}", *numbers])

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `write` wrote; OSError or ValueError where it is missing or damaged."""
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if tuple(header[:5]) != COLUMNS[:5]:
            raise ValueError(f"{path} has other columns")
        classes = tuple(header[len(COLUMNS) :])
        numbers = np.array([row[len(COLUMNS) - 1 :] for row in rows], np.float32).astype(np.float64)
        numbers = numbers.reshape(len(rows), 1 + len(classes))
        labels = np.array([classes.index(row[2]) for row in rows], np.int64)
        origins, hashes = (tuple(row[column] for row in rows) for column in (0, 1))
        return cls(hashes, origins, labels, numbers[:, 1:], classes, numbers[:, 0])


class Figure(BaseModel):
    """A figure with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @classmethod
    def share(cls, right: int, n: int) -> Self:
        """`right` of `n`, with Wilson's interval, which has a width at 100 % too."""
        interval = stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
        return cls(value=right / n, low=float(interval.low), high=float(interval.high))


class Evaluation(BaseModel):
    """One model on one set of photographs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photographs: int
    mistakes: int
    accuracy: Figure
    balanced_accuracy: Figure
    log_loss: Figure
    calibration_error: Figure
    f1: dict[str, Figure]  # by class, but one that is neither in these photographs nor predicted
    auroc: Figure | None  # None where a class is not in these photographs
    average_precision: Figure | None  # likewise; for more than two classes the mean over them
    confusion: list[list[int]]  # rows: right class, columns: predicted

    def flat(self, prefix: str) -> dict[str, float]:
        """`{"test_accuracy": ..., "test_accuracy_low": ..., ...}`: the names that MLflow shows."""
        names = ("accuracy", "balanced_accuracy", "log_loss", "auroc", "average_precision", "calibration_error")
        named = {name: getattr(self, name) for name in names}
        named |= {f"f1_{label}": figure for label, figure in self.f1.items()}
        flat = {f"{prefix}_mistakes": float(self.mistakes), f"{prefix}_photographs": float(self.photographs)}
        for name, figure in named.items():
            if figure is not None:
                flat[f"{prefix}_{name}"] = figure.value
                flat[f"{prefix}_{name}_low"] = figure.low
                flat[f"{prefix}_{name}_high"] = figure.high
        return flat


def score(classifier: Classifier, split: Split) -> Scores:
    """The model's predictions for every photograph of a split, by the engine that serves it."""
    batches = (range(start, min(start + BATCH, len(split))) for start in range(0, len(split), BATCH))
    parts = [classifier.predict(split.images(batch)) for batch in batches]
    return Scores(
        split.hashes,
        split.origins,
        split.labels,
        np.concatenate([np.empty((0, len(split.classes))), *(part.probabilities for part in parts)]),
        split.classes,
        np.concatenate([np.empty(0), *(part.knn_similarity for part in parts)]),
    )


def measure(scores: Scores, resamples: int, seed: int) -> Evaluation:
    """All figures of one model. Accuracy has Wilson's interval; the others have the percentile bootstrap's over
    photographs (Efron and Tibshirani, 1993)."""
    labels, probabilities, correct = scores.labels, scores.probabilities, scores.correct
    n, k = probabilities.shape
    right = int(correct.sum())
    rng = np.random.default_rng(seed)
    # How often each photograph is drawn, [resamples, n]: what a resample sums up is then one matrix product.
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    once = np.ones((1, n))

    def figure(terms: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Figure:
        """`terms` [n, m] are summed over photographs; `statistic` makes one number of each [m] of [resamples, m]."""
        return _figure(float(statistic(once @ terms)[0]), statistic(counts @ terms))

    one_hot, predicted = np.eye(k)[labels], np.eye(k)[probabilities.argmax(axis=1)]

    def recall(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        hit, there = sums[:, :k], sums[:, k:]
        return np.asarray(np.nanmean(np.where(there > 0, hit / np.maximum(there, 1), np.nan), axis=1))

    def f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        hit, total = sums.T
        return np.asarray(np.where(total > 0, 2 * hit / np.maximum(total, 1), np.nan))

    gaps = _confidence_gaps(probabilities.max(axis=1), correct)
    whole = len(np.unique(labels)) == k
    auroc, average_precision = _ranked(scores, min(resamples, SORTED), seed) if whole else (None, None)
    return Evaluation(
        photographs=n,
        mistakes=n - right,
        accuracy=Figure.share(right, n),
        balanced_accuracy=figure(np.hstack([one_hot * predicted, one_hot]), recall),
        log_loss=figure(scores.losses[:, None], lambda sums: sums[:, 0] / n),
        calibration_error=figure(gaps, lambda sums: np.abs(sums).sum(axis=1) / n),
        f1={
            name: figure(np.stack([(one_hot * predicted)[:, label], (one_hot + predicted)[:, label]], axis=1), f1)
            for label, name in enumerate(scores.classes)
            if (one_hot + predicted)[:, label].any()
        },
        auroc=auroc,
        average_precision=average_precision,
        confusion=sk.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(k)).tolist(),
    )


def paired_interval(differences: NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of `differences` [n] by the percentile bootstrap; (0, 0) where there are none."""
    n = len(differences)
    if not n:
        return 0.0, 0.0
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    low, high = np.quantile(counts @ differences / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over equal-width bins (Guo et al., 2017)."""
    return float(np.abs(_confidence_gaps(confidence, correct).sum(axis=0)).sum() / len(confidence))


def _confidence_gaps(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n, BINS], confidence minus correctness in the photograph's bin of confidence, 0 in all others."""
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return np.asarray(np.eye(BINS)[index] * (confidence - correct)[:, None])


def _ranked(scores: Scores, resamples: int, seed: int) -> tuple[Figure, Figure]:
    """AUROC and average precision; for more than two classes the means over one class against the rest.

    The values are scikit-learn's. In a resample both come from one sort: the area as Mann and Whitney's statistic,
    and the precision at each right one (ties there are copies of one photograph, so their order does not matter).
    """
    labels, probabilities = scores.labels, scores.probabilities
    n, k = probabilities.shape
    draws = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    areas, precisions = [], []
    for label in range(k):
        truth, score = (labels == label)[draws], probabilities[:, label][draws]
        there = truth.sum(axis=1).astype(np.float64)
        there[(there == 0) | (there == n)] = np.nan  # a class is missing: no curve
        ranks = stats.rankdata(score, axis=1)
        areas.append(((ranks * truth).sum(axis=1) - there * (there + 1) / 2) / (there * (n - there)))
        sorted_ = np.take_along_axis(truth, np.argsort(-score, axis=1, kind="stable"), axis=1)
        precision = np.cumsum(sorted_, axis=1) / np.arange(1, n + 1)
        precisions.append((precision * sorted_).sum(axis=1) / there)
    one_hot = np.eye(k)[labels]
    return (
        _figure(float(sk.roc_auc_score(one_hot, probabilities, average="macro")), np.mean(areas, axis=0)),
        _figure(
            float(sk.average_precision_score(one_hot, probabilities, average="macro")), np.mean(precisions, axis=0)
        ),
    )


def _figure(value: float, resampled: NDArray[np.float64]) -> Figure:
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=value, low=float(low), high=float(high))
