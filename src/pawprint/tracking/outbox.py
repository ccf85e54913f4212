"""What could not be sent to MLflow waits on disk, in order, and goes out when MLflow answers again.

    box = Outbox(folder(root) / run_id, deliver)
    box.send("metrics", {"values": {"train_loss": 0.3}, "step": 1})   # delivered, or kept
    box.empty()                                                      # deliver what waits; False: MLflow is still away

A method of `runs.Run` that is marked `kept` goes this way by itself. An entry is one JSON file, removed when it is
delivered; what is delivered a second time because its answer was lost must change nothing, which is `deliver`'s part.
"""

import fcntl
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import requests
from mlflow.exceptions import MlflowException

from pawprint.dvc import main_workspace
from pawprint.errors import PawprintError
from pawprint.tracking.server import Unreachable

PAUSE = 5.0, 300.0  # seconds before MLflow is asked again: at first, at most; doubled each time
_TEMPORARY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")

P = ParamSpec("P")
Deliver = Callable[[str, Mapping[str, Any]], None]  # (method of Run, its arguments)


class Outbox:
    """The entries of one run; see the module. Made for one writer; `pawprint sync` may empty it meanwhile."""

    def __init__(self, folder: Path, deliver: Deliver) -> None:
        self.folder, self._deliver = folder, deliver
        self._pause, self._ask_at = PAUSE[0], 0.0

    def send(self, method: str, arguments: Mapping[str, Any], files: str = "") -> None:
        """Deliver a call, after all that waits; keep it where MLflow is away, with what the argument `files` names."""
        if not self.waiting() and self._delivered(method, arguments):
            return
        with self._alone():
            if not (time.monotonic() >= self._ask_at and self._emptied() and self._delivered(method, arguments)):
                self._keep(method, arguments, files)

    def empty(self) -> bool:
        """Deliver what waits; False where some is left because MLflow is away."""
        if not self.waiting():
            return True
        with self._alone():
            return self._emptied()

    def waiting(self) -> list[Path]:
        """Entries that are not delivered, in order."""
        return sorted(self.folder.glob("[0-9]*.json"))

    def _delivered(self, method: str, arguments: Mapping[str, Any]) -> bool:
        if time.monotonic() < self._ask_at:
            return False
        try:
            self._deliver(method, arguments)
        except Exception as error:
            if not is_outage(error):
                raise
            self._ask_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, PAUSE[1])
            return False
        self._pause, self._ask_at = PAUSE[0], 0.0
        return True

    def _emptied(self) -> bool:
        for entry in self.waiting():
            call = json.loads(entry.read_bytes())
            if call["files"]:
                call["arguments"][call["files"]] = Path(call["arguments"][call["files"]])
            try:
                if not self._delivered(call["method"], call["arguments"]):
                    return False
            except (MlflowException, PawprintError, OSError) as error:  # it will never go; the others may
                refused = entry.rename(entry.with_suffix(".refused"))
                print(f"MLflow refuses {refused}: {error}", flush=True)
                continue
            entry.unlink()
            shutil.rmtree(entry.with_suffix(""), ignore_errors=True)
        if not any(self.folder.glob("*.refused")):
            shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _keep(self, method: str, arguments: Mapping[str, Any], files: str) -> None:
        number = max((int(entry.stem) for entry in self.waiting()), default=0) + 1
        if number == 1:
            print(f"MLflow does not answer. What this run logs is kept in {self.folder} until it does.", flush=True)
        entry = self.folder / f"{number:08}.json"
        kept = dict(arguments)
        if files:  # as they are now: the next training replaces them
            source, copy = Path(kept[files]), entry.with_suffix("") / Path(kept[files]).name
            copy.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, dirs_exist_ok=True)
            else:
                shutil.copy2(source, copy)
            kept[files] = str(copy)
        partial = entry.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"method": method, "arguments": kept, "files": files}, file, default=str)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(entry)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.folder.mkdir(parents=True, exist_ok=True)  # who held the lock may have emptied and removed it
            yield


class _Sender(Protocol):
    outbox: Outbox | None


S = TypeVar("S", bound=_Sender)


def kept(
    files: str = "",
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """A method that goes by way of `self.outbox`, where there is one.

    Its arguments are JSON or paths; `files` names the one whose file or folder must outlive the call.
    """

    def decorate(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        shape = signature(method)

        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            if self.outbox is None:
                return method(self, *args, **kwargs)
            bound = shape.bind(self, *args, **kwargs).arguments
            arguments = {name: value for name, value in bound.items() if name != "self"}
            return self.outbox.send(method.__name__, arguments, files)

        functools.update_wrapper(call, method)
        return call

    return decorate


def folder(root: Path) -> Path:
    """Where the outboxes of all runs lie, one folder a run."""
    return main_workspace(root) / "cache" / "outbox"


def is_outage(error: BaseException) -> bool:
    """Will the same call go another time?"""
    if isinstance(error, MlflowException):
        return error.error_code in _TEMPORARY
    return isinstance(error, Unreachable | requests.RequestException | ConnectionError | TimeoutError)
