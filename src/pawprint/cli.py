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

ROOT = Path.cwd()


@app.command(epilog="Examples: pawprint predict cat.jpg | pawprint predict --json pictures/ > answers.jsonl")
def predict(
    paths: Annotated[list[Path], typer.Argument(help="pictures, and folders of them")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    model: Annotated[Path, typer.Option(help="a model folder")] = Path("champion"),
) -> None:
    """Say what is on pictures, with no server. Exit code 1 when one of them could not be read."""
    from rich.progress import track

    from pawprint.runtime import Classifier, FileAnswer, find_pictures

    pictures = find_pictures(paths)
    answers: Iterable[FileAnswer] = Classifier(model).files(pictures)
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


@app.command(epilog="Example: pawprint ui --port 5001")
def ui(
    port: Annotated[int, typer.Option(help="where to listen")] = 5000,
    host: Annotated[str, typer.Option(help="the address to bind")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI over this project's runs."""
    from pawprint.tracking import server

    server.serve(ROOT, host, port)


@models_app.command("list")
def models_list() -> None:
    """Every architecture, with a line on what it is."""
    from pawprint.models import catalogue

    for name, architecture in catalogue.CATALOGUE.items():
        print(f"{name:<22}{(architecture.__doc__ or '').splitlines()[0]}")


@models_app.command("describe", epilog="Example: pawprint models describe article_cnn")
def models_describe(
    name: Annotated[str, typer.Argument(help="an architecture of `pawprint models list`")],
    classes: Annotated[int, typer.Option(min=2, help="number of classes")] = 2,
) -> None:
    """Layer by layer: output shape and parameters."""
    from pawprint.models import catalogue

    print(catalogue.describe(name, classes))


def main() -> None:
    """Entry point: a PawprintError is one sentence and exit code 1; a traceback with PAWPRINT_DEBUG=1."""
    from pawprint.photos.app import photos_app

    app.add_typer(photos_app, name="photos")
    try:
        app()
    except PawprintError as error:
        if os.environ.get("PAWPRINT_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
