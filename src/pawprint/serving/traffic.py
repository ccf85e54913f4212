"""The traffic log: predictions and feedback in one SQLite file that no kill can damage.

    log = TrafficLog(folder() / "pawprint-dogs-cats.db", rows=20_000)
    log.add(record)                      # returns at once; a thread of its own writes
    await log.feedback(id, "cat")        # returns when it is on disk

SQLite in WAL mode commits whole transactions or nothing, so a process killed at any moment leaves every record that
was committed and no part of another; several workers may write at once. The oldest rows are removed when there are
more than `rows`.
"""

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pawprint.errors import PawprintError
from pawprint.serving import metrics
from pawprint.serving.schema import Prediction


@dataclass(frozen=True)
class Record:
    """One prediction as it is logged: a field is a column of the table `predictions`."""

    id: str
    time: float  # seconds since 1970
    picture_sha256: str  # of the bytes as they came
    label: str
    probabilities: str  # JSON, by class
    typicality: float
    embedding: bytes  # float16, little-endian
    model_digest: str
    model_version: str
    picture: bytes | None = None  # only where serving.keep_pictures is on

    @classmethod
    def of(
        cls, one: Prediction, time: float, sha256: str, embedding: NDArray[np.float32], picture: bytes | None = None
    ) -> Self:
        """The record of a prediction for the bytes `sha256` and their embedding [d]."""
        probabilities, half = json.dumps(one.probabilities), embedding.astype("<f2").tobytes()
        return cls(
            one.id, time, sha256, one.label, probabilities, one.typicality, half,
            one.model.digest, one.model.version, picture,
        )  # fmt: skip


_COLUMNS = [field.name for field in fields(Record)]
_TYPES: dict[Any, str] = {str: "TEXT NOT NULL", float: "REAL NOT NULL", bytes: "BLOB NOT NULL", bytes | None: "BLOB"}
_SCHEMA = f"""
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;
CREATE TABLE IF NOT EXISTS predictions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    {", ".join(f"{field.name} {_TYPES[field.type]}" for field in fields(Record))},
    UNIQUE (id)
);
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY REFERENCES predictions (id) ON DELETE CASCADE,
    time REAL NOT NULL,
    label TEXT NOT NULL
);
"""
_ADD = f"INSERT INTO predictions ({', '.join(_COLUMNS)}) VALUES (:{', :'.join(_COLUMNS)})"
_TRIM = "DELETE FROM predictions WHERE number <= (SELECT max(number) FROM predictions) - ?"
_FEEDBACK = (
    "INSERT INTO feedback SELECT id, ?, ? FROM predictions WHERE id = ?"
    " ON CONFLICT (id) DO UPDATE SET time = excluded.time, label = excluded.label"
)
_TRIM_EVERY = 256  # rows
_GATHER = 0.1  # seconds: what arrives within them is one transaction

logger = logging.getLogger(__name__)


def folder() -> Path:
    """The folder of the logs: PAWPRINT_TRAFFIC, or a state folder of the user (a Bento itself stays as built)."""
    if chosen := os.environ.get("PAWPRINT_TRAFFIC"):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "pawprint"


def path(model: str) -> Path:
    """The log of the registered model `model`."""
    return folder() / f"{model or 'unregistered'}.db"


class TrafficLog:
    """Writes to `path` from one thread; `rows` of 0 keeps nothing."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path = path
        self._rows = rows
        self._waiting: deque[Record] = deque()
        self._since_trim = _TRIM_EVERY  # what a killed process left is trimmed first
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="traffic")
        if rows:
            path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record) -> None:
        """Log a prediction; on disk a moment later."""
        if self._rows:
            self._waiting.append(record)
            self._thread.submit(self._gather)

    async def feedback(self, id: str, label: str) -> bool:
        """Log the right label of a prediction; the last one counts. False where no such prediction is logged."""
        if not self._rows:
            return False
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, id, label)

    def close(self) -> None:
        """Write what waits, then end."""
        self._thread.shutdown()

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30)
        connection.executescript(_SCHEMA)
        return connection

    def _gather(self) -> None:
        if self._waiting:  # another call has not written it already
            time.sleep(_GATHER)
            self._write()

    def _write(self, id: str = "", label: str = "") -> bool:
        """All that waits and feedback on the prediction `id`, in one transaction. Is `id` known?"""
        records = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self._connection as transaction:
                transaction.executemany(_ADD, map(asdict, records))
                self._since_trim += len(records)
                if self._since_trim >= _TRIM_EVERY:
                    transaction.execute(_TRIM, (self._rows,))
                    self._since_trim = 0
                return bool(id) and transaction.execute(_FEEDBACK, (time.time(), label, id)).rowcount == 1
        except sqlite3.Error as error:  # a full disk stops the log, not the service
            logger.error("the traffic log %s cannot be written: %s", self.path, error)
            metrics.LOST.inc(len(records))
            return False


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A log that may be written at the same time. The service need not run."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def read(log: Path, model_digest: str, since: float) -> tuple[list[sqlite3.Row], int]:
    """(a model's predictions after `since`, by time, with the columns of Record and `right_label`, count of others').

    Raises:
        PawprintError: there is no such log, or it is not one of ours.
    """
    if not log.is_file():
        raise PawprintError(f"There is no traffic log at {log}. Serve the model and send it pictures, or name --log.")
    try:
        with _reading(log) as connection:
            rows = connection.execute(
                "SELECT p.*, f.label AS right_label FROM predictions p LEFT JOIN feedback f ON f.id = p.id"
                " WHERE p.model_digest = ? AND p.time >= ? ORDER BY p.time",
                (model_digest, since),
            ).fetchall()
            others = "SELECT count(*) FROM predictions WHERE model_digest != ? AND time >= ?"
            return rows, int(connection.execute(others, (model_digest, since)).fetchone()[0])
    except sqlite3.Error as error:
        raise PawprintError(f"{log} cannot be read as a traffic log ({error}). Name another with --log.") from None


def find_prediction(id: str, logs: Path | None = None) -> dict[str, str] | None:
    """Texts of the prediction `id` in any log of the folder `logs`; None where there is none.

    `model` is the registered model, which names the log, and `time` is in UTC. A log that cannot be read is skipped.
    """
    columns = "id, label, picture_sha256, model_digest, model_version, time"
    for path in sorted((logs or folder()).glob("*.db")):
        try:
            with _reading(path) as connection:
                row = connection.execute(f"SELECT {columns} FROM predictions WHERE id = ?", (id,)).fetchone()
        except sqlite3.Error:
            continue
        if row:
            when = f"{datetime.fromtimestamp(row['time'], UTC):%Y-%m-%d %H:%M:%S} UTC"
            return {**row, "time": when, "model": path.stem}
    return None
