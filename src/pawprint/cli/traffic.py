"""`pawprint traffic`: what the service was requested and what it predicted."""

from pathlib import Path
from typing import Annotated

import typer

from pawprint.cli.common import HERE, ROOT

app = typer.Typer(no_args_is_help=True, help="Requests and predictions of the service.")


@app.command(epilog="Examples: pawprint traffic report --days 7 | pawprint traffic report --log s3://bucket/traffic")
def report(
    model: Annotated[Path, typer.Option(help="the model folder that is served")] = HERE / "champion",
    log: Annotated[
        str | None,
        typer.Option(help="the traffic log, or the folder or s3 URL of segments; default: the service's own"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the page")] = HERE / "traffic.html",
    days: Annotated[float, typer.Option(min=0, help="how far back to look; 0 is all")] = 0,
    mlflow: Annotated[bool, typer.Option(help="keep it as an MLflow run too")] = True,
) -> None:
    """Volumes, classes, confidence, drift, accuracy where people gave feedback.

    Drift is against held-out photographs; a model of before kept only training photographs to compare with.
    """
    import time

    from pawprint.config import load_params
    from pawprint.evaluation import gate, live
    from pawprint.files import write_text
    from pawprint.inference.classifier import ModelInfo
    from pawprint.serving import report, segments, traffic
    from pawprint.serving.champion import registered_model

    name = registered_model(model)
    seed = load_params(ROOT / "params.yaml").seed if (ROOT / "params.yaml").exists() else 0
    since = time.time() - 86_400 * days if days else 0
    with segments.log_of(name, log or "", since) as rows:
        found = report.summarize(rows, model, since, seed)
        besides = live.compare(*traffic.beside(rows, found.digest, since), traffic.read(rows, found.digest, since)[0])
    verdict = report.verdict(found)
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
        params = {
            "model": found.model,
            "model_digest": found.digest,
            "log": log or traffic.segments() or str(traffic.path(name)),
        }
        shown = f"traffic of {found.model}"
        run_id = Tracker(ROOT).log_page(f"{dataset} traffic", shown, params, figures, out, verdict)
        print(f"MLflow run {run_id}")


@app.command(epilog="Example: pawprint traffic ship --to s3://bucket/traffic --every 300")
def ship(
    to: Annotated[str, typer.Option(envvar="PAWPRINT_SEGMENTS", help="folder or s3 URL of the segments")],
    every: Annotated[float, typer.Option(min=0, help="seconds between two rounds, until SIGTERM; 0: once")] = 0,
) -> None:
    """Move the traffic logs' rows into Parquet segments, which `traffic report` reads of all replicas together.

    The service needs PAWPRINT_SEGMENTS too: then it takes feedback on predictions that are in a segment already, or
    that another replica made. What cannot be written waits in the log.
    """
    import logging
    import signal
    import socket
    from threading import Event

    from pawprint.errors import PawprintError
    from pawprint.serving import segments, traffic

    host = socket.gethostname()
    if not every:
        logs = sorted(traffic.folder().glob("*.db"))
        if not logs:
            raise PawprintError(f"There is no traffic log in {traffic.folder()}. Serve the model first.")
        for log in logs:
            rows = 0
            while found := segments.ship(log, to, host):
                rows += found
            print(f"{log.name}: {rows:,} rows to {to}")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    segments.keep_shipping(traffic.folder(), to, host, every, stop)
