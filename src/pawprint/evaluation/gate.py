"""Whether a challenger becomes champion, and the reason in words.

verdict = decide(Contender(report, scores), Contender(champion_report, champion_scores), params.gate)
verdict.outcome, verdict.reason      # "promoted", "log loss 0.031 against 0.058, ..."
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from pawprint import lineage
from pawprint.config import Gate
from pawprint.data import duplicates
from pawprint.data import manifest as manifests
from pawprint.data.manifest import ManifestRow
from pawprint.errors import PawprintError
from pawprint.evaluation import intervals, slices
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.live import Beside, mcnemar
from pawprint.evaluation.metrics import Figure, Scores, discordant, paired_losses
from pawprint.files import Closed, in_markdown, read_json

Outcome = Literal["promoted", "kept", "tie", "waiting"]  # all but the first keep the champion
OUTCOMES = {  # for a person
    "promoted": "promoted", "kept": "champion unchanged", "tie": "champion unchanged, no significant difference",
    "waiting": "champion unchanged, waiting for live traffic",
}  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A model that the gate compares."""

    report: EvaluationReport
    scores: Scores
    folds: Scores | None = None  # predictions of all photographs out of the fold, where it has them


class Rule(Closed):
    """One line of the gate's table."""

    rule: str
    challenger: str
    champion: str
    passed: bool | None  # None: reported, does not decide


class Verdict(Closed):
    """The gate's decision and its reason."""

    outcome: Outcome
    reason: str
    rules: list[Rule]
    quantized: bool = False  # the champion was compared with an INT8 version of itself
    over: str = ""  # digest of the champion that it was compared with, where it waits for live traffic

    def because(self, *reasons: str) -> "Verdict":
        """The verdict with further reasons, in words."""
        return self.model_copy(update={"reason": "; ".join([self.reason, *filter(None, reasons)])})

    def markdown(self, challenger: str, champion: str) -> str:
        """The table for reports/gate.md."""
        lines = [f"# Gate: {OUTCOMES[self.outcome]}", "", in_markdown(self.reason), ""]
        lines += [f"| rule | challenger: {challenger} | champion: {champion} | |", "|---|---|---|---|"]
        for one in self.rules:
            cells = *map(in_markdown, (one.rule, one.challenger, one.champion)), MARKS[one.passed]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


MARKS = {True: "pass", False: "fail", None: "-"}


def first(challenger: Contender, rules: Gate, reason: str = "the first model of this data set") -> Verdict:
    """The verdict where there is nothing to compare with: any model is promoted; limits that it misses are named."""
    verdict = uncompared("promoted", reason, challenger, None, rules)
    missed = _missed(verdict.rules)
    return verdict.because(f"outside its limits: {missed}" if missed else "")


def uncompared(
    outcome: Outcome, reason: str, challenger: Contender, champion: Contender | None, rules: Gate
) -> Verdict:
    """A verdict that needs no comparison, with the figures and limits of both."""
    table = [*_figures(challenger, champion), *limits(challenger, champion, rules)]
    return Verdict(outcome=outcome, reason=reason, rules=table)


def decide(
    challenger: Contender, champion: Contender, rules: Gate, quantized: bool = False, error: float = intervals.ERROR
) -> Verdict:
    """Compare two models on the same photographs, pair by pair.

    Promoted when the interval of the paired difference in log loss lies below zero, the accuracy is not worse than
    `max_accuracy_loss` (lower end of its paired interval), no slice is shown to be worse and every limit is kept. Each
    interval is wrong on one side in `error` of all comparisons.

    Where both have predictions out of the fold, these decide, for there are several times as many: they judge the
    recipes. The test split, which judges the models, is then the last check: neither log loss nor accuracy may be shown
    to be worse on it. McNemar's exact test is reported beside it. `quantized`: the challenger is an INT8 version of the
    champion; it need not be better but faster, with an accuracy not worse than `max_int8_accuracy_loss`.
    """
    if challenger.scores.hashes != champion.scores.hashes:
        raise PawprintError("The gate was given scores of different photographs. Run `dvc repro` to score both again.")
    folds = None if quantized else _shared_folds(challenger, champion)
    ours, theirs = folds or (challenger.scores, champion.scores)
    where, level = "out of the fold" if folds else "test", 1 - 2 * error
    allowed = rules.max_int8_accuracy_loss if quantized else rules.max_accuracy_loss
    worst, _ = intervals.paired_proportions(*discordant(ours, theirs), len(ours.hashes), level)
    words = f"accuracy not worse by more than {allowed:g} (low end {worst:+.4f}; {len(ours.hashes):,} {where})"
    figures = [Figure.share(int(one.correct.sum()), len(one.hashes)) for one in (ours, theirs)]
    accuracy = Rule(rule=words, challenger=str(figures[0]), champion=str(figures[1]), passed=bool(worst >= -allowed))
    weaker = slices.worse(challenger.report.slices, champion.report.slices)
    words = "no slice shown to be worse (exact tests, 2.5 % for all together)"
    same = Rule(rule=words, challenger=", ".join(weaker) or "none", champion="-", passed=not weaker)
    kept = [same, *limits(challenger, champion, rules)]
    if quantized:
        return _faster(challenger, champion, [accuracy, *kept], allowed)

    low, high = paired_losses(ours, theirs, level)
    losses = [f"{one.losses.mean():.4f}" for one in (ours, theirs)]
    words = f"log loss better ({100 * level:.3g} % of paired difference [{low:+.4f}, {high:+.4f}] above 0; {where})"
    loss = Rule(rule=words, challenger=losses[0], champion=losses[1], passed=bool(low > 0))
    if folds:
        kept = [_not_worse(challenger.scores, champion.scores, "test photographs"), *kept]
    missed = _missed(kept)
    outcome: Outcome = "kept"
    if high < 0:
        reason = "worse"
    elif low <= 0:
        outcome, reason = "tie", "no difference that these photographs can show"
    elif not accuracy.passed:
        reason = (
            f"better, but the accuracy may be worse by more than {allowed:g} as far as {len(ours.hashes)} photographs "
            "can show; bring more, or raise gate.max_accuracy_loss"
        )
    elif missed:
        reason = f"better, but outside: {missed}"
    else:
        outcome, reason = "promoted", "better, and no less accurate"
    told = f" ({len(ours.hashes):,} photographs out of the fold judge the recipe, the test split the model)"
    reason = f"log loss {losses[0]} against {losses[1]}{told if folds else ''}: {reason}"
    table = [loss, accuracy, _mcnemar(ours, theirs), *_figures(challenger, champion)[2:], *kept]
    return Verdict(outcome=outcome, reason=reason, rules=table)


def decide_on_refusals(challenger: Contender, champion: Contender, rules: Gate) -> Verdict:
    """The champion's weights with other thresholds, or another bank, that refuse pictures.

    It is promoted for them, unless what is served (answered and right) is shown to be worse, or a limit is missed.
    """
    served = [one.scores.correct & one.scores.answered for one in (challenger, champion)]
    ours, theirs = (figure.report.test.served_accuracy for figure in (challenger, champion))
    counts = int((served[0] & ~served[1]).sum()), int((served[1] & ~served[0]).sum())
    _, high = intervals.paired_proportions(*counts, len(served[0]))
    rule = Rule(
        rule="served accuracy not shown to be worse", challenger=str(ours), champion=str(theirs), passed=high >= 0
    )
    table = [rule, *_figures(challenger, champion), *limits(challenger, champion, rules)]
    reason = f"the champion's weights with other refusals: served accuracy {ours.value:.4f} against {theirs.value:.4f}"
    if missed := _missed(table):
        return Verdict(outcome="kept", reason=f"{reason}, but outside: {missed}", rules=table)
    return Verdict(outcome="promoted", reason=reason, rules=table)


def decide_on_shared(challenger: Contender, ours: Scores, theirs: Scores, rules: Gate, known: Sequence[str]) -> Verdict:
    """A challenger of other classes than the champion, which knows `known`: `ours` and `theirs` are predictions for the
    photographs of the classes that both know, among these alone.

    It is promoted for what it knows besides, unless log loss or accuracy is shown to be worse on the shared classes.
    """
    classes = challenger.scores.classes
    words = [f"{name}: {', '.join(found)}" for name, found in (
        ("new classes", [one for one in classes if one not in known]),
        ("classes no more", [one for one in known if one not in classes]),
    ) if found]  # fmt: skip
    rule = _not_worse(ours, theirs, f"{len(ours.hashes)} photographs of the shared classes")
    table = [rule, *_figures(challenger, None), *limits(challenger, None, rules)]
    if missed := _missed(table):
        return Verdict(outcome="kept", reason=f"{'; '.join(words)}; but outside: {missed}", rules=table)
    reason = f"{'; '.join(words)}; not shown to be worse on {len(ours.hashes)} photographs of the shared classes"
    return Verdict(outcome="promoted", reason=reason, rules=table)


def wait(verdict: Verdict, champion: str, rules: Gate) -> Verdict:
    """A promotion over the model `champion` (its digest) that is to wait for answers on live traffic."""
    told = verdict.because(f"waits for {rules.live_answers:,} answers beside the champion (gate.live_answers)")
    return told.model_copy(update={"outcome": "waiting", "over": champion})


def waiting(root: Path) -> tuple[lineage.Champion, Verdict] | None:
    """The challenger that waits for live traffic, and the verdict so far; None where none does."""
    verdict, folder = read_json(root / "reports" / "gate.json") or {}, root / "challenger"
    if verdict.get("outcome") != "waiting" or not (folder / "champion.json").exists():
        return None
    return lineage.Champion.read(folder), Verdict.model_validate(verdict)


def after_traffic(verdict: Verdict, found: Sequence[Beside], rules: Gate) -> Verdict:
    """A verdict that waits, by what its challenger did beside the champion.

    It waits on while `rules.live_answers` are not there. Then the challenger is promoted, unless it is shown to be less
    often right where there is feedback, or refuses more than `max_refused` and shown to be more than the champion (each
    at 2.5 %; paired tests in the shadow, unpaired ones for a canary), or a canary is slower than champion and limit.
    """
    one = max(found, key=lambda each: each.answers, default=None)
    if one is None or one.answers < rules.live_answers:
        missing = rules.live_answers - (one.answers if one else 0)
        return verdict.because(f"{missing:,} are missing")
    tests = "paired" if one.mode == "shadow" else "unpaired"
    level = 2 * intervals.ERROR
    right = [f"{right} of {judged}" for right, judged in zip(one.right, one.judged, strict=True)]
    worse = one.p is not None and one.p < level and one.right[0] * one.judged[1] < one.right[1] * one.judged[0]
    more = one.refused[0] > max(rules.max_refused, one.refused[1]) and one.p_refused < level
    slower = one.milliseconds[0] > max(rules.max_latency_ms, one.milliseconds[1])
    table = [
        Rule(
            rule=f"feedback: not shown to be less often right ({tests}, p = {one.p if one.p is not None else 1:.3g})",
            challenger=right[0], champion=right[1], passed=not worse,
        ),
        Rule(
            rule=f"live traffic refused at most {rules.max_refused:g}, or not shown to be more ({tests}, "
            f"p = {one.p_refused:.3g})",
            challenger=f"{one.refused[0]:.4f}", champion=f"{one.refused[1]:.4f}", passed=not more,
        ),
        Rule(
            rule=f"live traffic: one prediction (median) within {rules.max_latency_ms:g} ms",
            challenger=f"{one.milliseconds[0]:.1f} ms", champion=f"{one.milliseconds[1]:.1f} ms",
            passed=not slower if one.mode == "canary" else None,  # in the shadow it waits for whatever else runs
        ),
    ]  # fmt: skip
    words = f"live traffic ({one.mode}): {one.answers:,} answers"
    words += f", {one.agreement:.1%} of them as the champion's" if one.agreement is not None else ""
    missed = _missed(table)
    outcome: Outcome = "kept" if missed else "promoted"
    told = verdict.because(words, f"but outside: {missed}" if missed else "")
    return told.model_copy(update={"outcome": outcome, "rules": [*verdict.rules, *table]})


def error_at(looks: int, budget: int) -> float:
    """The error on one side that a comparison is allowed which is the `looks`-th on one test side.

    2.5 % up to the budget, then less with the square of the number: of any number of equal challengers, however many,
    fewer than 5 % of the budget are promoted by chance.
    """
    return intervals.ERROR * min(1.0, (budget / max(1, looks)) ** 2)


def count_looks(verdict: Verdict, looks: int, budget: int) -> Verdict:
    """The verdict with a rule that says how often this test side has been compared on."""
    words = f"comparisons on this test side (after {budget} each is stricter; another seed is another side)"
    rule = Rule(rule=words, challenger=str(looks), champion="-", passed=None)
    told = verdict.model_copy(update={"rules": [*verdict.rules, rule]})
    return told.because(f"comparison {looks} on this test side" if looks > budget else "")


def _shared_folds(challenger: Contender, champion: Contender) -> tuple[Scores, Scores] | None:
    """Predictions out of the fold for the photographs that both have, under one label; None where they are too few."""
    if challenger.folds is None or champion.folds is None or challenger.folds.classes != champion.folds.classes:
        return None
    ours, theirs = (
        set(zip(one.hashes, one.labels.tolist(), strict=True)) for one in (challenger.folds, champion.folds)
    )
    names = {name for name, _ in ours & theirs}
    if len(names) <= len(challenger.scores.hashes):
        return None
    return challenger.folds.only(names), champion.folds.only(names)


def _not_worse(ours: Scores, theirs: Scores, where: str) -> Rule:
    """Neither log loss nor accuracy is shown to be worse; at 95 % after any number of looks, for a wider interval shows
    less and would let more pass."""
    _, loss = paired_losses(ours, theirs)
    _, accuracy = intervals.paired_proportions(*discordant(ours, theirs), len(ours.hashes))
    shown = [f"log loss {one.losses.mean():.4f}, {one.correct.mean():.4f} right" for one in (ours, theirs)]
    words = f"{where}: neither log loss nor accuracy shown to be worse"
    return Rule(rule=words, challenger=shown[0], champion=shown[1], passed=loss >= 0 and accuracy >= 0)


def _faster(challenger: Contender, champion: Contender, table: list[Rule], allowed: float) -> Verdict:
    """The verdict on an INT8 version of the champion."""
    speeds = [one.report.speed.throughput_per_second for one in (challenger, champion)]
    fast, slow = (f"{speed:.1f}" for speed in speeds)
    faster = Rule(rule="predictions a second: more", challenger=fast, champion=slow, passed=speeds[0] > speeds[1])
    loss, _, *served = _figures(challenger, champion)
    table = [table[0], faster, loss, *served, *table[1:]]
    reason = f"the champion quantized to INT8: {speeds[0] / speeds[1]:.2f} times as many predictions a second"
    if missed := _missed(table):
        return Verdict(outcome="kept", reason=f"{reason}, but outside: {missed}", rules=table, quantized=True)
    reason += f", accuracy within gate.max_int8_accuracy_loss of {allowed:g}"
    return Verdict(outcome="promoted", reason=reason, rules=table, quantized=True)


def prefer_quantized(quantized: Mapping[str, Any], source: Mapping[str, Any], rules: Gate) -> str:
    """Why a quantized model is put forward in place of its source; "" where it is not.

    Both are figures of reports/metrics.json. Accuracy is that of the validation split, as for every challenger.
    """
    ours, theirs = (float(one["validation"]["accuracy"]["value"]) for one in (quantized, source))
    speeds = [float(one["speed"]["throughput_per_second"]) for one in (quantized, source)]
    if theirs - ours > rules.max_int8_accuracy_loss or speeds[0] <= speeds[1]:
        return ""
    return (
        f"quantized to INT8: {speeds[0] / speeds[1]:.2f} times as many predictions a second, accuracy {ours:.4f} "
        f"against {theirs:.4f} on the validation split, within gate.max_int8_accuracy_loss of "
        f"{rules.max_int8_accuracy_loss:g}"
    )


def limits(challenger: Contender, champion: Contender | None, rules: Gate) -> list[Rule]:
    """The limits of params.yaml. A challenger that misses one passes where the champion is no better at it: a limit
    must not protect a bad champion."""
    ours = _limited(challenger.report, rules)
    theirs = _limited(champion.report, rules) if champion else [("", "none", -inf, 0.0)] * len(ours)
    table = []
    for (words, shown, figure, limit), (_, other, least, _) in zip(ours, theirs, strict=True):
        rule, passed = words.format(abs(limit)), figure <= limit
        if not passed and champion and figure <= least:
            rule, passed = f"no worse than the champion, which misses it too: {rule}", True
        unknown = figure == -inf  # nothing was measured that the limit could hold for
        table.append(Rule(rule=rule, challenger=shown, champion=other, passed=None if unknown else passed))
    return table


def seen_hashes(
    folder: Path, record: lineage.Lineage, places: Sequence[Path], tested: Sequence[ManifestRow], who: str
) -> frozenset[str]:
    """SHA-256 of the photographs that the model in `folder` provably learned from or was tuned on, and of those of
    `tested` that are near-copies of them, or of a group with one of them: the same picture or animal is no test.

    photographs.txt lists them; the manifest whose digest is in the model's lineage must list the same. It may be
    at one of the `places`. PawprintError where nothing is proved.
    """
    manifest = next((path for path in places if manifests.is_manifest(path, record.manifest_digest)), None)
    if manifest is None:
        raise PawprintError(
            f"Nothing proves what {who} has learned from: the manifest {record.manifest_digest[:12]} that its lineage "
            "names is neither in its run nor in prepared/. `pawprint run --photos data --name NEW` goes on under a new "
            "name, whose first model needs no comparison."
        )
    claimed = lineage.claimed(folder)
    if not claimed or claimed != manifests.learned_hashes(manifest):
        raise PawprintError(
            f"{folder / 'photographs.txt'} does not list the photographs of the manifest that {who} was trained on. "
            "It was changed or lost; train the model again."
        )
    rows = manifests.read(manifest)
    copies = {row.hash for row in rows if row.reason == "near_copy"}
    learned = [row.phash for row in rows if row.hash in claimed]
    others = [row for row in tested if row.hash not in claimed]
    groups = {row.group for row in (*rows, *tested) if row.group and row.hash in claimed}
    copies |= {row.hash for row in others if row.group in groups}
    near = duplicates.near_to(learned, [row.phash for row in others])
    return claimed | copies | {others[index].hash for index in near}


def exclude_seen(tested: Sequence[str], seen: Set[str], least: int, who: str) -> tuple[str, ...]:
    """Those of `tested` that are not `seen`, in their order: usually all of them.

    PawprintError where some are seen and fewer than `least` remain.
    """
    left = tuple(name for name in tested if name not in seen)
    if left != tuple(tested) and len(left) < least:
        raise PawprintError(
            f"{who} has learned from {len(tested) - len(left)} of the {len(tested)} test photographs (or from "
            f"near-copies of them): its `seed`, `split` or photographs were others. The {len(left)} that are left are "
            f"too few to compare on (`gate.min_photographs` is {least}). Use the `seed` and `split` it was trained "
            "with, bring more photographs, or go on under another name: `pawprint run --photos data --name NEW`."
        )
    return left


def on_subset(verdict: Verdict, left: int, tested: int) -> Verdict:
    """The verdict with a rule that says that it was made on `left` of the `tested` photographs."""
    if left == tested:
        return verdict
    words = f"compared on the {left} of {tested} test photographs that neither has learned from"
    rule = Rule(rule=words, challenger=str(left), champion=str(left), passed=None)
    return verdict.model_copy(update={"rules": [rule, *verdict.rules]}).because(words)


def _limited(report: EvaluationReport, rules: Gate) -> list[tuple[str, str, float, float]]:
    """(rule, figure in words, figure, its limit) for each limit; smaller figures are better."""
    worst, error = report.worst_slice, report.test.calibration_error.value
    right = slices.upper_end(report.slices) if worst else inf
    corrupted = report.corruptions.worst
    surely = max((one.low for one in report.corruptions.lost.values()), default=-inf)
    refused, latency, size = 1 - report.test.coverage.value, report.speed.latency_p50_ms, report.speed.size_mb
    accepted = report.ood.accepted
    slice_ = f"{worst.accuracy} ({worst.name})" if worst else "no slices"
    return [
        ("calibration error at most {:g}", str(report.test.calibration_error), error, rules.max_calibration_error),
        ("every slice may be right in {:g} (95 % for all together)", slice_, -right, -rules.min_worst_slice),
        (
            "no corruption shown to cost more accuracy than {:g} (95 % for all together)",
            f"{corrupted[1]} ({corrupted[0]})" if corrupted else "none was measured",
            surely,
            rules.max_robustness_loss,
        ),
        ("test photographs refused at most {:g}", f"{refused:.4f}", refused, rules.max_refused),
        (
            f"{report.ood.kind} accepted at most {{:g}}",
            f"{accepted} of {report.ood.pictures}" if accepted else "none were given",
            accepted.value if accepted else -inf,
            rules.max_strangers_accepted,
        ),
        ("one prediction (median) within {:g} ms", f"{latency:.1f} ms", latency, rules.max_latency_ms),
        ("model at most {:g} MB", f"{size:.1f} MB", size, rules.max_size_mb),
    ]


def _mcnemar(ours: Scores, theirs: Scores) -> Rule:
    """McNemar's exact test, over the photographs that only one of the two gets right."""
    alone, theirs_alone = discordant(ours, theirs)
    p = mcnemar(alone, theirs_alone)
    rule, counts = f"McNemar's exact test, p = {p:.3g}", [f"right alone {count}" for count in (alone, theirs_alone)]
    return Rule(rule=rule, challenger=counts[0], champion=counts[1], passed=None)


def _missed(rules: Sequence[Rule]) -> str:
    return "; ".join(rule.rule for rule in rules if rule.passed is False)


def _figures(challenger: Contender, champion: Contender | None) -> list[Rule]:
    """Log loss and accuracy of both, and what of it is served."""

    def rule(name: str, field: str) -> Rule:
        ours, theirs = (getattr(one.report.test, field) if one else "none" for one in (challenger, champion))
        return Rule(rule=name, challenger=str(ours), champion=str(theirs), passed=None)

    return [
        rule("log loss", "log_loss"), rule("accuracy", "accuracy"), rule("served accuracy", "served_accuracy"),
        rule("coverage", "coverage"), rule("refused as unlike", "unlike"), rule("refused as unsure", "unsure"),
    ]  # fmt: skip
