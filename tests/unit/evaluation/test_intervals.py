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


def test_one_part_is_mcnemar_s_exact_test() -> None:
    """Seven of seven: p is 1/128; six of six: 1/64; six of seven: 8/128."""
    for wrong, total, error in ((7, 7, 0.0079), (6, 6, 0.0157), (6, 7, 0.063)):
        alone, part = np.arange(total) < wrong, np.ones((1, total), bool)
        assert intervals.worse_parts(alone, part, error * 1.25) == [True]
        assert intervals.worse_parts(alone, part, error * 0.75) == [False]
    assert intervals.worse_parts(np.empty(0, bool), np.empty((3, 0), bool)) == [False] * 3


def test_parts_that_are_the_same_count_once_and_others_more() -> None:
    """Of two parts with the same photographs the smallest p is that of one: Holm would double it. Of parts with no
    photograph in common the p of seven of seven is about as many times larger."""
    alone = np.ones(7, bool)
    assert intervals.worse_parts(alone, np.ones((5, 7), bool), 0.010) == [True] * 5
    apart = np.kron(np.eye(5), np.ones(7)).astype(bool)  # five parts of seven
    once = np.arange(35) < 7
    assert intervals.worse_parts(once, apart, 0.045) == [True, False, False, False, False]
    assert intervals.worse_parts(once, apart, 0.030) == [False] * 5
    small = np.vstack([apart[0], np.eye(35, dtype=bool)[7:]])  # 28 parts of one photograph, which can show nothing
    assert intervals.worse_parts(once, small, 0.010)[0]


def test_the_interval_of_a_paired_mean_is_student_s_where_that_is_right_and_turns_round() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 400)
    low, high = intervals.paired_mean(d, doubt=0.0)
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert intervals.paired_mean(-d, doubt=0.0) == pytest.approx((-high, -low))
    assert intervals.paired_mean(d, doubt=-30.0)[0] < low
    many = np.random.default_rng(2).normal(0.3, 1, 50_000)  # drawn in blocks
    expected = stats.ttest_1samp(many, 0).confidence_interval(0.95)
    assert intervals.paired_mean(many, 0.0) == pytest.approx((expected.low, expected.high), abs=0.001)
    assert intervals.paired_mean(np.array([]), 1.5) == pytest.approx((1.0, 1.0))


def test_the_interval_of_a_paired_mean_keeps_its_level_where_few_differences_make_it() -> None:
    """Differences of equal models: symmetric, nearly all tiny, one in a hundred large. Student's t errs in 1 % here."""
    rng = np.random.default_rng(5)
    missed = []
    for _ in range(1500):
        d = rng.normal(0, 0.01, 60) + (rng.random(60) < 0.01) * rng.normal(0, 4, 60)
        missed.append(intervals.paired_mean(d, 0.0)[0] > 0)
    assert 0.015 < np.mean(missed) < 0.035


def test_one_more_mistake_counts() -> None:
    calm = np.full(60, 0.01)
    low, high = intervals.mean(calm, doubt=4.6)
    assert low < 0.01 < 0.07 < high
    assert intervals.mean(np.empty(0), 1.0) == (-np.inf, np.inf)
