"""Whether a challenger becomes champion, and the reason in words.

verdict = decide(challenger_scores, champion_scores, rules, resamples=2000, seed=2017)
verdict.outcome, verdict.reason      # "promoted", "log loss 0.031 against 0.058, ..."
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from pawprint.errors import PawprintError
from pawprint.evaluation.metrics import LEVEL, Scores
from pawprint.params import Gate


class Rule(BaseModel):
    """One line of the gate's table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    challenger: str
    champion: str
    passed: bool | None  # None: reported, does not decide


class Verdict(BaseModel):
    """What the gate decided and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Literal["promoted", "kept", "tie"]  # a tie keeps the champion
    reason: str
    rules: list[Rule]

    def markdown(self, challenger: str, champion: str) -> str:
        """The table for reports/gate.md."""
        marks = {True: "pass", False: "fail", None: "-"}
        lines = [f"# Gate: {self.outcome}", "", self.reason, ""]
        lines += [f"| rule | challenger: {challenger} | champion: {champion} | |", "|---|---|---|---|"]
        lines += [f"| {r.rule} | {r.challenger} | {r.champion} | {marks[r.passed]} |" for r in self.rules]
        return "\n".join(lines) + "\n"


def first(challenger: Scores) -> Verdict:
    """The verdict where there is no champion to beat."""
    return Verdict(
        outcome="promoted",
        reason="the first model of this data set",
        rules=[
            Rule(rule="log loss", challenger=f"{challenger.losses.mean():.4f}", champion="none", passed=None),
            Rule(rule="accuracy", challenger=f"{challenger.correct.mean():.4f}", champion="none", passed=None),
        ],
    )


def decide(challenger: Scores, champion: Scores, rules: Gate, resamples: int, seed: int) -> Verdict:
    """Compare two models on the same photographs, pair by pair.

    Promoted when the 95 % interval of the paired difference in log loss lies below zero and the accuracy is not
    worse than `max_accuracy_loss` (lower end of its paired interval). McNemar's exact test stands beside it: it
    sees only the photographs on which the two disagree and is too weak at a few hundred to decide.
    """
    if challenger.hashes != champion.hashes:
        raise PawprintError("The gate was given scores of different photographs. Run `dvc repro` to score both again.")
    better = champion.losses - challenger.losses
    gain = challenger.correct.astype(float) - champion.correct.astype(float)
    low, high = _paired_interval(better, resamples, seed)
    worst_gain, _ = _paired_interval(gain, resamples, seed)
    only_challenger = int((challenger.correct & ~champion.correct).sum())
    only_champion = int((champion.correct & ~challenger.correct).sum())
    p = (
        stats.binomtest(only_challenger, only_challenger + only_champion).pvalue
        if only_challenger + only_champion
        else 1.0
    )

    loss_wins, accurate = low > 0, worst_gain >= -rules.max_accuracy_loss
    table = [
        Rule(
            rule=f"log loss better (paired difference [{low:+.4f}, {high:+.4f}] above 0)",
            challenger=f"{challenger.losses.mean():.4f}",
            champion=f"{champion.losses.mean():.4f}",
            passed=bool(loss_wins),
        ),
        Rule(
            rule=f"accuracy not worse by more than {rules.max_accuracy_loss} (low end {worst_gain:+.4f})",
            challenger=f"{challenger.correct.mean():.4f}",
            champion=f"{champion.correct.mean():.4f}",
            passed=bool(accurate),
        ),
        Rule(
            rule=f"McNemar's exact test, p = {p:.3g}",
            challenger=f"right alone {only_challenger}",
            champion=f"right alone {only_champion}",
            passed=None,
        ),
    ]
    figures = f"log loss {challenger.losses.mean():.4f} against {champion.losses.mean():.4f}"
    if loss_wins and accurate:
        return Verdict(outcome="promoted", reason=f"{figures}: better, and no less accurate", rules=table)
    if loss_wins:
        return Verdict(outcome="kept", reason=f"{figures}: better, but the accuracy may be worse", rules=table)
    if high < 0:
        return Verdict(outcome="kept", reason=f"{figures}: worse", rules=table)
    return Verdict(outcome="tie", reason=f"{figures}: no difference that these photographs can show", rules=table)


def same(champion: Scores) -> Verdict:
    """The verdict where the best candidate is the reigning champion's very model."""
    return Verdict(
        outcome="kept", reason="the best candidate is the champion itself, byte for byte", rules=first(champion).rules
    )


def other_classes(champion: tuple[str, ...], challenger: tuple[str, ...], scores: Scores) -> Verdict:
    """The verdict where the classes have changed: a new model, since the old one cannot answer."""
    return Verdict(
        outcome="promoted",
        reason=f"the classes are now {', '.join(challenger)} (the champion knew {', '.join(champion)}): a new model",
        rules=first(scores).rules,
    )


def refuse_overlap(folder: Path, tested: tuple[str, ...], who: str) -> None:
    """PawprintError where the model in `folder` would be judged on photographs that it has learned from."""
    learned = set((folder / "photographs.txt").read_text(encoding="utf-8").split())
    both = len(learned.intersection(tested))
    if both:
        raise PawprintError(
            f"{who} has learned from {both} of the {len(tested)} test photographs (its `seed` or `split` was another), "
            "so the comparison would be unfair. Use the `seed` and `split` it was trained with, or give the data set "
            "another name."
        )


def _paired_interval(
    differences: "np.ndarray[tuple[int], np.dtype[np.float64]]", resamples: int, seed: int
) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(differences, len(differences)).mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
