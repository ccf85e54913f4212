"""Every candidate of params.yaml on the same photographs -> reports/evaluation/ and reports/plots/, and its MLflow run.

python -m flows.evaluate
"""

import json
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.tasks import run, step
from pawprint.config import Params, load_params
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.errors import PawprintError
from pawprint.evaluation import metrics, model_card, plots, release
from pawprint.evaluation.evaluator import EvaluationReport, Evaluator
from pawprint.evaluation.metrics import Evaluation
from pawprint.inference.classifier import Classifier, load_verified
from pawprint.tracking import records, runs, training_run

OUT = ROOT / "reports" / "evaluation"
PLOTS = ROOT / "reports" / "plots"  # pictures only: `dvc plots show` then needs no script from the network
CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


@flow(name="evaluate", flow_run_name="evaluate")
def evaluate() -> None:
    """Examine each candidate through the runtime that will serve it."""
    # 1. who takes part: the candidates of params.yaml, not whatever folders an earlier run left behind
    training_run.sync(ROOT)  # what a training could not tell MLflow belongs before what is said of it here
    params = load_params(ROOT / "params.yaml")
    data = PreparedDataset.open(ROOT / "prepared")
    test, validation = data.split("test"), data.split("validation")
    for split in (validation, test):
        if len(split) == 0:
            raise PawprintError(
                f"No photograph fell on the {split.name} split. Bring more photographs or raise `split.{split.name}`."
            )

    # 2. the questions: the test photographs, the same ones disturbed, and clutter
    evaluator = prepare_bench(test, params)

    # 3. the answers, measured and drawn
    tuned, found = {}, {}
    for candidate in params.candidates:
        tuned[candidate] = measure_validation(candidate, params, validation)
        found[candidate] = examine_candidate(candidate, evaluator)
    draw_learning_curves(params)

    # 4. into each candidate's run, where people compare
    entered = {
        candidate: (log_evaluation(candidate, tuned[candidate], report, data.drawn), report)
        for candidate, report in found.items()
    }
    log_pipeline(data.dataset, entered)

    # 5. one file for `dvc metrics`
    write_metrics(tuned, found)


@step()
def prepare_bench(test: Split, params: Params) -> Evaluator:
    """What every candidate is asked."""
    return Evaluator.of(test, ROOT / "data", params)


@step()
def measure_validation(candidate: str, params: Params, validation: Split) -> Evaluation:
    """Figures on the validation split, by which the challenger is chosen."""
    scores = metrics.score(Classifier(ROOT / "models" / candidate), validation)
    folder = OUT / candidate
    folder.mkdir(parents=True, exist_ok=True)
    scores.write(folder / "validation.csv")
    return metrics.measure(scores, params.evaluation.bootstrap, params.seed)


@step()
def examine_candidate(candidate: str, evaluator: Evaluator) -> EvaluationReport:
    """Figures and predictions of one candidate under reports/evaluation/<candidate>/, pictures under reports/plots/."""
    folder, model, pictures = OUT / candidate, ROOT / "models" / candidate, PLOTS / candidate
    pictures.mkdir(parents=True, exist_ok=True)
    classifier = Classifier(model)
    report, scores = evaluator.examine(classifier)
    scores.write(folder / "test.csv")
    (folder / release.EVALUATION).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    plots.confusion(report.test, scores.classes, pictures / "confusion.png")
    plots.reliability(scores, pictures / "reliability.png")
    plots.roc_and_precision(scores, pictures / "roc_and_precision.png")
    plots.disturbances(report, pictures / "disturbances.png")
    plots.mistakes(scores, evaluator.test, pictures / "mistakes.png")
    plots.activations(classifier, scores, evaluator.test, pictures / "activations.png")
    if classifier.info.architecture == "article_cnn":
        plots.first_layer(model / "model.safetensors", evaluator.test, pictures / "first_layer.png")
    worst = f", worst slice {report.worst_slice.name}" if report.worst_slice else ""
    print(f"{candidate}: test accuracy {report.test.accuracy}, log loss {report.test.log_loss}{worst}")
    return report


@step(retries=2, delay=2)
def draw_learning_curves(params: Params) -> None:
    """All candidates in one figure, from what their trainings logged."""
    curves = {}
    for candidate, given in params.candidates.items():
        if given.int8:
            continue  # it was not trained
        model = ROOT / "models" / candidate
        with runs.reopen(ROOT, runs.RunRecord.read(model / "run.json"), model) as mlflow_run:
            curves[candidate] = mlflow_run.curves(*CURVES)
    plots.learning_curves(curves, PLOTS / "learning_curves.png")


@step(retries=2, delay=2)
def log_evaluation(candidate: str, tuned: Evaluation, report: EvaluationReport, drawn: bool) -> str:
    """Add the figures and pictures to the run that trained the candidate, and put them in its name and on its page.

    evaluated.json keeps them too, for a run that has to be entered again. Gives the run's id.
    """
    model = ROOT / "models" / candidate
    record, (info, _) = runs.RunRecord.read(model / "run.json"), load_verified(model)
    pictures = sorted(path.stem for path in (PLOTS / candidate).glob("*.png"))
    told = records.Evaluated(
        model_digest=info.model_digest,
        name=model_card.run_name(record.run_name, report),
        description=model_card.summary(info, report, drawn, ("learning_curves", *pictures)),
        drawn=drawn,
        metrics=tuned.flat("validation") | report.test.flat("test") | report.flat(),
    )
    (OUT / candidate / records.EVALUATED).write_text(told.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with runs.reopen(ROOT, record, model) as mlflow_run:
        runs.enter_evaluation(ROOT, mlflow_run, info)
        return mlflow_run.id


@step(retries=2, delay=2)
def log_pipeline(dataset: str, entered: dict[str, tuple[str, EvaluationReport]]) -> None:
    """Every candidate on the page of this pipeline run, also those that were up to date and are another's children."""
    if parent := runs.pipeline(ROOT, dataset):
        parent.describe(model_card.pipeline(entered))


@step()
def write_metrics(tuned: dict[str, Evaluation], found: dict[str, EvaluationReport]) -> None:
    """reports/metrics.json: candidate -> split (and slices, robustness, neither, speed) -> figures."""
    figures = {name: {"validation": tuned[name].model_dump(), **found[name].model_dump()} for name in found}
    _write(ROOT / "reports" / "metrics.json", figures)


def _write(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(evaluate)
