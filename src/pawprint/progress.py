"""How far a long step is: a bar on a terminal, plain lines elsewhere; nothing under two seconds.

with Progress("epoch 1/5", total=3780) as progress:
    progress.advance(128, "loss 0.41")
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PATIENCE = 2.0  # seconds before anything is shown
LINES_APART = 10.0  # seconds between two plain lines


class Progress:
    """Counts up to `total` (None: unknown) files, photographs, or bytes; see the module."""

    def __init__(self, label: str, total: int | None, in_bytes: bool = False) -> None:
        self.label, self.total, self.in_bytes, self.done = label, total, in_bytes, 0
        self._due = time.monotonic() + PATIENCE
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
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
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() >= self._due:
            self._say(note)

    def _say(self, note: str) -> None:
        if sys.stderr.isatty():
            counted = DownloadColumn() if self.in_bytes else MofNCompleteColumn()
            columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note=note)
            self._bar.start()
            return
        self._due = time.monotonic() + LINES_APART
        size = decimal if self.in_bytes else "{:,}".format
        of = f" of {size(self.total)}" if self.total else ""
        print(f"{self.label}: {size(self.done)}{of} {note}".rstrip(), file=sys.stderr, flush=True)
