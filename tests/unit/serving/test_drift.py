"""The two-sample test behind the traffic report's alarm."""

import numpy as np
import pytest

from pawprint.serving.drift import compare, label_shift


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


def test_the_separation_is_that_of_a_known_shift_and_does_not_grow_with_the_number() -> None:
    """A p-value falls with the number of pictures, the separation does not."""
    rng = np.random.default_rng(8)
    found = [compare(draw(rng, n), draw(rng, n, shift=6), seed=1) for n in (40, 400)]
    assert all(one.separation > 0.95 for one in found)
    same = [compare(draw(rng, n), draw(rng, n), seed=1).separation for n in (40, 400)]
    assert abs(same[1] - 0.5) < 0.06
    assert abs(same[0] - 0.5) < 0.15
    small = compare(draw(rng, 900), draw(rng, 900, shift=0.8), seed=1)
    assert small.p < 0.01  # to be seen, and small
    assert small.separation < 0.75


def test_label_shift_of_known_counts() -> None:
    """Of 100 pictures 80 are called a cat, of 100 held-out photographs 50: thirty would have to be something else."""
    found = label_shift(np.array([50, 50]), np.array([80, 20]), seed=1)
    assert found.distance == pytest.approx(0.3)
    assert found.p == pytest.approx(0.001)
    assert label_shift(np.array([500, 500]), np.array([10, 10]), seed=1).p == 1
    assert (
        label_shift(np.array([500, 500, 0]), np.array([10, 9, 1]), seed=1).p < 0.05
    )  # held-out photographs never were
    with pytest.raises(ValueError, match="at least one prediction"):
        label_shift(np.array([5, 5]), np.array([0, 0]), seed=1)


def test_label_shift_raises_a_false_alarm_in_one_of_twenty() -> None:
    rng = np.random.default_rng(9)
    shares = np.arange(1, 38) / sum(range(1, 38))
    p = [label_shift(rng.multinomial(800, shares), rng.multinomial(60, shares), seed).p for seed in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09
