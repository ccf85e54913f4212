"""How far a long step is: a bar on a terminal, a plain line now and then elsewhere.

with Progress("epoch 1/5", total=3780) as progress:
    progress.advance(128, "loss 0.41")
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_QUIET_SECONDS = 10.0  # between two plain lines


class Progress:
    """Counts up to `total`; see the module."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int, note: str = "") -> None:
        """`count` more are done; `note` is shown beside the number."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, advance=count, note=note)
        elif time.monotonic() - self._last >= _QUIET_SECONDS:
            self._last = time.monotonic()
            print(f"{self.label}: {self.done}/{self.total} {note}".rstrip(), flush=True)
