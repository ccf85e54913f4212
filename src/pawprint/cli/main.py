"""`pawprint`: all commands. What a command needs is imported when it runs, so that `--help` is fast."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pawprint import __version__, progress
from pawprint.cli import batch, cluster, doctor, export, init, models, photos, predict, project, review, runs, traffic
from pawprint.errors import explain, interrupt_once


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            progress.say(str(error) or "Stopped.", stopped=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, compare and serve an image classifier, and say where each prediction comes from.",
    epilog="Examples: pawprint run --photos train.zip | pawprint predict cat.jpg | pawprint photos --help",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass


for panel, commands in (
    ("Make", (init.init, project.run, project.train, project.sweep, review.review, project.serve, project.worker)),
    ("Predict", (predict.predict, batch.batch, export.export, review.harvest)),
    (
        "Compare and choose",
        (runs.summary, runs.results, runs.baselines, runs.compare, runs.ui, runs.rollback, runs.sync),
    ),
    ("Provenance", (runs.trace, runs.verify)),
    ("Machine", (doctor.doctor, init.upgrade)),
):
    for command in commands:
        app.command(rich_help_panel=panel, epilog=getattr(command, "epilog", None))(command)
for name, group, panel in (
    ("photos", photos.app, "Make"),
    ("models", models.app, "Make"),
    ("traffic", traffic.app, "Predict"),
    ("cluster", cluster.app, "Machine"),
):
    app.add_typer(group, name=name, rich_help_panel=panel)


def main() -> None:
    """Entry point: what a person can mend is one sentence and exit code 1; a traceback with PAWPRINT_DEBUG=1."""
    interrupt_once()
    try:
        app()
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get("PAWPRINT_DEBUG") == "1":
            raise
        progress.error(sentence)
        sys.exit(1)
