"""What a person sees of long work: one live line on a terminal, plain lines elsewhere, JSON with PAWPRINT_OUTPUT=json.

with stage("train mlp"):                               # a live line while it runs, a line with its time at the end
    say("epoch 1/5: loss 0.41", epoch=1, loss=0.41)    # the text for a person, the values for JSON
    with Progress("epoch 2/5", total=30) as progress:
        progress.advance(1)
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

PATIENCE = 2.0  # seconds before a bar of its own is shown
LINES_APART = 10.0  # seconds between two plain lines
_live: Bar | None = None  # the live line of the stage that runs; its first task is shown between two bars


def as_json() -> bool:
    """Is the reader a program?"""
    return os.environ.get("PAWPRINT_OUTPUT") == "json"


def say(text: str, **values: Any) -> None:
    """Print a line for a person, or `values` as a line of JSON. Nobody need read it: a closed pipe is no error."""
    try:
        if sys.stdout.isatty() and not as_json():  # line breaks between words
            (_live.console if _live else Console()).print(text, markup=False, emoji=False, highlight=False)
        else:
            print(json.dumps(values or {"message": text}) if as_json() else text, flush=True)
    except OSError:  # `| head` or a closed terminal; the work goes on
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  from now on


def show_table(table: Table | str) -> None:
    """Print a table or a sentence of any length, within the width of the window."""
    console = _live.console if _live else Console()
    with suppress(OSError):
        console.print(table, highlight=False)


def error(sentence: str) -> None:
    """Report what went wrong; on a terminal with line breaks between words."""
    console = Console(stderr=True, highlight=False)
    with suppress(OSError):
        console.print(f"error: {sentence}", markup=False, soft_wrap=not console.is_terminal)


def relay(line: str) -> None:
    """Print a line of another process of the pipeline."""
    if not as_json():
        say(line)
        return
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if isinstance(values, dict):
        say("", **values)
    elif line.strip():
        say(line)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Show that `name` runs, and at its end how long it took."""
    global _live
    began, outcome = time.monotonic(), "failed"
    on_terminal = sys.stderr.isatty() and not as_json()
    if on_terminal:
        _live = _bar()
        _live.add_task(name, total=None, unit="")
        _live.start()
    try:
        yield
        outcome = ""
    finally:
        if _live is not None:
            _live.stop()
            _live = None
        seconds = time.monotonic() - began
        if on_terminal:
            mark = "[red]✗[/]" if outcome else "[green]✓[/]"
            Console(stderr=True).print(f"{mark} {name:<50}[dim]{duration(seconds):>10}[/]", highlight=False)
        else:
            say(
                f"{name}: {outcome or 'done'} in {duration(seconds)}",
                stage=name,
                seconds=round(seconds, 2),
                ok=not outcome,
            )


def duration(seconds: float) -> str:
    """Seconds for people: 4.1 s, 38 s, 2 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


class Progress:
    """Counts up to `total` (None: unknown) files, photographs, or bytes; see the module."""

    def __init__(self, label: str, total: int | None, in_bytes: bool = False, unit: str = "") -> None:
        self.label, self.total, self.done = label, total, 0
        self.unit = "bytes" if in_bytes else unit
        self._due = time.monotonic() + PATIENCE
        self._bar, self._own = _live, False
        if _live is not None:
            self._show(_live)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar and self._own:
            self._bar.stop()
        elif self._bar:
            self._bar.remove_task(self._task)
            self._bar.update(self._bar.task_ids[0], visible=True)

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() >= self._due:
            self._say()

    def _show(self, bar: Bar) -> None:
        for task in bar.task_ids:  # one line at a time
            bar.update(task, visible=False)
        self._task = bar.add_task(self.label, total=self.total, completed=self.done, unit=self.unit)

    def _say(self) -> None:
        if sys.stderr.isatty() and not as_json():
            self._bar, self._own = _bar(), True
            self._show(self._bar)
            self._bar.start()
            return
        self._due = time.monotonic() + LINES_APART
        if as_json():
            say("", progress=self.label, done=self.done, total=self.total)
            return
        of = f" of {_count(self.total, self.unit)}" if self.total else ""
        print(f"{self.label}: {_count(self.done, self.unit)}{of}", file=sys.stderr, flush=True)


class _Counts(ProgressColumn):
    """Done of total, rate, remaining or elapsed time, as far as they are known."""

    def render(self, task: Task) -> Text:
        unit, parts = task.fields["unit"], []
        if task.completed or task.total is not None:
            of = f"/{_count(task.total, unit)}" if task.total is not None else ""
            parts.append(f"{_count(task.completed, unit)}{of}")
        if task.speed and unit:
            parts.append(f"{_count(task.speed, unit)}{'' if unit == 'bytes' else ' ' + unit}/s")
        if task.time_remaining is not None and task.total is not None:
            parts.append(f"{duration(task.time_remaining)} left")
        elif task.elapsed is not None:
            parts.append(duration(task.elapsed))
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")


def _bar() -> Bar:
    """A live line, no longer than the window. What is printed meanwhile stands above it, or goes where stdout goes."""
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(bar_width=20), _Counts())
    console, printed = Console(stderr=True), sys.stdout.isatty()
    return Bar(*columns, console=console, transient=True, refresh_per_second=4, redirect_stdout=printed)


def _count(number: float, unit: str) -> str:
    return decimal(round(number)) if unit == "bytes" else f"{number:,.0f}"
