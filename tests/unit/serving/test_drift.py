"""The two-sample test behind the traffic report's alarm."""

import numpy as np
import pytest

from pawprint.serving.drift import compare


def draw(rng: np.random.Generator, count: int, shift: float = 0) -> np.ndarray:
    """Embeddings of two classes in 64 dimensions."""
    centres = np.where(rng.random((count, 1)) < 0.5, 1.0, -1.0) * np.linspace(0, 1, 64)
    return centres + rng.normal(0, 1, (count, 64)) + shift * np.eye(64)[3]


def test_one_false_alarm_in_twenty() -> None:
    """200 draws of the same pictures: between 3 and 19 alarms is what 5 % gives in 99 of 100 cases."""
    rng = np.random.default_rng(5)
    alarms = sum(compare(draw(rng, 40), draw(rng, 30), seed).p < 0.05 for seed in range(200))
    assert 3 <= alarms <= 19


@pytest.mark.parametrize("change", ["shift", "one class only", "spread"])
def test_it_sees_a_change(change: str) -> None:
    rng = np.random.default_rng(6)
    training, traffic = draw(rng, 200), draw(rng, 100, shift=3 if change == "shift" else 0)
    if change == "one class only":
        traffic = traffic[(traffic @ np.linspace(0, 1, 64)) > 0]
    if change == "spread":
        traffic[:, :40] *= 4
    assert compare(training, traffic, seed=1).p < 0.01


def test_the_same_seed_gives_the_same_answer() -> None:
    training, traffic = draw(np.random.default_rng(1), 1500), draw(np.random.default_rng(2), 30)
    assert compare(training, traffic, seed=3) == compare(training, traffic, seed=3)
