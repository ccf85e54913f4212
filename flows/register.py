"""The best candidate against the reigning champion -> the alias, champion.json and reports/gate.md.

python -m flows.register
"""

import json
from typing import Any

from prefect import flow

from flows import ROOT
from flows.steps import run, step
from pawprint.evaluation import gate, metrics
from pawprint.evaluation.gate import Verdict
from pawprint.params import Params, load_params
from pawprint.prepared.read import PreparedSet, Side
from pawprint.runtime import Classifier, ModelInfo
from pawprint.tracking import registry, runs
from pawprint.tracking.registry import Champion


@flow(name="register", flow_run_name="register")
def register() -> None:
    """Move the alias `champion` only for a reason that can be stated."""
    # 1. who challenges: the lowest log loss on the validation side, so that the test side stays unseen
    params = load_params(ROOT / "params.yaml")
    candidate = challenger_of(params)

    # 2. every candidate becomes a registered version, known by its digest
    versions = {name: register_version(name) for name in params.candidates}
    entry = versions[candidate]

    # 3. who reigns
    registry.challenge(ROOT, entry)
    reigning = registry.champion(ROOT, entry.model)

    # 4. the gate: both on the same test photographs, through the runtime that serves
    side = PreparedSet.open(ROOT / "prepared").side("test")
    verdict = judge(params, candidate, entry, reigning, side)
    print(f"gate: {verdict.outcome} ({verdict.reason})")

    # 5. the alias moves, or stays
    if verdict.outcome == "promoted":
        registry.promote(ROOT, entry, verdict.reason)

    # 6. what the next stage packages, and why
    write_decision(entry, reigning, verdict)


def challenger_of(params: Params) -> str:
    """The candidate to put forward."""
    figures: dict[str, Any] = json.loads((ROOT / "reports" / "metrics.json").read_text(encoding="utf-8"))
    return min(params.candidates, key=lambda name: float(figures[name]["validation"]["log_loss"]["value"]))


@step(retries=2, delay=2)
def register_version(candidate: str) -> Champion:
    """The registry's entry for the candidate's model."""
    folder = ROOT / "models" / candidate
    info = ModelInfo.read(folder)
    with runs.reopen(ROOT, runs.RunRecord.read(folder / "run.json"), folder) as mlflow_run:
        return registry.register(ROOT, registry.model_name(info.lineage.dataset), mlflow_run, info)


@step()
def judge(params: Params, candidate: str, entry: Champion, reigning: Champion | None, side: Side) -> Verdict:
    """What the gate says; a champion of an earlier run is fetched and scored again on today's photographs."""
    folder = ROOT / "models" / candidate
    challenger = Classifier(folder)
    gate.refuse_overlap(folder, side.hashes, candidate)
    scores = metrics.score(challenger, side)
    if reigning is None:
        return gate.first(scores)
    if reigning.model_digest == entry.model_digest:
        return gate.same(scores)
    folder = registry.folder(ROOT, reigning)
    champion = Classifier(folder)
    if champion.info.classes != challenger.info.classes:
        return gate.other_classes(champion.info.classes, challenger.info.classes, scores)
    gate.refuse_overlap(folder, side.hashes, f"The champion {reigning.model} version {reigning.version}")
    return gate.decide(scores, metrics.score(champion, side), params.gate, params.evaluation.bootstrap, params.seed)


@step()
def write_decision(entry: Champion, reigning: Champion | None, verdict: Verdict) -> None:
    """champion.json (what reigns now), reports/gate.json and reports/gate.md (why)."""
    now = registry.champion(ROOT, entry.model)
    assert now is not None  # the first model of a data set is always promoted
    (ROOT / "champion.json").write_text(now.model_dump_json(indent=1) + "\n", encoding="utf-8")
    reports = ROOT / "reports"
    names = [f"{c.candidate}, version {c.version}" if c else "none" for c in (entry, reigning)]
    (reports / "gate.json").write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (reports / "gate.md").write_text(verdict.markdown(*names), encoding="utf-8")


if __name__ == "__main__":
    run(register)
