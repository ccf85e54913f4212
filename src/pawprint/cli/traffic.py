"""`pawprint traffic`: what the service was requested and what it predicted."""

from pathlib import Path
from typing import Annotated

import typer

from pawprint.cli.common import HERE, ROOT

app = typer.Typer(no_args_is_help=True, help="Requests and predictions of the service.")


@app.callback()
def _group() -> None:
    pass  # so that the one command keeps its name


@app.command(epilog="Example: pawprint traffic report --days 7")
def report(
    model: Annotated[Path, typer.Option(help="the model folder that is served")] = HERE / "champion",
    log: Annotated[Path | None, typer.Option(help="the traffic log; default: the service's own")] = None,
    out: Annotated[Path, typer.Option(help="the page")] = HERE / "traffic.html",
    days: Annotated[float, typer.Option(min=0, help="how far back to look; 0 is all")] = 0,
    mlflow: Annotated[bool, typer.Option(help="keep it as an MLflow run too")] = True,
) -> None:
    """Volumes, classes, confidence, drift against the training photographs, accuracy where people gave feedback."""
    import time

    from pawprint.config import load_params
    from pawprint.evaluation import gate, live
    from pawprint.files import write_text
    from pawprint.inference.classifier import ModelInfo
    from pawprint.serving import report, traffic
    from pawprint.serving.champion import registered_model

    log = log or traffic.path(registered_model(model))
    seed = load_params(ROOT / "params.yaml").seed if (ROOT / "params.yaml").exists() else 0
    since = time.time() - 86_400 * days if days else 0
    found = report.summarize(log, model, since, seed)
    verdict = report.verdict(found.drift, found.label_shift)
    besides = live.compare(*traffic.beside(log, found.digest, since), traffic.read(log, found.digest, since)[0])
    sentences = [one.sentence() for one in besides]
    if (waits := gate.waiting(ROOT)) and waits[1].over == found.digest:
        entry, so_far = waits
        its = [one for one in besides if one.digest == entry.model_digest]
        decided = gate.after_traffic(so_far, its, load_params(ROOT / "params.yaml").gate)
        sentences.append(f"The gate, on version {entry.version}: {gate.OUTCOMES[decided.outcome]}: {decided.reason}.")
    write_text(out, report.page(found, sentences))
    print(f"{found.model}: {len(found.labels):,} predictions. {verdict}")
    for sentence in sentences:
        print(sentence)
    print(f"wrote {out}")
    if mlflow:
        from pawprint.tracking.tracker import Tracker

        dataset = ModelInfo.read(model).lineage.dataset
        figures = {**found.figures(), **{name: value for one in besides for name, value in one.figures().items()}}
        params = {"model": found.model, "model_digest": found.digest, "log": str(log)}
        print(f"MLflow run {Tracker(ROOT).log_traffic_report(dataset, params, figures, out, verdict)}")
