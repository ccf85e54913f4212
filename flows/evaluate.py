"""Every candidate of params.yaml on the same photographs -> reports/evaluation/ and reports/plots/, and its MLflow run.

python -m flows.evaluate
"""

import json
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.steps import run, step
from pawprint.errors import PawprintError
from pawprint.evaluation import card, dossier, metrics, plots
from pawprint.evaluation.examine import Bench, Examined
from pawprint.evaluation.metrics import Evaluation
from pawprint.params import Params, load_params
from pawprint.prepared.read import PreparedSet, Side
from pawprint.runtime import Classifier, verify
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
    data = PreparedSet.open(ROOT / "prepared")
    test, validation = data.side("test"), data.side("validation")
    for side in (validation, test):
        if len(side) == 0:
            raise PawprintError(
                f"No photograph fell on the {side.name} side. Bring more photographs or raise `split.{side.name}`."
            )

    # 2. the questions: the test photographs, the same ones disturbed, and clutter
    bench = prepare_bench(test, params)

    # 3. the answers, measured and drawn
    tuned, found = {}, {}
    for candidate in params.candidates:
        tuned[candidate] = measure_validation(candidate, params, validation)
        found[candidate] = examine_candidate(candidate, bench)
    draw_learning_curves(params)

    # 4. into each candidate's run, where people compare
    entered = {
        candidate: (log_evaluation(candidate, tuned[candidate], examined, data.drawn), examined)
        for candidate, examined in found.items()
    }
    log_pipeline(data.dataset, entered)

    # 5. one file for `dvc metrics`
    write_metrics(tuned, found)


@step()
def prepare_bench(test: Side, params: Params) -> Bench:
    """What every candidate is asked."""
    return Bench.of(test, ROOT / "data", params)


@step()
def measure_validation(candidate: str, params: Params, validation: Side) -> Evaluation:
    """Figures on the validation side, by which the challenger is chosen."""
    scores = metrics.score(Classifier(ROOT / "models" / candidate), validation)
    folder = OUT / candidate
    folder.mkdir(parents=True, exist_ok=True)
    scores.write(folder / "validation.csv")
    return metrics.measure(scores, params.evaluation.bootstrap, params.seed)


@step()
def examine_candidate(candidate: str, bench: Bench) -> Examined:
    """Figures and predictions of one candidate under reports/evaluation/<candidate>/, pictures under reports/plots/."""
    folder, model, pictures = OUT / candidate, ROOT / "models" / candidate, PLOTS / candidate
    pictures.mkdir(parents=True, exist_ok=True)
    classifier = Classifier(model)
    examined, scores = bench.examine(classifier)
    scores.write(folder / "test.csv")
    (folder / dossier.EVALUATION).write_text(examined.model_dump_json(indent=1) + "\n", encoding="utf-8")
    plots.confusion(examined.test, scores.classes, pictures / "confusion.png")
    plots.reliability(scores, pictures / "reliability.png")
    plots.roc_and_precision(scores, pictures / "roc_and_precision.png")
    plots.disturbances(examined, pictures / "disturbances.png")
    plots.mistakes(scores, bench.test, pictures / "mistakes.png")
    plots.activations(classifier, scores, bench.test, pictures / "activations.png")
    if classifier.info.architecture == "article_cnn":
        plots.first_layer(model / "model.safetensors", bench.test, pictures / "first_layer.png")
    worst = f", worst slice {examined.worst_slice.name}" if examined.worst_slice else ""
    print(f"{candidate}: test accuracy {examined.test.accuracy}, log loss {examined.test.log_loss}{worst}")
    return examined


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
def log_evaluation(candidate: str, tuned: Evaluation, examined: Examined, drawn: bool) -> str:
    """Add the figures and pictures to the run that trained the candidate, and put them in its name and on its page.

    evaluated.json keeps them too, for a run that has to be entered again. Gives the run's id.
    """
    model = ROOT / "models" / candidate
    record, (info, _) = runs.RunRecord.read(model / "run.json"), verify(model)
    pictures = sorted(path.stem for path in (PLOTS / candidate).glob("*.png"))
    told = records.Evaluated(
        model_digest=info.model_digest,
        name=card.run_name(record.run_name, examined),
        description=card.summary(info, examined, drawn, ("learning_curves", *pictures)),
        drawn=drawn,
        metrics=tuned.flat("validation") | examined.test.flat("test") | examined.flat(),
    )
    (OUT / candidate / records.EVALUATED).write_text(told.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with runs.reopen(ROOT, record, model) as mlflow_run:
        runs.enter_evaluation(ROOT, mlflow_run, info)
        return mlflow_run.id


@step(retries=2, delay=2)
def log_pipeline(dataset: str, entered: dict[str, tuple[str, Examined]]) -> None:
    """Every candidate on the page of this pipeline run, also those that were up to date and are another's children."""
    if parent := runs.pipeline(ROOT, dataset):
        parent.describe(card.pipeline(entered))


@step()
def write_metrics(tuned: dict[str, Evaluation], found: dict[str, Examined]) -> None:
    """reports/metrics.json: candidate -> side (and slices, robustness, neither, speed) -> figures."""
    figures = {name: {"validation": tuned[name].model_dump(), **found[name].model_dump()} for name in found}
    _write(ROOT / "reports" / "metrics.json", figures)


def _write(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(evaluate)
