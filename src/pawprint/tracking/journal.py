"""Local first: a run is written to disk as it goes, and one uploader brings MLflow level with it.

    run = JournaledRun(tracker, run_id)
    run.metrics({"train_loss": 0.3}, step=1)     # on disk now, in MLflow within seconds if it answers
    run.flush()                                  # False: MLflow is away; `pawprint sync` uploads later

`journal.jsonl` is append-only: a line is one call of a method of run.Run with its time; the first, `begin`, creates
the run where MLflow does not have it. `uploaded` counts the lines that MLflow has. Uploading a line twice changes
nothing in MLflow (a metric is known by name, step, time and value), so a kill between an upload and its count does no
harm. A training that resumes appends to the same journal and repeats no epoch.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from pawprint import files
from pawprint.errors import PawprintError
from pawprint.tracking.run import FINISHED, Call, Run, RunRecord
from pawprint.tracking.server import Unreachable, is_outage

if TYPE_CHECKING:
    from pawprint.tracking.tracker import Tracker

UPLOAD_SECONDS = 3.0
LONGEST_PAUSE = 300.0  # seconds between two tries while MLflow is away
LINKED = 2**20  # bytes; a larger file is linked and not copied, because it is replaced as a whole and not edited
RECORDED = ("begin", "params", "tags", "metrics", "dataset")  # the calls of run.json: those without a file


class Journal:
    """The calls of one run on disk; see the module. One process appends, any may upload."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, method: str, path: Path | None = None, **arguments: Any) -> None:
        """Add a call; the file or folder `path`, its argument of that name, is kept as it is now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if path is not None:
            copy = self.folder / "files" / str(time.time_ns()) / path.name
            copy.parent.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, copy, copy_function=_keep)
            else:
                _keep(path, copy)
            arguments["path"] = str(copy.relative_to(self.folder))  # the project may be moved meanwhile
        line = Call(method=method, arguments=arguments).model_dump_json() + "\n"
        with (self.folder / "journal.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else f"\n{line}"  # a full disk has cut the last line off
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def calls(self) -> list[Call]:
        """All calls in order; a line that was cut off is not one."""
        calls: list[Call] = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / "journal.jsonl").read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    call = Call.model_validate_json(line)
                    if "path" in call.arguments:
                        call.arguments["path"] = str(self.folder / call.arguments["path"])
                    calls.append(call)
        return calls

    def waiting(self) -> list[Call]:
        """Calls that MLflow does not have."""
        return self.calls()[self._uploaded() :]

    def upload(self, tracker: "Tracker") -> None:
        """Make the waiting calls in order; a call that MLflow refuses is reported and skipped.

        Raises:
            Unreachable: MLflow is away.
        """
        if not self.waiting():
            return
        try:
            with files.lock(self.folder / "lock", timeout=-1), tracker.reachable():
                run: Run | None = None
                for number, call in enumerate(self.waiting(), start=self._uploaded() + 1):
                    try:
                        run = run or tracker.run_of_journal(self.folder.name, call)
                        call.make(run)
                    except (MlflowException, PawprintError, OSError) as error:
                        if is_outage(error):
                            raise
                        print(f"MLflow refuses {call.method} of run {self.folder.name}: {error}", flush=True)
                    files.write_text(self.folder / "uploaded", str(number))
        except FileNotFoundError:  # another process has uploaded the journal and removed it meanwhile
            if self.waiting():
                raise

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _uploaded(self) -> int:
        try:
            return int((self.folder / "uploaded").read_text())
        except (FileNotFoundError, ValueError):
            return 0


class JournaledRun:
    """A run that is written to its journal first. It is the logger that training/ is handed."""

    def __init__(self, tracker: "Tracker", run_id: str) -> None:
        self.tracker, self.id = tracker, run_id
        self.journal = Journal(tracker.journals / run_id)
        self._logged = {
            (name, call.arguments["step"])
            for call in self.journal.calls()
            if call.method == "metrics"
            for name in call.arguments["values"]
        }
        self._began = time.monotonic()
        self._one, self._stop, self._away = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._upload, name="mlflow", daemon=True).start()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers; a metric that has a value at this step keeps it."""
        fresh = {name: float(value) for name, value in values.items() if (name, step) not in self._logged}
        self._logged |= {(name, step) for name in fresh}
        if fresh:
            self.journal.append("metrics", values=fresh, step=step, at=time.time())

    def params(self, values: Mapping[str, Any]) -> None:
        self.journal.append("params", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, Any]) -> None:
        self.journal.append("tags", values={name: str(value) for name, value in values.items()})

    def artifact(self, path: Path, folder: str = "") -> None:
        self.journal.append("artifact", path, folder=folder)

    def manifest(self, path: Path, digest: str) -> None:
        self.journal.append("manifest", path, digest=digest)

    def dataset(self, name: str, data: Path, digest: str) -> None:
        self.journal.append("dataset", name=name, data=str(data), digest=digest)

    def model(self, path: Path) -> None:
        self.journal.append("model", path)

    def status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED. The end of a run is uploaded before this returns, if MLflow answers.

        The journal of a run that did not finish stays, because it may be resumed.
        """
        self.journal.append("status", status=status)
        if status == "RUNNING":
            return
        self._stop.set()
        if not self.flush():
            left = len(self.journal.waiting())
            print(f"MLflow is away: {left} entries of run {self.id} wait. `pawprint sync` uploads them.", flush=True)
        elif status == FINISHED:
            self.journal.remove()

    def record(self) -> RunRecord:
        """The content of run.json."""
        calls = tuple(call for call in self.journal.calls() if call.method in RECORDED)
        return RunRecord(run_id=self.id, seconds=round(time.monotonic() - self._began, 1), calls=calls)

    def flush(self) -> bool:
        """Upload all that waits; False where MLflow is away."""
        with self._one:
            try:
                self.journal.upload(self.tracker)
                self._away = False
            except Unreachable:
                if not self._away:
                    where = self.journal.folder
                    print(f"MLflow does not answer. The run's log is kept in {where} until it does.", flush=True)
                self._away = True
            return not self._away

    def _upload(self) -> None:
        pause = UPLOAD_SECONDS
        while not self._stop.wait(pause):
            pause = UPLOAD_SECONDS if self.flush() else min(2 * pause, LONGEST_PAUSE)


def _keep(source: str | Path, target: str | Path) -> None:
    """Copy a small file; link a large one."""
    if Path(source).stat().st_size > LINKED:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
