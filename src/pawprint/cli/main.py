"""The few commands that are not a stage: `pawprint --help`.

What a command needs is imported when it runs, so that `--help` and `predict` do not wait for torch or MLflow.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pawprint.errors import PawprintError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, compare and serve an image classifier, and say where each answer comes from.",
    epilog="Examples: pawprint predict cat.jpg | pawprint models describe article_cnn | pawprint photos --help",
)
models_app = typer.Typer(no_args_is_help=True, help="The architectures that a candidate can name.")
app.add_typer(models_app, name="models")
traffic_app = typer.Typer(no_args_is_help=True, help="What the service was asked and what it answered.")
app.add_typer(traffic_app, name="traffic")

ROOT = Path.cwd()


@app.command(
    epilog="Examples: pawprint predict cat.jpg | pawprint predict --json pictures/ > answers.jsonl | "
    "pawprint predict --url http://localhost:3000 pictures/"
)
def predict(
    paths: Annotated[list[Path], typer.Argument(help="pictures, and folders of them")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    model: Annotated[Path, typer.Option(help="a model folder")] = Path("champion"),
    url: Annotated[str, typer.Option(help="ask this running service instead of a model folder")] = "",
    token: Annotated[str, typer.Option(envvar="PAWPRINT_TOKEN", help="the service's bearer token")] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="pictures on their way to the service")] = 8,
) -> None:
    """Say what is on pictures, here or by a running service. Exit code 1 when one of them got no answer."""
    from rich.progress import track

    from pawprint.inference.classifier import Classifier, FileAnswer, find_pictures

    pictures = find_pictures(paths)
    answers: Iterable[FileAnswer]
    if url:
        from pawprint.serving import client

        answers = client.ask(url, pictures, token, concurrency)
    else:
        answers = Classifier(model).files(pictures)
    if len(pictures) > 50 and sys.stderr.isatty():
        answers = track(answers, total=len(pictures), console=Console(stderr=True), description="predicting")
    failed = False
    for path, answer, error in ((a.path, a.answer, a.error) for a in answers):
        failed = failed or answer is None
        if as_json:
            said = {"label": answer.label, "probabilities": answer.probabilities} if answer else {"error": error}
            print(json.dumps({"path": str(path), **said}), flush=True)
        elif answer is None:
            print(f"{path}: error: {error}", file=sys.stderr)
        else:
            shares = ", ".join(f"{label} {p:.1%}" for label, p in answer.probabilities.items())
            print(f"{path}: {answer.label} ({shares})", flush=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def summary() -> None:
    """The table that `make run` ends with."""
    from pawprint.evaluation.summary import show

    show(ROOT, Console(width=None if sys.stdout.isatty() else 120))


@app.command(epilog="Example: pawprint results --out docs/RESULTS.md")
def results(out: Annotated[Path, typer.Option(help="the Markdown file")] = Path("docs/RESULTS.md")) -> None:
    """Write this data set's table into a Markdown file, replacing its earlier one."""
    from pawprint.evaluation.summary import write_results

    write_results(ROOT, out)
    print(f"wrote {out}")


@app.command(epilog="Examples: pawprint trace pawprint-sample@champion | pawprint trace data/cat/1.jpg --json")
def trace(
    what: Annotated[
        str,
        typer.Argument(
            help="an answer's id, Bento tag, model/version, model@alias, run id, photograph's path or hash, commit"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="the tree as JSON")] = False,
) -> None:
    """Show where something comes from and what it led to, each link checked. Exit code 1 where a digest does not match.

    Below a thing stands what it was made from; with an arrow, what was made of it.
    """
    from rich.markup import escape
    from rich.tree import Tree

    from pawprint.provenance import trace as tracing
    from pawprint.serving import bento, find_prediction, traffic

    found = tracing.trace(
        ROOT, what, tracing.Served(bento.folder, lambda id: find_prediction.find(id, traffic.folder()))
    )
    if as_json:
        print(tracing.as_json(found))
    else:

        def branch(link: tracing.Link, tree: Tree | None, arrow: str = "") -> Tree:
            mark = {"proved": "", "unproved": " [yellow]unproved[/]", "broken": " [bold red]BROKEN[/]"}[link.state]
            said = f" [dim]({escape(link.said)})[/]" if link.said else ""
            label = f"{arrow}{link.kind} [bold]{escape(link.name)}[/]{mark}{said}"
            here = Tree(label) if tree is None else tree.add(label)
            for below in link.links:
                branch(below, here)
            for above in link.led_to:
                branch(above, here, "[cyan]→[/] ")
            return here

        Console(width=None if sys.stdout.isatty() else 160).print(branch(found, None), highlight=False)
    for link in found.broken():
        print(f"error: BROKEN {link.kind} {link.name}: {link.said}", file=sys.stderr)
    if any(found.broken()):
        raise typer.Exit(1)


@app.command(epilog="Examples: pawprint compare | pawprint compare 3f2a 91bc")
def compare(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RUN...]", help="run ids or names")] = None,
) -> None:
    """Runs side by side: parameters that differ, then figures. Without names: today's candidates."""
    from rich.table import Table

    from pawprint.config import load_params
    from pawprint.evaluation import comparison
    from pawprint.tracking import runs

    params = load_params(ROOT / "params.yaml")
    ids = [] if words else [runs.entered(ROOT, ROOT / "models" / name) for name in params.candidates]
    for word in words or ():
        run_id = runs.find(ROOT, word)
        if run_id is None:
            raise PawprintError(f"There is no run {word!r} here. `make ui` lists all runs; take an id or a name.")
        ids.append(run_id)
    given, gave = zip(*(runs.given_and_gave(ROOT, run_id) for run_id in ids), strict=True)
    tested = [runs.artifact(ROOT, run_id, "evaluation/test.csv") for run_id in ids]
    names = [(runs.tags(ROOT, run_id) or {}).get("mlflow.runName", "") for run_id in ids]
    table = Table("", *(f"{run_id[:8]}\n{name}" for run_id, name in zip(ids, names, strict=True)))
    for name, values in comparison.differences(given):
        table.add_row(name, *values)
    table.add_section()
    for name, values in comparison.figures(gave):
        column = {"test_accuracy": "accuracy", "test_log_loss": "log_loss"}.get(name)
        for number, (value, csv_) in enumerate(zip(values, tested, strict=True)):
            if number and column and csv_ and tested[0]:
                differs = comparison.significant(csv_, tested[0], column, params.evaluation.bootstrap, params.seed)
                values[number] = f"{value} *" if differs else value
        table.add_row(name, *values)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print("* differs from the first run (95 % interval of the paired difference excludes 0)")


@app.command(epilog='Example: pawprint rollback --because "it calls foxes dogs"')
def rollback(
    because: Annotated[str, typer.Option(help="why, for those who come after")],
    model: Annotated[str, typer.Option(help="the registered model; default: the one of champion.json")] = "",
) -> None:
    """Put the previous champion back, and package it. The one that goes is not promoted again by itself."""
    import subprocess

    from pawprint.evaluation.summary import read_json
    from pawprint.tracking import registry

    name = model or (read_json(ROOT / "champion.json") or {}).get("model", "")
    if not name:
        raise PawprintError("champion.json is missing, so there is nothing to roll back. Run `make run` first.")
    gone, now = registry.roll_back(ROOT, name, because)
    print(f"{name}: version {gone.version} rolled back, version {now.version} ({now.candidate}) reigns.", flush=True)
    if (ROOT / "flows" / "pipeline.py").exists():  # the same road as after an alias moved by hand
        code = "from flows.pipeline import repair; from flows.tasks import explained\nwith explained(): repair()"
        raise typer.Exit(subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode)


@app.command(epilog="Example: pawprint ui --port 5001")
def ui(
    port: Annotated[int, typer.Option(help="where to listen")] = 5000,
    host: Annotated[str, typer.Option(help="the address to bind")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI over this project's runs."""
    from pawprint.tracking import server

    server.serve(ROOT, host, port)


@app.command(epilog="Example: pawprint doctor")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="the report as JSON")] = False) -> None:
    """Check tools, versions, GPU, disk, ports, servers and passwords. Exit code 1 where something has to be mended."""
    from rich.markup import escape

    from pawprint.cli import doctor as examining

    console, colours = (
        Console(width=None if sys.stdout.isatty() else 200),
        {"ok": "green", "warn": "yellow", "fail": "red"},
    )
    findings = []
    for finding in examining.examine(ROOT):
        findings.append(finding)
        if not as_json:
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            mark = f"[{colours[finding.state]}]{finding.state:<4}[/]"
            console.print(f"{mark} {finding.name:<15}{escape(finding.said + remedy)}", highlight=False, soft_wrap=True)
    if as_json:
        print(examining.as_json(findings))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: pawprint sync")
def sync() -> None:
    """Deliver to MLflow what trainings logged while it was away. Exit code 1 where it still is."""
    from pawprint.tracking import training_run

    whole, left = training_run.sync(ROOT)
    print(f"{whole} runs delivered, {left} wait.")
    if left:
        raise PawprintError("MLflow does not answer. Start it or correct MLFLOW_TRACKING_URI, then `pawprint sync`.")


@app.command(epilog="Examples: pawprint verify 3f2a91bc | pawprint verify pawprint-sample@champion")
def verify(what: Annotated[str, typer.Argument(help="a run's id, its first letters or name, or a version")]) -> None:
    """Train a run again from its own record. Exit code 1 where the weights are not the same."""
    from pawprint.provenance import reproduce as verifying

    outcome = verifying.verify(ROOT, what)
    print(outcome.said)
    if not outcome.same:
        raise typer.Exit(1)


@models_app.command("list")
def models_list() -> None:
    """Every architecture, with a line on what it is."""
    from pawprint.models import registry

    for name, architecture in registry.ARCHITECTURES.items():
        print(f"{name:<22}{(architecture.__doc__ or '').splitlines()[0]}")


@models_app.command("describe", epilog="Example: pawprint models describe article_cnn")
def models_describe(
    name: Annotated[str, typer.Argument(help="an architecture of `pawprint models list`")],
    classes: Annotated[int, typer.Option(min=2, help="number of classes")] = 2,
) -> None:
    """Layer by layer: output shape and parameters."""
    from pawprint.models import registry

    print(registry.describe(name, classes))


@traffic_app.callback()
def _traffic() -> None:
    """What the service was asked and what it answered."""


@traffic_app.command("report", epilog="Example: pawprint traffic report --days 7")
def traffic_report(
    model: Annotated[Path, typer.Option(help="the model folder that is served")] = Path("champion"),
    log: Annotated[Path | None, typer.Option(help="the traffic log; default: the service's own")] = None,
    out: Annotated[Path, typer.Option(help="the page")] = Path("traffic.html"),
    days: Annotated[float, typer.Option(min=0, help="how far back to look; 0 is all")] = 0,
    mlflow: Annotated[bool, typer.Option(help="keep it as an MLflow run too")] = True,
) -> None:
    """Volumes, classes, confidence, drift against the training photographs, accuracy where people gave feedback."""
    import time

    from pawprint.config import load_params
    from pawprint.inference.classifier import ModelInfo
    from pawprint.serving import report, traffic
    from pawprint.serving.champion import Champion

    log = log or traffic.path(Champion.read(model).model)
    seed = load_params(ROOT / "params.yaml").seed if (ROOT / "params.yaml").exists() else 0
    found = report.summarize(log, model, time.time() - 86_400 * days if days else 0, seed)
    out.write_text(report.page(found), encoding="utf-8")
    said = report.verdict(found.drift)
    print(f"{found.model}: {len(found.labels):,} answers. {said}\nwrote {out}")
    if mlflow:
        from pawprint.tracking import traffic as kept

        dataset = ModelInfo.read(model).lineage.dataset
        run_id = kept.keep(ROOT, dataset, report.as_parameters(found, log), found.figures(), out, said)
        print(f"MLflow run {run_id}")


def photos_audit(
    top: Annotated[int, typer.Option(min=1, help="how many photographs to list")] = 200,
    out: Annotated[Path, typer.Option(help="where label_audit.csv and label_audit.html go")] = Path("reports/audit"),
) -> None:
    """List the photographs whose label is doubtful, and those unlike any other, for a person to decide on."""
    from pawprint.config import load_params
    from pawprint.data.dataset import PreparedDataset
    from pawprint.evaluation import label_audit

    found = label_audit.audit(PreparedDataset.open(ROOT / "prepared"), load_params(ROOT / "params.yaml"), top)
    label_audit.write(found, out)
    print(f"{len(found):,} photographs to look at in {out}/audit.html; what you decide goes into {out}/audit.csv")


def main() -> None:
    """Entry point: a PawprintError is one sentence and exit code 1; a traceback with PAWPRINT_DEBUG=1."""
    from pawprint.cli.photos import photos_app

    photos_app.command("audit", epilog="Example: pawprint photos audit --top 40")(photos_audit)
    app.add_typer(photos_app, name="photos")
    try:
        app()
    except PawprintError as error:
        if os.environ.get("PAWPRINT_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
