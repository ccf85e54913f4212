"""What the groups of commands share."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console

from pawprint.errors import PawprintError

ROOT = Path.cwd()
Command = TypeVar("Command", bound=Callable[..., Any])


def examples(text: str) -> Callable[[Command], Command]:
    """The examples that a command's --help ends with."""

    def mark(command: Command) -> Command:
        command.epilog = f"Examples: {text}" if " | " in text else f"Example: {text}"  # type: ignore[attr-defined]
        return command

    return mark


def console(width: int = 160) -> Console:
    """The terminal, or `width` columns where the output is a file."""
    return Console(width=None if sys.stdout.isatty() else width)


def start(*words: str) -> None:
    """Run `python -m ...` of the current project to its end, with its exit code."""
    if not (ROOT / "flows").is_dir():
        raise PawprintError(f"{ROOT} is no pawprint project: it has no flows/. Change into the project's folder.")
    command = [sys.executable, "-m", *words]
    if os.name == "posix":  # become it: its signals, its exit code
        os.chdir(ROOT)
        sys.stdout.flush()
        os.execv(sys.executable, command)
    with subprocess.Popen(command, cwd=ROOT) as child:
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the child gets it too, and ends
                raise typer.Exit(child.wait())
