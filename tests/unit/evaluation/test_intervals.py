"""Intervals and tests against known answers and by their error rates."""

import numpy as np
import pytest
from scipy import stats

from pawprint.evaluation import intervals


def test_wilson_is_scipy_s_and_takes_parts_of_a_photograph() -> None:
    low, high = stats.binomtest(808, 810).proportion_ci(0.95, method="wilson")
    assert intervals.proportion(808, 810) == pytest.approx((low, high))
    assert intervals.proportion(10, 10)[1] == pytest.approx(1)
    assert intervals.proportion(9.5, 10)[0] > intervals.proportion(9, 10)[0]


def test_tango_of_known_cases() -> None:
    z = stats.norm.ppf(0.975)
    assert intervals.paired_proportions(0, 0, 60) == pytest.approx((-(z**2) / (60 + z**2), z**2 / (60 + z**2)))
    low, high = intervals.paired_proportions(14, 17, 5396)
    assert intervals.paired_proportions(17, 14, 5396) == pytest.approx((-high, -low))
    half = 1.96 * np.sqrt(31) / 5396  # Wald's, which is good at this size
    assert (low, high) == pytest.approx((-3 / 5396 - half, -3 / 5396 + half), abs=2e-4)
    assert intervals.paired_proportions(10, 0, 10)[1] == 1
    assert 0.3 < intervals.paired_proportions(10, 0, 10)[0] < 0.6


@pytest.mark.parametrize(("n", "share"), [(60, 0.05), (100, 0.02), (810, 0.005), (810, 0.02)])
def test_tango_errs_in_two_and_a_half_percent_at_most(n: int, share: float) -> None:
    """By enumeration: the chance that a model worse by 0.5 % is taken for one that is not."""
    wrong, rates = 0.0, [share, share + 0.005, 1 - 2 * share - 0.005]
    ends = [int(stats.binom.ppf(1 - 1e-5, n, rate)) + 1 for rate in rates[:2]]
    for alone in range(ends[0]):
        for other in range(ends[1]):
            if intervals.paired_proportions(alone, other, n)[0] < -0.005:
                break  # more mistakes only lower it
            wrong += float(stats.multinomial.pmf([alone, other, n - alone - other], n, rates))
    assert wrong <= 0.027


def test_the_area_s_interval_has_a_width_at_one_and_is_hanley_and_mcneil_s_in_the_middle() -> None:
    assert intervals.area(1.0, 30, 30)[1] == 1
    assert 0.9 < intervals.area(1.0, 30, 30)[0] < 0.95
    low, high = intervals.area(0.8, 500, 500)
    q1, q2 = 0.8 / 1.2, 2 * 0.64 / 1.8
    error = np.sqrt((0.16 + 499 * (q1 - 0.64) + 499 * (q2 - 0.64)) / 250_000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.03)
    assert intervals.area(0.0, 5, 5)[0] == 0


def test_holm_of_a_known_case() -> None:
    assert intervals.holm([0.01, 0.04, 0.03, 0.005], level=0.05) == [True, False, False, True]
    assert intervals.holm([], level=0.05) == []


def test_mcnemar_s_test_of_a_known_case() -> None:
    assert intervals.paired_p(5, 0) == pytest.approx(1 / 32)
    assert intervals.paired_p(0, 0) == 1


def test_one_more_mistake_counts() -> None:
    calm = np.full(60, 0.01)
    low, high = intervals.mean(calm, doubt=4.6)
    assert low < 0.01 < 0.07 < high
    assert intervals.mean(np.empty(0), 1.0) == (-np.inf, np.inf)
