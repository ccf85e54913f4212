"""Every candidate of params.yaml on the same photographs -> reports/evaluation/, and into its MLflow run.

python -m flows.evaluate
"""

import json
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.steps import run, step
from pawprint.errors import PawprintError
from pawprint.evaluation import metrics, plots
from pawprint.evaluation.metrics import Evaluation
from pawprint.params import Params, load_params
from pawprint.prepared.read import PreparedSet, Side
from pawprint.runtime import Classifier
from pawprint.tracking import runs

OUT = ROOT / "reports" / "evaluation"


@flow(name="evaluate", flow_run_name="evaluate")
def evaluate() -> None:
    """Score each candidate through the runtime that will serve it."""
    # 1. who takes part: the candidates of params.yaml, not whatever folders an earlier run left behind
    params = load_params(ROOT / "params.yaml")
    data = PreparedSet.open(ROOT / "prepared")
    sides = {"validation": data.side("validation"), "test": data.side("test")}
    for name, side in sides.items():
        if len(side) == 0:
            raise PawprintError(
                f"No photograph fell on the {name} side. Bring more photographs or raise `split.{name}`."
            )

    # 2. score and measure each, 3. draw, 4. log
    found: dict[str, dict[str, Evaluation]] = {}
    for candidate in params.candidates:
        found[candidate] = evaluate_candidate(candidate, params, sides)
        log_evaluation(candidate, found[candidate])

    # 5. one file for `dvc metrics`
    write_metrics(found)


@step()
def evaluate_candidate(candidate: str, params: Params, sides: dict[str, Side]) -> dict[str, Evaluation]:
    """Figures, predictions and pictures of one candidate, under reports/evaluation/<candidate>/."""
    folder = OUT / candidate
    folder.mkdir(parents=True, exist_ok=True)
    classifier = Classifier(ROOT / "models" / candidate)
    found = {}
    for name, side in sides.items():
        scores = metrics.score(classifier, side)
        found[name] = metrics.measure(scores, params.evaluation.bootstrap, params.seed)
        scores.write(folder / f"{name}.csv")
        if name == "test":
            plots.confusion(found[name], side.classes, folder / "confusion.png")
            plots.reliability(scores, folder / "reliability.png")
            plots.mistakes(scores, side, folder / "mistakes.png")
    print(f"{candidate}: test accuracy {found['test'].accuracy}, log loss {found['test'].log_loss}")
    return found


@step(retries=2, delay=2)
def log_evaluation(candidate: str, found: dict[str, Evaluation]) -> None:
    """Add the figures and pictures to the run that trained the candidate."""
    model = ROOT / "models" / candidate
    with runs.reopen(ROOT, runs.RunRecord.read(model / "run.json"), model) as mlflow_run:
        for side, evaluation in found.items():
            mlflow_run.metrics(evaluation.flat(side))
        mlflow_run.artifact(OUT / candidate, "evaluation")


@step()
def write_metrics(found: dict[str, dict[str, Evaluation]]) -> None:
    """reports/metrics.json: candidate -> side -> figures."""
    figures = {name: {side: e.model_dump() for side, e in sides.items()} for name, sides in found.items()}
    _write(ROOT / "reports" / "metrics.json", figures)


def _write(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(evaluate)
