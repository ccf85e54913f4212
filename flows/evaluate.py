"""Every model of params.yaml on the same photographs -> reports/evaluation/, reports/plots/, and its MLflow run.

python -m flows.evaluate
"""

from collections.abc import Mapping
from typing import Any

from flows import ROOT
from flows.tasks import flow, run_stage, step
from pawprint.config import Params, load_params
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.errors import PawprintError
from pawprint.evaluation import curves, metrics, model_card, plots, release
from pawprint.evaluation.evaluator import EvaluationReport, Evaluator, load_serving
from pawprint.evaluation.metrics import Evaluation
from pawprint.files import write_json, write_text
from pawprint.inference.classifier import FOLDS_FILE, Classifier, ModelInfo
from pawprint.progress import say
from pawprint.tracking.run import EVALUATED, Evaluated, RunRecord
from pawprint.tracking.tracker import Tracker

OUT = ROOT / "reports" / "evaluation"
PLOTS = ROOT / "reports" / "plots"  # pictures
DATA = ROOT / "reports" / "curves"  # what `dvc plots diff` lays over each other
CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


@flow(name="evaluate", flow_run_name="evaluate")
def evaluate() -> None:
    """Evaluate each model in the configuration that will serve it."""
    # 1. the models of params.yaml, not whatever folders an earlier run left behind
    tracker = Tracker(ROOT)
    tracker.sync()  # MLflow must have the trainings before their evaluation
    params = load_params(ROOT / "params.yaml")
    data = PreparedDataset.open(ROOT / "prepared")
    test, validation = data.split("test"), data.split("validation")
    for split in (validation, test):
        if len(split) == 0:
            raise PawprintError(
                f"The {split.name} split has no photograph. Bring more photographs or raise `split.{split.name}`."
            )

    # 2. the test photographs, the same ones corrupted, and clutter
    evaluator = step()(Evaluator.of)(test, ROOT / "data", params, data.drawn)

    # 3. measure and plot
    tuned, reports = {}, {}
    for name in params.models:
        classifier = load_serving(ROOT / "models" / name, params)
        tuned[name] = evaluate_validation(name, classifier, validation)
        reports[name] = evaluate_test(name, classifier, evaluator)
    plot_learning_curves(params)

    # 4. into each model's MLflow run, where people compare
    folds = {name: found for name in reports if (found := evaluate_folds(name))}
    runs_of = {
        name: log_evaluation(tracker, name, tuned[name], folds.get(name), report, data.drawn)
        for name, report in reports.items()
    }
    best = min(params.candidates, key=lambda name: tuned[name].log_loss.value)
    log_pipeline(tracker, data.dataset, {name: (runs_of[name], one) for name, one in reports.items()}, reports[best])

    # 5. every figure of every model, and the few that git keeps, for `dvc metrics` and `dvc exp show`
    figures = {name: {"validation": tuned[name].model_dump(), **reports[name].model_dump()} for name in reports}
    for name, found in folds.items():
        figures[name]["folds"] = found.model_dump()
    write_json(ROOT / "reports" / "metrics.json", figures)
    write_json(ROOT / "metrics.json", headline(best, reports))


@step()
def evaluate_validation(name: str, classifier: Classifier, validation: Split) -> Evaluation:
    """Figures on the validation split, by which the challenger is chosen."""
    scores = metrics.score(classifier, validation)
    (OUT / name).mkdir(parents=True, exist_ok=True)
    scores.write(OUT / name / "validation.csv")
    return metrics.measure(scores)


def evaluate_folds(name: str) -> Evaluation | None:
    """Figures on all photographs, each predicted by a head that has not seen it; None for a model without them."""
    found = metrics.Scores.out_of_fold(ROOT / "models" / name / FOLDS_FILE)
    return metrics.measure(found) if found else None


@step()
def evaluate_test(name: str, classifier: Classifier, evaluator: Evaluator) -> EvaluationReport:
    """Figures and predictions of one model under reports/evaluation/<name>/, plots under reports/plots/<name>/."""
    report, scores = evaluator.evaluate(classifier)
    scores.write(OUT / name / release.SCORES)
    write_text(OUT / name / release.EVALUATION, report.model_dump_json(indent=1) + "\n")
    plots.of_model(classifier, report, scores, evaluator.test, PLOTS / name)
    record = RunRecord.read(ROOT / "models" / name)
    curves.write(DATA, name, {curve: record.curve(curve) for curve in CURVES}, scores)
    test, right = report.test, report.test.accuracy
    served = f"served {test.served_accuracy.value:.1%}, log loss {test.log_loss.value:.4f}"
    interval = f"[{100 * right.low:.1f}, {100 * right.high:.1f}]"
    text = f"  {name:<20}{right.value:.1%} {interval} right, {served}"  # 80 characters
    say(text, candidate=name, test=test.model_dump())
    return report


def headline(best: str, reports: Mapping[str, EvaluationReport]) -> dict[str, Any]:
    """The best candidate's figures, and every model's log loss; no times, which differ from run to run."""
    figures = reports[best].test.flat("test") | reports[best].flat()
    names = (
        "test_accuracy", "test_served_accuracy", "test_coverage", "test_calibration_error", "test_worst_slice",
        "test_robustness_loss", "strangers_accepted", "drawn_shapes_accepted",
    )  # fmt: skip
    shown = {name.removeprefix("test_"): round(figures[name], 4) for name in names if name in figures}
    losses = {name: round(report.test.log_loss.value, 4) for name, report in reports.items()}
    return {"best": best, **shown, "log_loss": losses}


@step()
def plot_learning_curves(params: Params) -> None:
    """All trained candidates in one figure, from the metrics that their trainings logged."""
    records = {name: RunRecord.read(ROOT / "models" / name) for name in params.candidates}
    learned = {name: {curve: record.curve(curve) for curve in CURVES} for name, record in records.items()}
    plots.learning_curves(learned, PLOTS / "learning_curves.png")


@step(retries=2, delay=2)
def log_evaluation(
    tracker: Tracker, name: str, tuned: Evaluation, folds: Evaluation | None, report: EvaluationReport, drawn: bool
) -> str:
    """Add figures and plots to the MLflow run of the model, its name and its description; returns the run's id.

    evaluated.json keeps them too, for a run that has to be restored.
    """
    model = ROOT / "models" / name
    record, info = RunRecord.read(model), ModelInfo.read(model)
    pictures = sorted(path.stem for path in (PLOTS / name).glob("*.png"))
    evaluated = Evaluated(
        model_digest=info.model_digest,
        name=model_card.run_name(record.run_name, report),
        description=model_card.summary(info, report, drawn, ("learning_curves", *pictures)),
        drawn=drawn,
        metrics=tuned.flat("validation")
        | (folds.flat("folds") if folds else {})
        | report.test.flat("test")
        | report.flat(),
    )
    write_text(OUT / name / EVALUATED, evaluated.model_dump_json(indent=1) + "\n")
    mlflow_run = tracker.restore_run(model)
    tracker.log_evaluation(mlflow_run, info)
    return mlflow_run.id


@step(retries=2, delay=2)
def log_pipeline(
    tracker: Tracker, dataset: str, reports: dict[str, tuple[str, EvaluationReport]], best: EvaluationReport
) -> None:
    """All models in the description of this pipeline's run, also those that were up to date; the best one's figures."""
    if parent := tracker.pipeline_run(dataset):
        parent.describe(model_card.pipeline(reports))
        parent.metrics(best.test.flat("test") | best.flat())


if __name__ == "__main__":
    run_stage(evaluate, "evaluate")
