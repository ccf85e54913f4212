"""Whether a challenger becomes champion, and the reason in words.

verdict = decide(Contender(report, scores), Contender(champion_examined, champion_scores), params.gate, 2000, 2017)
verdict.outcome, verdict.reason      # "promoted", "log loss 0.031 against 0.058, ..."
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from scipy import stats

from pawprint import lineage
from pawprint.config import Gate
from pawprint.errors import PawprintError
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.metrics import Scores, paired_interval


@dataclass(frozen=True)
class Contender:
    """One of the two models."""

    report: EvaluationReport
    scores: Scores


Figures = Mapping[str, Any]  # of one candidate in reports/metrics.json


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
        lines = [f"# Gate: {self.outcome}", "", self.reason, ""]
        lines += [f"| rule | challenger: {challenger} | champion: {champion} | |", "|---|---|---|---|"]
        lines += [f"| {r.rule} | {r.challenger} | {r.champion} | {MARKS[r.passed]} |" for r in self.rules]
        return "\n".join(lines) + "\n"


MARKS = {True: "pass", False: "fail", None: "-"}


def first(challenger: Contender, rules: Gate) -> Verdict:
    """The verdict where there is no champion to beat: any model is better than none.

    Limits that it misses are named, and mended by the next champion.
    """
    table = [*_figures(challenger, None), *limits(challenger, None, rules)]
    missed = [rule.rule for rule in table if rule.passed is False]
    but = f"; outside its limits: {'; '.join(missed)}" if missed else ""
    return Verdict(outcome="promoted", reason=f"the first model of this data set{but}", rules=table)


def other_classes(champion: tuple[str, ...], challenger: tuple[str, ...], contender: Contender, rules: Gate) -> Verdict:
    """The verdict where the classes have changed: a new model, since the old one cannot answer."""
    reason = f"the classes are now {', '.join(challenger)} (the champion knew {', '.join(champion)}): a new model"
    table = [*_figures(contender, None), *limits(contender, None, rules)]
    return Verdict(outcome="promoted", reason=reason, rules=table)


def same(champion: Contender, rules: Gate) -> Verdict:
    """The verdict where the best candidate is the reigning champion's very model."""
    table = [*_figures(champion, champion), *limits(champion, champion, rules)]
    return Verdict(outcome="kept", reason="the best candidate is the champion itself, byte for byte", rules=table)


def rolled_back(version: str, because: str, contender: Contender, rules: Gate) -> Verdict:
    """The verdict on a version that a person took off the throne: it does not climb back by itself."""
    reason = (
        f"version {version} was rolled back ({because}) and is not promoted again by itself; "
        "remove its tag `rolled_back` in MLflow to let it compete"
    )
    return Verdict(outcome="kept", reason=reason, rules=[*_figures(contender, None), *limits(contender, None, rules)])


def decide(challenger: Contender, champion: Contender, rules: Gate, resamples: int, seed: int) -> Verdict:
    """Compare two models on the same photographs, pair by pair.

    Promoted when the 95 % interval of the paired difference in log loss lies below zero, the accuracy is not worse
    than `max_accuracy_loss` (lower end of its paired interval) and every limit is kept. McNemar's exact test stands
    beside it: it sees only the photographs on which the two disagree and is too weak at a few hundred to decide.
    """
    ours, theirs = challenger.scores, champion.scores
    if ours.hashes != theirs.hashes:
        raise PawprintError("The gate was given scores of different photographs. Run `dvc repro` to score both again.")
    low, high = paired_interval(theirs.losses - ours.losses, resamples, seed)
    worst_gain, _ = paired_interval(ours.correct.astype(float) - theirs.correct.astype(float), resamples, seed)
    only_ours, only_theirs = int((ours.correct & ~theirs.correct).sum()), int((theirs.correct & ~ours.correct).sum())
    p = stats.binomtest(only_ours, only_ours + only_theirs).pvalue if only_ours + only_theirs else 1.0

    loss_wins, accurate = low > 0, worst_gain >= -rules.max_accuracy_loss
    loss, accuracy = _figures(challenger, champion)
    kept = limits(challenger, champion, rules)
    table = [
        loss.model_copy(
            update={
                "rule": f"log loss better (95 % of paired difference [{low:+.4f}, {high:+.4f}] above 0)",
                "passed": bool(loss_wins),
            }
        ),
        accuracy.model_copy(
            update={
                "rule": f"accuracy not worse by more than {rules.max_accuracy_loss} (low end {worst_gain:+.4f})",
                "passed": bool(accurate),
            }
        ),
        Rule(
            rule=f"McNemar's exact test, p = {p:.3g}",
            challenger=f"right alone {only_ours}",
            champion=f"right alone {only_theirs}",
            passed=None,
        ),
        *kept,
    ]
    figures = f"log loss {ours.losses.mean():.4f} against {theirs.losses.mean():.4f}"
    missed = [rule.rule for rule in kept if rule.passed is False]
    if loss_wins and not accurate:
        return Verdict(outcome="kept", reason=f"{figures}: better, but the accuracy may be worse", rules=table)
    if loss_wins and missed:
        return Verdict(outcome="kept", reason=f"{figures}: better, but outside: {'; '.join(missed)}", rules=table)
    if loss_wins:
        return Verdict(outcome="promoted", reason=f"{figures}: better, and no less accurate", rules=table)
    if high < 0:
        return Verdict(outcome="kept", reason=f"{figures}: worse", rules=table)
    return Verdict(outcome="tie", reason=f"{figures}: no difference that these photographs can show", rules=table)


def twin(challenger: Contender, champion: Contender, rules: Gate, resamples: int, seed: int) -> Verdict:
    """The verdict where the challenger is the champion in 8-bit integers: the same weights, so it need not be better.

    Promoted when it is faster, the accuracy is not worse than `max_int8_accuracy_loss` (lower end of the paired 95 %
    interval) and every limit is kept.
    """
    ours, theirs = challenger.scores, champion.scores
    worst_gain, _ = paired_interval(ours.correct.astype(float) - theirs.correct.astype(float), resamples, seed)
    speeds = challenger.report.speed.throughput_per_second, champion.report.speed.throughput_per_second
    rule = Rule(
        rule=f"accuracy not worse by more than {rules.max_int8_accuracy_loss} (low end {worst_gain:+.4f})",
        challenger=str(challenger.report.test.accuracy),
        champion=str(champion.report.test.accuracy),
        passed=bool(worst_gain >= -rules.max_int8_accuracy_loss),
    )
    faster = Rule(
        rule="answers a second: more",
        challenger=f"{speeds[0]:.1f}",
        champion=f"{speeds[1]:.1f}",
        passed=speeds[0] > speeds[1],
    )
    table = [rule, faster, *_figures(challenger, champion), *limits(challenger, champion, rules)]
    missed = [one.rule for one in table if one.passed is False]
    said = f"the champion's weights in 8-bit integers: {_times(*speeds)} as many answers a second"
    if missed:
        return Verdict(outcome="kept", reason=f"{said}, but outside: {'; '.join(missed)}", rules=table)
    reason = f"{said}, accuracy within gate.max_int8_accuracy_loss of {rules.max_int8_accuracy_loss:g}"
    return Verdict(outcome="promoted", reason=reason, rules=table)


def stands_in(integers: Figures, floats: Figures, rules: Gate) -> str | None:
    """Why a twin in 8-bit integers is put forward for its candidate, both as evaluated; None where it is not.

    Accuracy is that of the validation split, like all by which a challenger is chosen.
    """
    ours, theirs = (float(one["validation"]["accuracy"]["value"]) for one in (integers, floats))
    speeds = [float(one["speed"]["throughput_per_second"]) for one in (integers, floats)]
    if theirs - ours > rules.max_int8_accuracy_loss or speeds[0] <= speeds[1]:
        return None
    return (
        f"in 8-bit integers: {_times(*speeds)} as many answers a second, accuracy {ours:.4f} against {theirs:.4f} on "
        f"the validation split, within gate.max_int8_accuracy_loss of {rules.max_int8_accuracy_loss:g}"
    )


def in_integers(verdict: Verdict, because: str | None) -> Verdict:
    """The verdict, saying why a twin in 8-bit integers was put forward, unless it says so already."""
    if because is None or "8-bit integers" in verdict.reason:
        return verdict
    return verdict.model_copy(update={"reason": f"{verdict.reason}; {because}"})


def _times(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f} times"


def limits(challenger: Contender, champion: Contender | None, rules: Gate) -> list[Rule]:
    """The limits of params.yaml. What misses one passes all the same where the champion is no better at it: a
    limit must not keep a bad champion on the throne."""

    def rule(
        text: str, figure: Callable[[EvaluationReport], float], limit: float, shown: Callable[[EvaluationReport], str]
    ) -> Rule:
        ours = figure(challenger.report)
        theirs = figure(champion.report) if champion else None
        return Rule(
            rule=text,
            challenger=shown(challenger.report),
            champion=shown(champion.report) if champion else "none",
            passed=bool(ours <= limit or (theirs is not None and ours <= theirs)),
        )

    return [
        rule(
            f"calibration error at most {rules.max_calibration_error:g}",
            lambda e: e.test.calibration_error.value,
            rules.max_calibration_error,
            lambda e: f"{e.test.calibration_error.value:.4f}",
        ),
        rule(
            f"worst slice right in at least {rules.min_worst_slice:g}",
            lambda e: -e.worst_slice.accuracy.value if e.worst_slice else -1.0,
            -rules.min_worst_slice,
            lambda e: f"{e.worst_slice.accuracy.value:.4f} ({e.worst_slice.name})" if e.worst_slice else "no slices",
        ),
        rule(
            f"accuracy lost to a disturbance at most {rules.max_robustness_loss:g}",
            lambda e: e.robustness.worst[1],
            rules.max_robustness_loss,
            lambda e: f"{e.robustness.worst[1]:.4f} ({e.robustness.worst[0]})",
        ),
        rule(
            f"test photographs refused at most {rules.max_refused:g}",
            lambda e: e.neither.refused,
            rules.max_refused,
            lambda e: f"{e.neither.refused:.4f}",
        ),
        rule(
            f"one answer (median) within {rules.max_latency_ms:g} ms",
            lambda e: e.speed.latency_p50_ms,
            rules.max_latency_ms,
            lambda e: f"{e.speed.latency_p50_ms:.1f} ms",
        ),
        rule(
            f"model at most {rules.max_size_mb:g} MB",
            lambda e: e.speed.size_mb,
            rules.max_size_mb,
            lambda e: f"{e.speed.size_mb:.1f} MB",
        ),
    ]


def known_to(folder: Path, record: lineage.Lineage, manifests: Sequence[Path], who: str) -> frozenset[str]:
    """SHA-256 of the photographs on which the model in `folder` must not be judged: what its lineage proves that it
    learned from or was tuned on, and near-copies of those.

    photographs.txt says what it learned from; the manifest whose digest stands in the model's lineage must say the
    same. `manifests` are the places where that manifest may lie. PawprintError where nothing is proved.
    """
    manifest = next((path for path in manifests if lineage.is_manifest(path, record)), None)
    if manifest is None:
        raise PawprintError(
            f"Nothing proves what {who} has learned from: the manifest {record.manifest_digest[:12]} that its lineage "
            "names is neither in its run nor in prepared/. Train it again, or give the data set another name."
        )
    claimed = lineage.claimed(folder)
    if not claimed or claimed != lineage.learned(manifest):
        raise PawprintError(
            f"{folder / 'photographs.txt'} does not name the photographs of the manifest that {who} was trained on. "
            "It was changed or lost; train the model again."
        )
    return claimed | lineage.set_aside(manifest)


def fair(tested: Sequence[str], known: Set[str], least: int, who: str) -> tuple[str, ...]:
    """Those of `tested` that are not `known`, in their order: all of them in the usual case.

    PawprintError where some are known and fewer than `least` remain.
    """
    left = tuple(name for name in tested if name not in known)
    if left != tuple(tested) and len(left) < least:
        raise PawprintError(
            f"{who} has learned from {len(tested) - len(left)} of the {len(tested)} test photographs (or from their "
            f"near-copies): its `seed`, `split` or photographs were others. The {len(left)} that are left are too few "
            f"to compare on (`gate.min_photographs` is {least}). Use the `seed` and `split` it was trained with, bring "
            "more photographs, or give the data set another name."
        )
    return left


def on_a_part(verdict: Verdict, left: int, tested: int) -> Verdict:
    """The verdict, saying that it stands on `left` of the `tested` photographs."""
    if left == tested:
        return verdict
    said = f"compared on the {left} of {tested} test photographs that neither has learned from"
    rule = Rule(rule=said, challenger=str(left), champion=str(left), passed=None)
    return verdict.model_copy(update={"reason": f"{verdict.reason}; {said}", "rules": [rule, *verdict.rules]})


def _figures(challenger: Contender, champion: Contender | None) -> list[Rule]:
    ours, theirs = challenger.report.test, champion.report.test if champion else None
    return [
        Rule(
            rule="log loss",
            challenger=str(ours.log_loss),
            champion=str(theirs.log_loss) if theirs else "none",
            passed=None,
        ),
        Rule(
            rule="accuracy",
            challenger=str(ours.accuracy),
            champion=str(theirs.accuracy) if theirs else "none",
            passed=None,
        ),
    ]
