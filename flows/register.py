"""The best candidate against the reigning champion -> the alias, champion.json and reports/gate.md.

python -m flows.register
"""

import json
from collections.abc import Sequence
from typing import Any

from prefect import flow
from rich.console import Console
from rich.table import Table

from flows import ROOT
from flows.tasks import run, step
from pawprint.config import Params, load_params, twin
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.evaluation import gate, model_card, release
from pawprint.evaluation.evaluator import Evaluator
from pawprint.evaluation.gate import Contender, Verdict
from pawprint.inference.classifier import Classifier, load_verified
from pawprint.tracking import registry, runs, training_run
from pawprint.tracking.registry import Champion

ATTEMPTS = 5  # a registration that is overtaken compares again, with the new champion


@flow(name="register", flow_run_name="register")
def register() -> None:
    """Move the alias `champion` only for a reason that can be stated."""
    # 1. who challenges: the lowest log loss on the validation split, so that the test split stays unseen
    params = load_params(ROOT / "params.yaml")
    data = PreparedDataset.open(ROOT / "prepared")
    candidate, because = challenger_of(params)

    # 2. every candidate becomes a registered version, known by its digest
    versions = {name: register_version(name) for name in params.candidates}
    entry = versions[candidate]
    registry.challenge(ROOT, entry)

    # 3. the gate: challenger and champion on the same test photographs, through the runtime that serves;
    # 4. the alias moves, or stays
    evaluator = Evaluator.of(data.split("test"), ROOT / "data", params)
    fair_photographs(entry, evaluator.test.hashes, len(evaluator.test), candidate)
    challenger = examine(entry, evaluator)
    reigning, verdict = contest(params, entry, challenger, evaluator)
    verdict = gate.in_integers(verdict, because)
    show(entry, reigning, verdict)

    # 5. what the next stage packages, and why
    write_decision(entry, reigning, verdict)
    log_decision(entry, challenger, verdict, data.drawn)


def challenger_of(params: Params) -> tuple[str, str | None]:
    """The candidate to put forward, and why its twin in 8-bit integers where that one stands in for it."""
    figures: dict[str, Any] = json.loads((ROOT / "reports" / "metrics.json").read_text(encoding="utf-8"))
    trained = [name for name, candidate in params.candidates.items() if not candidate.int8]
    best = min(trained, key=lambda name: float(figures[name]["validation"]["log_loss"]["value"]))
    if best in params.int8 and (because := gate.stands_in(figures[twin(best)], figures[best], params.gate)):
        return twin(best), because
    return best, None


@step(retries=2, delay=2)
def register_version(candidate: str) -> Champion:
    """The registry's entry for the candidate's model, which MLflow must hold first."""
    training_run.sync(ROOT)
    folder = ROOT / "models" / candidate
    info, _ = load_verified(folder)
    with runs.reopen(ROOT, runs.RunRecord.read(folder / "run.json"), folder) as mlflow_run:
        return registry.register(ROOT, registry.model_name(info.lineage.dataset), mlflow_run, info)


@step()
def examine(entry: Champion, evaluator: Evaluator) -> Contender:
    """A registered version on test photographs."""
    return Contender(*evaluator.examine(Classifier(registry.folder(ROOT, entry))))


def fair_photographs(entry: Champion, tested: Sequence[str], least: int, who: str) -> tuple[str, ...]:
    """Those of the test photographs that the version's lineage proves it does not know; refused where too few."""
    folder = registry.folder(ROOT, entry)
    kept = runs.artifact(ROOT, entry.run_id, runs.MANIFEST)
    manifests = [ROOT / "prepared" / "manifest.csv", *([kept] if kept else [])]
    return gate.fair(tested, gate.known_to(folder, load_verified(folder)[0].lineage, manifests, who), least, who)


def contest(
    params: Params, entry: Champion, challenger: Contender, evaluator: Evaluator
) -> tuple[Champion | None, Verdict]:
    """Judge, and promote if that is the verdict; judge again where another registration was faster."""
    for _ in range(ATTEMPTS):
        reigning = registry.champion(ROOT, entry.model)
        verdict = judge(params, entry, reigning, challenger, evaluator)
        if verdict.outcome != "promoted" or registry.promote(ROOT, entry, verdict.reason, over=reigning):
            return reigning, verdict
    raise PawprintError(
        f"Other registrations keep moving the champion of {entry.model}. Run `dvc repro` when they end."
    )


@step()
def judge(
    params: Params, entry: Champion, reigning: Champion | None, challenger: Contender, evaluator: Evaluator
) -> Verdict:
    """What the gate says; a champion of an earlier run is fetched and report again on today's photographs."""
    if because := registry.rolled_back(ROOT, entry):
        return gate.rolled_back(entry.version, because, challenger, params.gate)
    if reigning is None:
        return gate.first(challenger, params.gate)
    if reigning.model_digest == entry.model_digest:
        return gate.same(challenger, params.gate)
    theirs, ours = (load_verified(registry.folder(ROOT, one))[0] for one in (reigning, entry))
    if theirs.classes != ours.classes:
        return gate.other_classes(theirs.classes, ours.classes, challenger, params.gate)
    tested, who = evaluator.test.hashes, f"the champion {reigning.model} version {reigning.version}"
    left = fair_photographs(reigning, tested, params.gate.min_photographs, who)
    if left != tested:  # its seed, split or photographs were others: both answer again, on what neither knows
        evaluator = Evaluator.of(evaluator.test.only(left), ROOT / "data", params)
        challenger = examine(entry, evaluator)
    champion = examine(reigning, evaluator)
    is_twin = ours.int8 and not theirs.int8 and ours.weights_digest == theirs.weights_digest
    compare = gate.twin if is_twin else gate.decide
    verdict = compare(challenger, champion, params.gate, params.evaluation.bootstrap, params.seed)
    return gate.on_a_part(verdict, len(left), len(tested))


def show(entry: Champion, reigning: Champion | None, verdict: Verdict) -> None:
    """The gate's table on the terminal."""
    table = Table("rule", f"challenger {_name(entry)}", f"champion {_name(reigning)}", "", title_justify="left")
    for rule in verdict.rules:
        table.add_row(rule.rule, rule.challenger, rule.champion, gate.MARKS[rule.passed])
    console = Console(width=120)
    console.print(table)
    print(f"gate: {verdict.outcome} ({verdict.reason})")


@step()
def write_decision(entry: Champion, reigning: Champion | None, verdict: Verdict) -> None:
    """champion.json (what reigns now), reports/gate.json and reports/gate.md (why)."""
    now = registry.champion(ROOT, entry.model)
    assert now is not None  # the first model of a data set is always promoted
    (ROOT / "champion.json").write_text(now.model_dump_json(indent=1) + "\n", encoding="utf-8")
    reports = ROOT / "reports"
    (reports / release.GATE).write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (reports / release.TABLE).write_text(verdict.markdown(_name(entry), _name(reigning)), encoding="utf-8")


@step(retries=2, delay=2)
def log_decision(entry: Champion, challenger: Contender, verdict: Verdict, drawn: bool) -> None:
    """The verdict on the challenger's run, and on its version what a person wants to know of it."""
    test = challenger.report.test
    folder = "release" if verdict.outcome == "promoted" else "gate"  # a later verdict never replaces a promotion's
    mlflow_run = runs.Run(entry.run_id)
    for name in (release.TABLE, release.GATE):
        mlflow_run.artifact(ROOT / "reports" / name, folder)
    mlflow_run.text(challenger.report.model_dump_json(indent=1) + "\n", f"{folder}/{release.EVALUATION}")
    mlflow_run.tags({"gate": verdict.outcome, "gate_reason": verdict.reason, "drawn": drawn})
    info, _ = load_verified(registry.folder(ROOT, entry))
    registry.describe(
        ROOT,
        entry,
        model_card.summary(info, challenger.report, drawn),
        {
            "gate": verdict.outcome,
            "gate_reason": verdict.reason,
            "test_accuracy": f"{test.accuracy.value:.4f}",
            "test_log_loss": f"{test.log_loss.value:.4f}",
        },
    )


def _name(champion: Champion | None) -> str:
    return f"{champion.candidate}, version {champion.version}" if champion else "none"


if __name__ == "__main__":
    run(register)
