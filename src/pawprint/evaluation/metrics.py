"""Scores of a model on photographs it has not learned from, each with a 95 % interval.

scores = score(Classifier(folder), data.split("test"))
evaluation = measure(scores)
print(evaluation.accuracy)          # 0.994 [0.986, 0.997]
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from pawprint.data.dataset import Split
from pawprint.evaluation import intervals
from pawprint.evaluation.intervals import Interval
from pawprint.files import Closed, read_csv, write_csv
from pawprint.inference.classifier import Classifier, Refusal

COLUMNS = ("photograph", "hash", "class", "predicted", "refused", "log_loss", "knn_similarity")  # then each class
BATCH = 32
COVERAGES = (100, 99, 98, 95, 90, 80)  # % of the photographs, the surest first
TOP, CONFUSED = 11, 10  # classes from which on the five most probable are looked at; pairs that are listed
MOST = 50  # classes of a confusion matrix that is shown; the figures are of all
BINS = 15  # of equally many photographs, for the calibration error
ROWS, NUMBERS = 4096, 2**19  # photographs, and probabilities, that are worked on at a time: bounds the memory
DRAWS = 200  # of labels that a perfectly calibrated model could have met


@dataclass(frozen=True)
class Scores:
    """A model's predictions for the photographs of a split."""

    hashes: tuple[str, ...]
    origins: tuple[str, ...]
    labels: NDArray[np.int64]  # [n]
    probabilities: NDArray[np.float64]  # [n, classes], rows sum to one
    classes: tuple[str, ...]
    knn_similarity: NDArray[np.float64]  # [n], likeness to the nearest training photographs
    refusals: tuple[Refusal, ...] = ()  # [n], why a photograph is answered `unknown`; empty where nothing was refused

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[n], whether the most probable class is the right one."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """[n], whether the answer is a class."""
        return np.array([not why for why in self.refusals] or np.ones(len(self.labels)), bool)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """[n], the largest probability."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def losses(self) -> NDArray[np.float64]:
        """[n], minus the natural logarithm of the right class's probability."""
        right = self.probabilities[np.arange(len(self.labels)), self.labels]
        return np.asarray(-np.log(np.clip(right, 1e-15, 1.0)))

    @property
    def mistake_losses(self) -> NDArray[np.float64]:
        """[n], what each photograph would cost if its prediction were wrong: of a wrong one its own loss, of a right
        one the loss under the most probable of the other classes."""
        others = _by_rows(lambda rows: _others(self, rows).max(axis=1), self)
        return np.asarray(np.maximum(self.losses, -np.log(np.clip(others, 1e-15, 1.0))))

    def write(self, path: Path) -> None:
        """A CSV file with a row a photograph; nine digits hold a float32 exactly."""
        refusals = self.refusals or ("",) * len(self.hashes)
        columns = self.hashes, self.origins, self.labels, self.probabilities, self.knn_similarity, self.losses, refusals

        def rows() -> Iterator[list[str]]:
            yield [*COLUMNS, *self.classes]
            for digest, origin, label, probabilities, similarity, loss, why in zip(*columns, strict=True):
                predicted = self.classes[int(probabilities.argmax())]
                numbers = (f"{number:.9g}" for number in (similarity, *probabilities))
                yield [origin, digest, self.classes[label], predicted, why, f"{loss:.6f}", *numbers]

        write_csv(path, rows())

    def only(self, keep: Collection[str]) -> Self:
        """The photographs whose hash is in `keep`, in the same order."""
        return self._at(np.flatnonzero([name in keep for name in self.hashes]))

    def among(self, classes: Sequence[str]) -> Self:
        """The photographs of these classes, as if there were no others: their probabilities sum to one again."""
        columns = [self.classes.index(name) for name in classes]
        part = self._at(np.flatnonzero(np.isin(self.labels, columns)))
        shares = part.probabilities[:, columns]  # a copy
        np.clip(shares, 1e-12, None, out=shares)
        shares /= shares.sum(axis=1, keepdims=True)
        labels = np.array([columns.index(label) for label in part.labels], np.int64)
        return replace(part, labels=labels, probabilities=shares, classes=tuple(classes))

    def _at(self, places: NDArray[np.int64]) -> Self:
        hashes, origins = (tuple(names[place] for place in places) for names in (self.hashes, self.origins))
        refusals = tuple(self.refusals[place] for place in places) if self.refusals else ()
        arrays = self.labels[places], self.probabilities[places], self.classes, self.knn_similarity[places]
        return type(self)(hashes, origins, *arrays, refusals)

    @classmethod
    def out_of_fold(cls, path: Path) -> Self | None:
        """folds.csv of a model folder, which training writes; None where there is none."""
        if not path.exists():
            return None
        rows = read_csv(path)
        _, _, *classes = next(rows, [])
        words, probabilities = _columns(rows, 2, len(classes), np.float64)
        labels = np.array([classes.index(label) for _, label in words], np.int64)
        hashes = tuple(digest for digest, _ in words)
        return cls(hashes, hashes, labels, probabilities, tuple(classes), np.ones(len(words)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `write` wrote; OSError or ValueError where it is missing or damaged."""
        rows = read_csv(path)
        header = next(rows, [])
        expected = [name for name in COLUMNS if name != "refused" or name in header]  # files of before lack it
        if header[: len(expected)] != expected:
            raise ValueError(f"{path} has other columns")
        before = len(expected)
        classes = tuple(header[before:])
        words, numbers = _columns(rows, before - 1, 1 + len(classes), np.float32)
        labels = np.array([classes.index(row[2]) for row in words], np.int64)
        origins, hashes = (tuple(row[column] for row in words) for column in (0, 1))
        refusals = tuple(cast(Refusal, row[4]) for row in words) if before == len(COLUMNS) else ()
        return cls(hashes, origins, labels, numbers[:, 1:], classes, numbers[:, 0], refusals)


def _columns(
    rows: Iterable[list[str]], words: int, numbers: int, kind: type[np.floating]
) -> tuple[list[list[str]], NDArray[np.float64]]:
    """The first columns of a table, `words` of them, and the numbers [n, numbers] behind, read as `kind`.

    Row by row: as text each number takes 60 bytes, 10 GB of 150,000 photographs and 1,000 classes.
    """
    first = list[list[str]]()

    def parsed() -> Iterator[NDArray[np.floating]]:
        for row in rows:
            if len(row) != words + numbers:  # one number would be taken for all
                raise ValueError(f"a row of {len(row)} cells, not {words + numbers}")
            first.append(row[:words])
            yield np.array(row[words:], kind)

    return first, np.fromiter(parsed(), np.dtype((np.float64, (numbers,))))


class Figure(Closed):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @classmethod
    def share(cls, right: int, n: int) -> Self:
        """`right` of `n`, with Wilson's interval."""
        return cls.of(right / n, intervals.proportion(right, n))

    @classmethod
    def of(cls, value: float, interval: Interval) -> Self:
        """A value and its interval, which holds it."""
        return cls(value=value, low=min(value, interval[0]), high=max(value, interval[1]))


class Calibration(Closed):
    """How far confidence and accuracy are apart: the root of the mean squared gap, without its bias."""

    value: float
    perfect: float  # what a perfectly calibrated model of this confidence shows on so many photographs, on average
    perfect_high: float  # and in 95 of 100 cases at most

    def __str__(self) -> str:
        return f"{self.value:.4f} (calibrated perfectly: {self.perfect:.4f}, at most {self.perfect_high:.4f})"


class Evaluation(Closed):
    """One model on one set of photographs."""

    photographs: int
    mistakes: int
    accuracy: Figure
    served_accuracy: Figure  # share that is answered, and right: a refusal of a photograph of a class is a mistake
    coverage: Figure  # share that is answered
    answered_accuracy: Figure | None  # of those; None where every one is refused
    unlike: Figure  # share that is refused as unlike the training photographs
    unsure: Figure  # share that is refused as unsure
    risk_coverage: dict[str, float]  # share that is wrong among the surest "100 %", "99 %", ...
    top5: Figure | None  # right class among the five most probable; None below TOP classes
    confused: list[tuple[str, str, int]]  # (right class, predicted class, photographs), the most frequent first
    balanced_accuracy: Figure
    log_loss: Figure
    calibration_error: Calibration
    f1: dict[str, Figure]  # by class, but one that is neither in these photographs nor predicted
    auroc: Figure | None  # None where a class is not in these photographs
    average_precision: Figure | None  # likewise; for more than two classes the mean over them
    confusion: list[list[int]]  # rows: right class, columns: predicted

    def flat(self, prefix: str) -> dict[str, float]:
        """`{"test_accuracy": ..., "test_accuracy_low": ..., ...}`: the names that MLflow shows."""
        names = (
            "accuracy",
            "served_accuracy",
            "coverage",
            "answered_accuracy",
            "unlike",
            "unsure",
            "top5",
            "balanced_accuracy",
            "log_loss",
            "auroc",
            "average_precision",
        )
        named: dict[str, Figure | None] = {name: getattr(self, name) for name in names}
        named |= {f"f1_{label}": figure for label, figure in self.f1.items()}
        flat = {f"{prefix}_mistakes": float(self.mistakes), f"{prefix}_photographs": float(self.photographs)}
        flat |= {f"{prefix}_risk_at_{part.removesuffix(' %')}": risk for part, risk in self.risk_coverage.items()}
        flat[f"{prefix}_calibration_error"] = self.calibration_error.value
        flat[f"{prefix}_calibration_error_perfect"] = self.calibration_error.perfect
        for name, figure in named.items():
            if figure is not None:
                flat[f"{prefix}_{name}"] = figure.value
                flat[f"{prefix}_{name}_low"] = figure.low
                flat[f"{prefix}_{name}_high"] = figure.high
        return flat


def score(classifier: Classifier, split: Split) -> Scores:
    """The model's predictions for every photograph of a split, by the engine that serves it; it knows their classes."""
    classes = classifier.info.classes
    probabilities, similarity = np.empty((len(split), len(classes))), np.empty(len(split))  # joining takes both
    refusals: list[Refusal] = []
    for start in range(0, len(split), BATCH):
        part = range(start, min(start + BATCH, len(split)))
        found = classifier.predict(split.images(part), maps=False)
        probabilities[part.start : part.stop] = found.probabilities
        similarity[part.start : part.stop] = found.knn_similarity
        refusals += [one.refusal for one in classifier.decide(found)]
    return Scores(
        split.hashes,
        split.origins,
        split.labels_among(classes),
        probabilities,
        classes,
        similarity,
        tuple(refusals),
    )


def most_confused(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which classes, in their order, a matrix [right, predicted] shows a person: MOST, those with most mistakes."""
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    return np.sort(np.argsort(-wrong, kind="stable")[:MOST])


def _mean_loss(scores: Scores) -> Figure:
    low, high = intervals.mean(scores.losses, float(scores.mistake_losses.mean()))
    return Figure.of(float(scores.losses.mean()), (max(0.0, low), high))  # no loss is negative


def measure(scores: Scores) -> Evaluation:
    """All figures of one model. docs/decisions/evaluation.md has the source of each interval."""
    labels, probabilities, correct = scores.labels, scores.probabilities, scores.correct
    n, k = probabilities.shape
    right, answered, predicted = int(correct.sum()), int(scores.answered.sum()), probabilities.argmax(axis=1)
    there, named = np.bincount(labels, minlength=k), np.bincount(predicted, minlength=k)
    hit = np.bincount(labels[correct], minlength=k)
    recalls = [(int(hit[label]), int(there[label])) for label in range(k) if there[label]]
    balanced = float(np.mean([found / photographs for found, photographs in recalls]))
    either = there + named - hit  # photographs that are of the class or predicted as it
    whole = bool((there > 0).all())
    auroc, average_precision = _ranked(scores, there) if whole and k > 1 else (None, None)
    return Evaluation(
        photographs=n,
        mistakes=n - right,
        accuracy=Figure.share(right, n),
        balanced_accuracy=Figure.of(balanced, intervals.mean_of_proportions(recalls)),
        log_loss=_mean_loss(scores),
        served_accuracy=Figure.share(int((correct & scores.answered).sum()), n),
        coverage=Figure.share(answered, n),
        answered_accuracy=Figure.share(int((correct & scores.answered).sum()), answered) if answered else None,
        unlike=Figure.share(scores.refusals.count("unlike"), n),
        unsure=Figure.share(scores.refusals.count("unsure"), n),
        risk_coverage=risk_coverage(scores),
        top5=_top5(scores) if k >= TOP else None,
        confused=_confused(scores),
        calibration_error=calibration_error(scores.confidence, correct),
        f1={
            name: _f1(int(hit[label]), int(either[label])) for label, name in enumerate(scores.classes) if either[label]
        },
        auroc=auroc,
        average_precision=average_precision,
        confusion=np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k).tolist(),
    )


def risks(scores: Scores) -> NDArray[np.float64]:
    """[n], share that is wrong among the surest 1, 2, ..., n photographs (El-Yaniv and Wiener, On the Foundations of
    Noise-free Selective Classification, 2010)."""
    order = np.argsort(-scores.confidence, kind="stable")
    return np.asarray(np.cumsum(~scores.correct[order]) / np.arange(1, len(order) + 1))


def risk_coverage(scores: Scores) -> dict[str, float]:
    """The risk at COVERAGES."""
    found = risks(scores)
    return {f"{part} %": float(found[max(1, round(len(found) * part / 100)) - 1]) for part in COVERAGES}


def paired_losses(ours: Scores, theirs: Scores, level: float = intervals.LEVEL) -> Interval:
    """Interval of the mean of (their loss - our loss) on the same photographs: above zero ours is better.

    The mistake that counts beside them (see `intervals.paired_mean`) is the same for both: the most probable of the
    other classes, on average over all photographs.
    """
    labels = _by_rows(lambda rows: (_others(ours, rows) + _others(theirs, rows)).argmax(axis=1), ours)
    other = replace(ours, labels=labels), replace(theirs, labels=labels)
    doubt = float((other[1].losses - other[0].losses).mean())
    return intervals.paired_mean(theirs.losses - ours.losses, doubt, level)


def discordant(ours: Scores, theirs: Scores) -> tuple[int, int]:
    """Photographs that only we, and that only they, get right."""
    return int((ours.correct & ~theirs.correct).sum()), int((theirs.correct & ~ours.correct).sum())


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Calibration:
    """The debiased calibration error over bins of equally many photographs (Kumar et al., Verified Uncertainty
    Calibration, 2019): of each squared gap the variance of its share of right predictions is taken off.

    The expected calibration error with its absolute gaps is mostly its own bias where few predictions are wrong.
    `perfect` is the same estimate of labels that are drawn from the confidence itself.
    """
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, BINS + 1)[1:-1]))
    index = np.searchsorted(edges, confidence, side="right")  # equal confidences are in one bin
    bins = np.unique(index)
    sizes = np.array([(index == number).sum() for number in bins])
    means = np.array([confidence[index == number].mean() for number in bins])

    def estimate(hits: NDArray[np.int64]) -> NDArray[np.float64]:
        """Right predictions [bins, draws] -> [draws]"""
        shares = hits / sizes[:, None]
        noise = shares * (1 - shares) / np.maximum(sizes - 1, 1)[:, None]
        squares = ((means[:, None] - shares) ** 2 - noise) * sizes[:, None] / len(confidence)
        return np.asarray(np.sqrt(np.maximum(squares.sum(axis=0), 0)))

    drawn, random = np.zeros((len(bins), DRAWS), np.int64), np.random.default_rng(0)  # the same for every model
    for start in range(0, len(confidence), ROWS):  # a row of draws a photograph: the chunks change no number
        rows = slice(start, start + ROWS)
        hit = random.random((len(confidence[rows]), DRAWS)) < confidence[rows, None]
        drawn += [hit[index[rows] == number].sum(axis=0) for number in bins]
    perfect = estimate(drawn)
    right = np.array([correct[index == number].sum() for number in bins])
    return Calibration(
        value=float(estimate(right[:, None])[0]),
        perfect=float(perfect.mean()),
        perfect_high=float(np.quantile(perfect, 0.95)),
    )


def _by_rows(work: Callable[[slice], NDArray[Any]], scores: Scores) -> NDArray[Any]:
    """What `work` computes of each photograph [n], some at a time: a whole set's probabilities are not copied."""
    n, k = scores.probabilities.shape
    rows = min(ROWS, max(1, NUMBERS // k))
    return np.concatenate([work(slice(start, start + rows)) for start in range(0, max(n, 1), rows)])


def _others(scores: Scores, rows: slice) -> NDArray[np.float64]:
    """[rows, classes], the probabilities, with zero for the right class."""
    labels, others = scores.labels[rows], scores.probabilities[rows].copy()
    others[np.arange(len(labels)), labels] = 0
    return others


def _top5(scores: Scores) -> Figure:
    def found(rows: slice) -> NDArray[np.bool_]:
        best = np.argsort(-scores.probabilities[rows], axis=1, kind="stable")[:, :5]
        return np.asarray((best == scores.labels[rows, None]).any(axis=1))

    return Figure.share(int(_by_rows(found, scores).sum()), len(scores.labels))


def _confused(scores: Scores) -> list[tuple[str, str, int]]:
    wrong, predicted = ~scores.correct, scores.probabilities.argmax(axis=1)
    pairs = Counter(zip(scores.labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    return [
        (scores.classes[right], scores.classes[named], count) for (right, named), count in pairs.most_common(CONFUSED)
    ]


def _f1(hit: int, either: int) -> Figure:
    """F1 is 2 J / (1 + J) of the share J of right ones among those of the class or predicted as it: so is its
    interval, of Wilson's for J."""
    low, high = intervals.proportion(hit, either)
    return Figure.of(2 * hit / (either + hit), (2 * low / (1 + low), 2 * high / (1 + high)))


def _ranked(scores: Scores, there: NDArray[np.int64]) -> tuple[Figure, Figure]:
    """AUROC and average precision; for more than two classes the means over one class against the rest.

    The ends of a mean's interval are the means of the ends, which holds however the classes depend on each other.
    """
    from sklearn import metrics as sk

    labels, probabilities = scores.labels, scores.probabilities
    n, k = probabilities.shape
    areas = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in range(k)]
    precisions = [sk.average_precision_score(labels == c, probabilities[:, c]) for c in range(k)]
    areas_of = [intervals.area(float(areas[c]), int(there[c]), int(n - there[c])) for c in range(k)]
    # Boyd, Eng and Page, Area under the precision-recall curve (2013): a proportion of the class's photographs.
    precisions_of = [intervals.proportion(float(precisions[c] * there[c]), int(there[c])) for c in range(k)]

    def figure(values: NDArray[np.float64], ends: list[Interval]) -> Figure:
        low, high = np.mean(ends, axis=0)
        return Figure.of(float(np.mean(values)), (float(low), float(high)))

    return figure(np.array(areas), areas_of), figure(np.array(precisions), precisions_of)
