"""The gate promotes for a reason that it can state, and for nothing else."""

from pathlib import Path

import numpy as np
import pytest

from pawprint.errors import PawprintError
from pawprint.evaluation import gate
from pawprint.evaluation.metrics import Scores
from pawprint.params import Gate

N = 400
RULES = Gate(max_accuracy_loss=0.005)


def scores(sure: float, wrong: int, *, seed: int = 0, noise: float = 0.0, hashes: str = "h") -> Scores:
    """N photographs of two classes; the first `wrong` are wrong, each answer given with `sure`."""
    labels = np.arange(N) % 2
    confidence = np.clip(sure + np.random.default_rng(seed).normal(0, noise, N), 0.51, 0.999)
    confidence[:wrong] = 1 - confidence[:wrong]
    probabilities = np.where(np.arange(2) == labels[:, None], confidence[:, None], 1 - confidence[:, None])
    names = tuple(f"{hashes}{i}" for i in range(N))
    return Scores(names, names, labels, probabilities, ("cat", "dog"))


def decide(challenger: Scores, champion: Scores) -> gate.Verdict:
    return gate.decide(challenger, champion, RULES, resamples=500, seed=1)


def test_a_better_model_is_promoted_and_a_worse_one_is_not() -> None:
    good, bad = scores(0.97, 4), scores(0.80, 40)
    up, down = decide(good, bad), decide(bad, good)
    assert (up.outcome, down.outcome) == ("promoted", "kept")
    assert all(rule.passed is not False for rule in up.rules)
    assert "worse" in down.reason


def test_noise_is_a_tie_and_a_tie_keeps_the_champion() -> None:
    verdict = decide(scores(0.9, 20, seed=1, noise=0.03), scores(0.9, 20, seed=2, noise=0.03))
    assert verdict.outcome == "tie"


def test_surer_answers_do_not_buy_more_mistakes() -> None:
    champion = scores(0.75, 0)
    verdict = decide(scores(0.999, 8), champion)
    assert verdict.outcome == "kept"
    assert "accuracy may be worse" in verdict.reason


def test_the_verdict_is_the_same_on_every_run_and_prints_every_rule() -> None:
    one, two = (decide(scores(0.95, 5), scores(0.9, 9)) for _ in range(2))
    assert one == two
    table = one.markdown("a", "b")
    assert all(rule.rule in table for rule in one.rules)


def test_different_photographs_are_never_compared() -> None:
    with pytest.raises(PawprintError, match="different photographs"):
        decide(scores(0.9, 5), scores(0.9, 5, hashes="other"))


def test_a_model_is_not_judged_on_what_it_learned_from(tmp_path: Path) -> None:
    (tmp_path / "photographs.txt").write_text("aa\nbb\n")
    gate.refuse_overlap(tmp_path, ("cc", "dd"), "it")
    with pytest.raises(PawprintError, match="it has learned from 1 of the 2 test photographs"):
        gate.refuse_overlap(tmp_path, ("bb", "cc"), "it")
