"""Confidence intervals that hold where most predictions are right and mistakes are few.

    proportion(808, 810)                  # (0.9910, 0.9993), Wilson's
    paired_proportions(14, 17, 5396)      # of the difference of two models' accuracies, Tango's
    paired_mean(theirs - ours, doubt=0.1) # of the mean difference of two models' losses
    mean(losses, doubt=4.6)               # of a mean loss

docs/decisions/evaluation.md has the source of each and how often it covers.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special  # not stats, which takes three times as long to import, in four stages

LEVEL = 0.95
ERROR = 0.025  # on one side
DRAWS, PIECES = 999, 10  # random halves at a time, and how many times
BLOCKS = 5000  # of a larger set, which are drawn as one
Interval = tuple[float, float]
Floats = NDArray[np.float64]


def proportion(right: float, n: float, level: float = LEVEL) -> Interval:
    """Wilson's score interval of `right` of `n`, which need not be whole numbers; it has a width at 0 and at 100 %."""
    z, p = _z(level), min(1.0, right / n)
    centre, width = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = (centre - width) / (1 + z * z / n), (centre + width) / (1 + z * z / n)
    return max(0.0, float(low)), min(1.0, float(high))


def at_most(right: int, n: int, error: float) -> float:
    """Clopper and Pearson's exact upper end of a proportion: too low with a chance of `error` at most."""
    return 1.0 if right == n else float(special.betaincinv(right + 1, n - right, 1 - error))


def mean_of_proportions(parts: Sequence[tuple[int, int]], level: float = LEVEL) -> Interval:
    """Interval of the mean of independent proportions (right, n): Wilson's, of the mean as one proportion of as many
    photographs as would give it the same variance (Kish's effective sample size); too wide where they differ much."""
    mean_ = float(np.mean([right / n for right, n in parts]))
    effective = len(parts) ** 2 / sum(1 / n for _, n in parts)
    return proportion(mean_ * effective, effective, level)


def area(value: float, positive: int, negative: int, level: float = LEVEL) -> Interval:
    """Interval of an area under the ROC curve from its own standard error at each end (Newcombe, Confidence intervals
    for an effect size measure based on the Mann-Whitney statistic, part 2, 2006, method 5); it has a width at 1."""
    z, more = _z(level), (positive + negative) / 2 - 1

    def score(true: float) -> float:
        ratio = (1 - true) / (2 - true) + true / (1 + true)
        return float((value - true) ** 2 - z * z * true * (1 - true) * (1 + more * ratio) / (positive * negative))

    return _root(score, value, 0), _root(score, value, 1)


def paired_proportions(alone: int, other_alone: int, n: int, level: float = LEVEL) -> Interval:
    """Interval of the difference of two accuracies on the same `n` photographs, of which `alone` are right by the first
    only and `other_alone` by the second only (Tango, Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design, 1998)."""
    z, seen = _z(level), (alone - other_alone) / n

    def score(true: float) -> float:
        b = -alone - other_alone + (2 * n - alone + other_alone) * true
        c = -other_alone * true * (1 - true)
        by_chance = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * by_chance + true * (1 - true))
        gap = alone - other_alone - n * true
        return float(gap * gap - z * z * variance)

    return _root(score, seen, -1), _root(score, seen, 1)


def mean(values: Floats, doubt: float, level: float = LEVEL) -> Interval:
    """Student's interval of the mean of `values` [n] and of one more that was not seen, `doubt`.

    Losses are small but where a prediction is wrong, which is rare: a sample without a mistake, or with one too few,
    knows nothing of the largest part of the mean, and neither does a bootstrap of it. So one more mistake counts
    (Laplace's rule of succession, as in Agresti and Coull's interval of a proportion): `doubt` is what it would cost.
    """
    n = len(values) + 1
    all_of_them = np.append(values, doubt)
    width = float(special.stdtrit(n - 1, (1 + level) / 2) * all_of_them.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf
    centre = float(all_of_them.mean())
    return centre - width, centre + width


def paired_mean(differences: Floats, doubt: float, level: float = LEVEL) -> Interval:
    """Interval of the mean of paired `differences` [n]: quantiles of the means of random halves of them (Hartigan,
    Using subsample values as typical values, 1969).

    It is the inverse of the test that turns the signs of differences round at random, so its level is exact at any n
    where neither model is better, photograph by photograph. Beside them two thirds of one more mistake count, whose
    difference is `doubt`: mistakes are rare, and two thirds more than were seen is the median of how many there could
    have been (Laplace's rule has one more, which is the mean).

    Where few large differences all have one sign, a sample with too few of them also looks less spread than it is. So
    an end is moved outwards by the skewness (the term of Johnson, Modified t tests and confidence intervals for
    asymmetrical populations, 1978), and never inwards: of equal models it knows only chance.
    """
    values = np.append(differences, 2 / 3 * doubt)
    starts = np.unique(np.linspace(0, len(values), BLOCKS, endpoint=False).astype(int))  # turned round block by block
    sums, counts = np.add.reduceat(values, starts), np.diff(np.append(starts, len(values)))
    halves = (half[half.any(axis=1)] for half in _halves(len(starts)))
    means = np.sort(np.concatenate([half @ sums / (half @ counts) for half in halves]))
    place, middle, wider = round((1 - level) / 2 * (len(means) + 1)), float(np.median(means)), 1.0
    if place < 1:  # stricter than so many draws can say: on from their ends as a normal distribution goes on
        place, wider = 1, _z(level) / _z(1 - 2 / (len(means) + 1))
    low, high = middle + wider * (means[[place - 1, -place]] - middle)
    around = values - values.mean()
    skewness = float((around**3).sum() / max(float((around**2).sum()), np.finfo(float).tiny))
    shift = skewness * (1 + 2 * _z(level) ** 2) / (6 * len(values))
    return float(low) + min(shift, 0.0), float(high) + max(shift, 0.0)


def worse_parts(alone: NDArray[np.bool_], parts: NDArray[np.bool_], error: float = ERROR) -> list[bool]:
    """In which parts one model is shown to be worse, wrongly in any with a chance of `error` at most.

    `alone` [d]: of each photograph that only one of two models gets wrong, whether it is this one; `parts` [k, d]:
    which photographs lie in each part. McNemar's exact test of each part, one-sided; the smallest p is compared with
    the smallest over all parts where which of the two is wrong is drawn anew (Westfall and Young, Resampling-based
    multiple testing, 1993, step-down minP). Parts overlap and small ones can show little: this knows both, and Holm's
    rule neither.
    """
    if not len(alone):
        return [False] * len(parts)
    tails = [special.bdtrc(np.arange(-1, size), size, 0.5) for size in parts.sum(axis=1)]  # by how many are alone

    def p_of(wrong: Floats) -> Floats:
        """[draws, d] -> [draws, k]"""
        counts = (wrong @ parts.T).astype(int)
        return np.stack([tail[counts[:, part]] for part, tail in enumerate(tails)], axis=1)

    p = p_of(alone[None].astype(float))[0]
    order = np.argsort(p, kind="stable")
    as_small = np.zeros(len(parts))
    for half in _halves(len(alone)):  # of this part, and of those with a larger p
        least = np.minimum.accumulate(p_of(half)[:, order[::-1]], axis=1)[:, ::-1]
        as_small += (least <= p[order] * (1 + 1e-9)).sum(axis=0)
    shown = np.zeros(len(parts), bool)
    shown[order] = np.maximum.accumulate((1 + as_small) / (DRAWS * PIECES + 1)) <= error
    return shown.tolist()


def _halves(n: int) -> Iterator[Floats]:
    """Random halves of `n`, the same ones always: PIECES times [DRAWS, n], 1 for what is in it."""
    rng = np.random.default_rng(0)
    for _ in range(PIECES):
        half = np.unpackbits(rng.integers(0, 256, (DRAWS, -(-n // 8)), np.uint8), axis=1)[:, :n]
        yield half.astype(np.float64)


def _root(score: Callable[[float], float], seen: float, end: float) -> float:
    """Where `score` is zero between `seen`, where it is negative or zero, and `end` of the scale."""
    start = seen + (1e-9 if end > seen else -1e-9)
    if abs(end - seen) <= 1e-9 or score(end) <= 0:
        return float(end)
    from scipy.optimize import brentq

    return float(brentq(score, start, end)) if score(start) < 0 else seen


def _z(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))
