"""Confidence intervals that hold where most predictions are right and mistakes are few.

    proportion(808, 810)                  # (0.9910, 0.9993), Wilson's
    paired_proportions(14, 17, 5396)      # of the difference of two models' accuracies, Tango's
    paired_p(14, 17)                      # McNemar's exact test, one-sided
    mean(losses, doubt=4.6)               # of a mean loss

docs/decisions/evaluation.md has the source of each and how often it covers.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

LEVEL = 0.95
ERROR = 0.025  # on one side
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
    return 1.0 if right == n else float(stats.beta.ppf(1 - error, right + 1, n - right))


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
    width = float(stats.t.ppf((1 + level) / 2, n - 1) * all_of_them.std(ddof=1) / np.sqrt(n)) if n > 1 else np.inf
    centre = float(all_of_them.mean())
    return centre - width, centre + width


def paired_p(alone: int, other_alone: int) -> float:
    """McNemar's exact test, one-sided: how often `alone` would be as large as it is if neither were better."""
    together = alone + other_alone
    return float(stats.binomtest(alone, together, alternative="greater").pvalue) if together else 1.0


def holm(p: Sequence[float], level: float = ERROR) -> list[bool]:
    """Which hypotheses are rejected, so that the chance of one false rejection is at most `level` (Holm, 1979)."""
    order, rejected = np.argsort(p, kind="stable"), [False] * len(p)
    for place, index in enumerate(order):
        if p[index] > level / (len(p) - place):
            break
        rejected[index] = True
    return rejected


def _root(score: Callable[[float], float], seen: float, end: float) -> float:
    """Where `score` is zero between `seen`, where it is negative or zero, and `end` of the scale."""
    start = seen + (1e-9 if end > seen else -1e-9)
    if abs(end - seen) <= 1e-9 or score(end) <= 0:
        return float(end)
    return float(brentq(score, start, end)) if score(start) < 0 else seen


def _z(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))
