"""The best model of this pipeline against the current champion -> the alias, champion.json and reports/gate.md.

python -m flows.register
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from flows import ROOT
from flows.tasks import flow, run_stage, step
from pawprint.config import Params, load_params
from pawprint.data import manifest
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.data.manifest import ManifestRow
from pawprint.data.originals import prepared_as
from pawprint.errors import PawprintError
from pawprint.evaluation import gate, model_card, release, slices
from pawprint.evaluation.evaluator import EvaluationReport, Evaluator, load_serving, speed
from pawprint.evaluation.gate import Contender, Verdict
from pawprint.evaluation.metrics import Scores, score
from pawprint.files import replace_folder, write_text
from pawprint.inference.classifier import FOLDS_FILE, ModelInfo, load_verified
from pawprint.lineage import Champion
from pawprint.progress import as_json, say, show_table
from pawprint.tracking.registry import model_name
from pawprint.tracking.tracker import Tracker

ATTEMPTS = 5  # a registration that another one overtakes compares again, with the new champion


@flow(name="register", flow_run_name="register")
def register() -> None:
    """Move the alias `champion` only for a reason that can be stated."""
    # 1. the challenger: the lowest log loss on the validation split, so that the test split stays unseen
    params = load_params(ROOT / "params.yaml")
    data = PreparedDataset.open(ROOT / "prepared")
    tracker = Tracker(ROOT)
    name, why_quantized = choose_challenger(params, data.split("test"))

    # 2. every model becomes a registered version, known by its digest; an experiment's does not
    tracker.sync()
    if is_experiment():
        entry = unregistered(tracker, name)
    else:
        versions = {each: register_version(tracker, each) for each in params.models}
        entry = versions[name]
        tracker.registry.challenge(entry)

    # 3. the gate: challenger and champion on the same test photographs
    evaluated = read_evaluations(params, data.split("test"))
    challenger = evaluated[entry.model_digest]
    unseen(tracker, entry, data.split("test").rows, len(challenger.scores.hashes), name)
    champion, verdict = compare_and_promote(tracker, params, data, entry, evaluated)
    verdict = verdict if verdict.quantized else verdict.because(why_quantized)
    show(entry, champion, verdict)

    # 4. the decision, for the next stage and for people
    log_decision(tracker, entry, champion, challenger, verdict, data.drawn)

    # 5. a challenger that was not promoted can answer beside the champion (serving.challenger)
    if entry.version:
        lay_beside(tracker, entry)


def is_experiment() -> bool:
    """Does `dvc exp run` run this, without having been asked to promote?"""
    return "DVC_EXP_BASELINE_REV" in os.environ and os.environ.get("PAWPRINT_PROMOTE") != "1"


def choose_challenger(params: Params, test: Split) -> tuple[str, str]:
    """The model to put forward, and why a quantized one is put forward in place of its source ("" where it is not).

    Speeds are measured here and now: the evaluation may come from another machine, with other instructions.
    """
    figures: dict[str, Any] = json.loads((ROOT / "reports" / "metrics.json").read_text(encoding="utf-8"))
    best = min(params.candidates, key=lambda name: float(figures[name]["validation"]["log_loss"]["value"]))
    for name, source in params.quantized.items():
        if source != best:
            continue
        for each in (name, source):
            figures[each]["speed"] = speed(load_serving(ROOT / "models" / each, params), test).model_dump()
        if why := gate.prefer_quantized(figures[name], figures[source], params.gate):
            return name, why
    return best, ""


@step(retries=2, delay=2)
def register_version(tracker: Tracker, name: str) -> Champion:
    """The registry's entry of a model, which MLflow must hold first."""
    folder = ROOT / "models" / name
    info, _ = load_verified(folder)
    return tracker.registry.register(model_name(info.lineage.dataset), tracker.restore_run(folder), info)


def unregistered(tracker: Tracker, name: str) -> Champion:
    """A model that is compared and not registered; its version is ""."""
    folder = ROOT / "models" / name
    info, _ = load_verified(folder)
    mlflow_run, dataset = tracker.restore_run(folder), info.lineage.dataset
    entry = Champion(
        model=model_name(dataset),
        version="",
        run_id=mlflow_run.id,
        candidate=name,
        model_digest=info.model_digest,
        dataset=dataset,
    )
    if tracker.registry.current_champion(entry.model) is None:
        raise PawprintError(
            f"{entry.model} has no champion yet, and an experiment makes none. Run `pawprint run` first."
        )
    return entry


def read_evaluations(params: Params, test: Split) -> dict[str, Contender]:
    """By model digest, what the stage `evaluate` left of each model: nothing is measured twice."""
    found = {}
    for name in params.models:
        folder, model = ROOT / "reports" / "evaluation" / name, ROOT / "models" / name
        try:
            report = EvaluationReport.model_validate_json((folder / release.EVALUATION).read_bytes())
            scores, folds = Scores.load(folder / release.SCORES), Scores.out_of_fold(model / FOLDS_FILE)
        except (OSError, ValueError):
            report = None
        if not report or report.model_digest != ModelInfo.read(model).model_digest or scores.hashes != test.hashes:
            raise PawprintError(f"{folder}/ does not hold the evaluation of {model}/. Run `dvc repro evaluate`.")
        found[report.model_digest] = Contender(report, scores, folds)
    return found


def unseen(tracker: Tracker, version: Champion, tested: Sequence[ManifestRow], least: int, who: str) -> tuple[str, ...]:
    """Hashes of those of the test photographs that the version provably did not learn from; PawprintError where too
    few."""
    folder = tracker.registry.folder(version)
    record = ModelInfo.read(folder).lineage
    kept = tracker.manifest(version.run_id, record.manifest_digest)
    manifests = [ROOT / "prepared" / manifest.FILE, *([kept] if kept else [])]
    seen = gate.seen_hashes(folder, record, manifests, tested, who)
    return gate.exclude_seen([row.hash for row in tested], seen, least, who)


def compare_and_promote(
    tracker: Tracker, params: Params, data: PreparedDataset, entry: Champion, evaluated: Mapping[str, Contender]
) -> tuple[Champion | None, Verdict]:
    """Compare, and promote if that is the verdict; compare again where another registration was faster."""
    for _ in range(ATTEMPTS):
        champion = tracker.registry.current_champion(entry.model)
        verdict = compare(tracker, params, data, entry, champion, evaluated)
        if verdict.outcome == "promoted" and is_experiment():
            reason = "would be promoted, but an experiment moves no alias (PAWPRINT_PROMOTE=1 lets it)"
            return champion, verdict.model_copy(update={"outcome": "kept"}).because(reason)
        if verdict.outcome == "promoted" and champion and params.gate.live_answers:
            return champion, gate.wait(verdict, champion.model_digest, params.gate)  # flows/live.py goes on
        if verdict.outcome != "promoted" or tracker.registry.promote(entry, verdict.reason, over=champion):
            return champion, verdict
    raise PawprintError(
        f"Other registrations keep moving the champion of {entry.model}. Run `dvc repro` when they end."
    )


@step()
def compare(
    tracker: Tracker,
    params: Params,
    data: PreparedDataset,
    entry: Champion,
    champion: Champion | None,
    evaluated: Mapping[str, Contender],
) -> Verdict:
    """The gate's verdict; a champion of before is evaluated again by today's rules, whatever the verdict."""
    found = dict(evaluated)
    verdict = judge(tracker, params, data, entry, champion, found)
    stays = champion and (verdict.outcome != "promoted" or params.gate.live_answers or is_experiment())
    if champion and (stays or champion.model_digest in found) and is_of_before(tracker, champion):
        if champion.model_digest not in found:
            known = ModelInfo.read(tracker.registry.folder(champion)).classes
            rows = [row for row in data.split("test").rows if row.label in known]
            left = unseen(tracker, champion, rows, params.gate.min_photographs, "the champion")
            if not left:
                return verdict
            found |= evaluate_now(tracker, params, data, [champion], left)
        report = found[champion.model_digest].report.model_dump_json(indent=1) + "\n"
        tracker.run(champion.run_id).text(report, f"release/{release.EVALUATION}")
        return verdict.because("the champion was evaluated again by today's rules")
    return verdict


def judge(
    tracker: Tracker,
    params: Params,
    data: PreparedDataset,
    entry: Champion,
    champion: Champion | None,
    found: dict[str, Contender],
) -> Verdict:
    """The gate's verdict; `found` takes what had to be evaluated on today's photographs for it."""
    registry, rules, challenger = tracker.registry, params.gate, found[entry.model_digest]
    if entry.version and (when_and_why := registry.rolled_back(entry)):
        reason = (
            f"version {entry.version} was rolled back ({when_and_why}) and is not promoted again by itself; "
            "remove its tag `rolled_back` in MLflow to let it compete"
        )
        return gate.uncompared("kept", reason, challenger, None, rules)
    if champion is None:
        return gate.first(challenger, rules)
    if champion.model_digest == entry.model_digest:
        reason = "the best candidate is the champion itself, byte for byte"
        return gate.uncompared("kept", reason, challenger, challenger, rules)
    theirs, ours = (ModelInfo.read(registry.folder(version)) for version in (champion, entry))
    tested = challenger.scores.hashes
    who = f"the champion {champion.model} version {champion.version}"
    shared = [name for name in ours.classes if name in theirs.classes]
    if theirs.classes != ours.classes and len(shared) < 2:
        names = ", ".join(ours.classes), ", ".join(theirs.classes)
        reason = f"the classes are now {names[0]} (the champion knew {names[1]}): nothing to compare on"
        return gate.first(challenger, rules, reason)
    # A side is what is drawn into it, so that one more photograph is no fresh one.
    side = hashlib.sha256(f"{params.seed} {params.split.model_dump_json()}".encode()).hexdigest()
    looks = registry.count_look(entry, side)  # an experiment's too: it is looked at
    if theirs.classes != ours.classes:
        of_both = challenger.scores.among(shared)
        rows = data.split("test").only(of_both.hashes).rows
        left = unseen(tracker, champion, rows, rules.min_photographs, who)
        test, _ = as_trained(theirs, data.split("test").only(left), params)
        before = score(load_serving(registry.folder(champion), params), test).among(shared)
        verdict = gate.decide_on_shared(challenger, of_both.only(left), before, rules, theirs.classes)
        return gate.count_looks(verdict, looks, rules.looks)
    left = unseen(tracker, champion, data.split("test").rows, rules.min_photographs, who)
    # Where seed, split or photographs were others, both are evaluated again, on what neither has seen.
    if left != tested:
        found.clear()
    found |= evaluate_now(
        tracker, params, data, [each for each in (entry, champion) if each.model_digest not in found], left
    )
    quantized = bool(ours.quantized_from) and not theirs.quantized_from and ours.weights_digest == theirs.weights_digest
    if quantized:  # see choose_challenger
        for each in (entry, champion):
            now = speed(load_serving(registry.folder(each), params), data.split("test"))
            report = found[each.model_digest].report.model_copy(update={"speed": now})
            found[each.model_digest] = replace(found[each.model_digest], report=report)
    both = found[entry.model_digest], found[champion.model_digest]
    if ours.weights_digest == theirs.weights_digest and ours.quantized_from == theirs.quantized_from:
        refusals = [(info.ood_digest, info.ood_threshold, info.min_confidence) for info in (ours, theirs)]
        if refusals[0] != refusals[1]:
            return gate.count_looks(gate.decide_on_refusals(*both, rules), looks, rules.looks)
    verdict = gate.decide(*both, rules, quantized, gate.error_at(looks, rules.looks))
    return gate.on_subset(gate.count_looks(verdict, looks, rules.looks), len(left), len(tested))


def evaluate_now(
    tracker: Tracker, params: Params, data: PreparedDataset, versions: Sequence[Champion], left: Collection[str]
) -> dict[str, Contender]:
    """Versions by their digest, evaluated on the test photographs `left`, which all are cut into slices alike."""
    found: dict[str, Contender] = {}
    today, evaluators = data.split("test").only(left), dict[str, Evaluator]()
    traits = slices.traits(today, ROOT / "data") if versions else {}
    for version in versions:
        folder = tracker.registry.folder(version)
        classifier = load_serving(folder, params)
        test, own = as_trained(classifier.info, today, params)
        if (how := own.preprocess.model_dump_json()) not in evaluators:
            evaluators[how] = Evaluator.of(test, ROOT / "data", own, data.drawn, traits)
        found[version.model_digest] = Contender(
            *evaluators[how].evaluate(classifier), Scores.out_of_fold(folder / FOLDS_FILE)
        )
    return found


def as_trained(info: ModelInfo, test: Split, params: Params) -> tuple[Split, Params]:
    """The test photographs, and the parameters, with `preprocess` as the model was trained: a champion of before may
    have seen photographs of another size or fit."""
    own = params.preprocess.model_copy(update=info.prepared)
    if own == params.preprocess:
        return test, params
    return prepared_as(test, own, ROOT / "data"), params.model_copy(update={"preprocess": own})


def is_of_before(tracker: Tracker, champion: Champion) -> bool:
    """Was the evaluation that is kept with it made by an earlier version?"""
    for place in ("release", "gate"):
        if kept := tracker.artifact(champion.run_id, f"{place}/{release.EVALUATION}"):
            try:
                EvaluationReport.model_validate_json(kept.read_bytes())
            except ValueError:
                return True
            return False
    return False


def show(entry: Champion, champion: Champion | None, verdict: Verdict) -> None:
    """Print the gate's table."""
    if as_json():
        names = {"challenger": _name(entry), "champion": _name(champion)}
        say(
            "",
            gate=verdict.outcome,
            reason=verdict.reason,
            **names,
            rules=[rule.model_dump() for rule in verdict.rules],
        )
        return
    table = Table("rule", f"challenger {_name(entry)}", f"champion {_name(champion)}", "", box=box.SIMPLE_HEAD)
    for rule in verdict.rules:
        table.add_row(*map(escape, (rule.rule, rule.challenger, rule.champion)), gate.MARKS[rule.passed])
    show_table(table)
    show_table(f"  gate: {gate.OUTCOMES[verdict.outcome]}: {escape(verdict.reason)}")


@step(retries=2, delay=2)
def log_decision(
    tracker: Tracker,
    entry: Champion,
    champion: Champion | None,
    challenger: Contender,
    verdict: Verdict,
    drawn: bool,
) -> None:
    """champion.json, reports/gate.json and gate.md; the verdict on the challenger's run and on its version."""
    registry, reports, test = tracker.registry, ROOT / "reports", challenger.report.test
    if entry.version:
        kept = ("accuracy", "served_accuracy", "coverage", "log_loss")
        registry.record_metrics(entry, {name: getattr(test, name).value for name in kept})
    current = registry.current_champion(entry.model)
    assert current is not None  # the first model of a data set is always promoted
    write_text(ROOT / "champion.json", current.model_dump_json(indent=1) + "\n")
    write_text(reports / release.GATE, verdict.model_dump_json(indent=1) + "\n")
    write_text(reports / release.TABLE, verdict.markdown(_name(entry), _name(champion)))

    folder = "release" if verdict.outcome == "promoted" else "gate"  # a later verdict never replaces a promotion's
    mlflow_run = tracker.run(entry.run_id)
    for name in (release.TABLE, release.GATE):
        mlflow_run.artifact(reports / name, folder)
    mlflow_run.text(challenger.report.model_dump_json(indent=1) + "\n", f"{folder}/{release.EVALUATION}")
    again = champion is not None and entry.version == champion.version  # its tags say why it was promoted
    tags = {} if again else {"gate": verdict.outcome, "gate_reason": verdict.reason}
    mlflow_run.tags({**tags, "drawn": drawn})
    if not entry.version:
        return
    info, _ = load_verified(registry.folder(entry))
    figures = {"test_accuracy": f"{test.accuracy.value:.4f}", "test_log_loss": f"{test.log_loss.value:.4f}"}
    registry.describe(entry, model_card.summary(info, challenger.report, drawn), tags | figures)


def lay_beside(tracker: Tracker, entry: Champion) -> None:
    """challenger/: the model folder of `entry`; none where it is the champion now."""
    out = ROOT / "challenger"
    if Champion.read(ROOT).version == entry.version:
        shutil.rmtree(out, ignore_errors=True)
        return
    with replace_folder(out) as fresh:
        shutil.copytree(tracker.registry.folder(entry), fresh, dirs_exist_ok=True)
        write_text(fresh / "champion.json", entry.model_dump_json(indent=1) + "\n")


def _name(champion: Champion | None) -> str:
    if champion is None:
        return "none"
    return (
        f"{champion.candidate}, version {champion.version}"
        if champion.version
        else f"{champion.candidate}, not registered"
    )


if __name__ == "__main__":
    run_stage(register, "register")
