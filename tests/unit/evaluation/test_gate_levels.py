"""The simulation of benchmarks/gate_levels.py, small: no rule of the gate errs more often than it says."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
import gate_levels

REPEATS = 500
BY_CHANCE = 2 * np.sqrt(0.025 * 0.975 / REPEATS)


@pytest.mark.parametrize("n", [60, 100, 810])
def test_each_rule_keeps_its_level(n: int) -> None:
    """2.5 % and 1 % for equal models, and never more; the benchmark itself draws eight times as many."""
    found = gate_levels.rates(n, REPEATS, seed=3)
    assert not {rule: rate for rule, rate in found.items() if rate > 0.035 + BY_CHANCE}
    equal = {
        rule: rate
        for rule, rate in found.items()
        if rule.startswith(("log loss better, equal", "log loss worse, equal"))
    }
    assert len(equal) == 4
    assert not {rule: rate for rule, rate in equal.items() if rate < 0.015 - BY_CHANCE}
    if n == 810:  # fewer photographs cannot show that an accuracy is not worse by 1 %
        assert found["accuracy not worse, though it is"] > 0.01
