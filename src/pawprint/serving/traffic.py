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
import queue
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint.serving import metrics
from pawprint.serving.schema import Prediction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    time REAL NOT NULL,             -- seconds since 1970
    picture_sha256 TEXT NOT NULL,   -- of the bytes as they came
    label TEXT NOT NULL,
    probabilities TEXT NOT NULL,    -- JSON, by class
    typicality REAL NOT NULL,
    embedding BLOB NOT NULL,        -- float16, little-endian
    model_digest TEXT NOT NULL,
    model_version TEXT NOT NULL,
    picture BLOB                    -- only where serving.keep_pictures is on
);
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY REFERENCES predictions (id) ON DELETE CASCADE,
    time REAL NOT NULL,
    label TEXT NOT NULL
);
"""
_TRIM_EVERY = 256  # rows
_GATHER = 0.1  # seconds: what arrives within them is one transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One prediction, as it is logged."""

    prediction: Prediction
    time: float  # seconds since 1970
    picture_sha256: str  # of the bytes as they came
    embedding: NDArray[np.float32]  # [d]
    picture: bytes | None = None  # only where serving.keep_pictures is on

    def row(self) -> dict[str, object]:
        """The values of its row in `predictions`, by column."""
        one = self.prediction
        return {
            "id": one.id,
            "time": self.time,
            "picture_sha256": self.picture_sha256,
            "label": one.label,
            "probabilities": json.dumps(one.probabilities),
            "typicality": one.typicality,
            "embedding": self.embedding.astype("<f2").tobytes(),
            "model_digest": one.model.digest,
            "model_version": one.model.version,
            "picture": self.picture,
        }


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
        self._work: queue.SimpleQueue[Record | _Feedback | None] = queue.SimpleQueue()
        if rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._thread = threading.Thread(target=self._write, name="traffic", daemon=True)
            self._thread.start()

    def add(self, record: Record) -> None:
        """Log a prediction; on disk a moment later."""
        if self._rows:
            self._work.put(record)

    async def feedback(self, id: str, label: str) -> bool:
        """Log the right label of a prediction; the last one counts. False where no such prediction is logged."""
        if not self._rows:
            return False
        done: Future[bool] = Future()
        self._work.put(_Feedback(id, label, done))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Write what waits, then end."""
        if self._rows:
            self._work.put(None)
            self._thread.join()

    def _write(self) -> None:
        connection = sqlite3.connect(self.path, timeout=30)
        connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;" + _SCHEMA
        )
        since_trim = _TRIM_EVERY  # what a killed process left is trimmed first
        running = True
        while running:
            items = [self._work.get()]
            if not isinstance(items[0], _Feedback):
                time.sleep(_GATHER)
            while not self._work.empty():
                items.append(self._work.get())
            running = None not in items
            try:
                with connection:
                    done = [(item, _apply(connection, item)) for item in items if item is not None]
                    since_trim += len(items)
                    if since_trim >= _TRIM_EVERY:
                        connection.execute(
                            "DELETE FROM predictions WHERE number <= (SELECT max(number) FROM predictions) - ?",
                            (self._rows,),
                        )
                        since_trim = 0
            except sqlite3.Error as error:  # a full disk stops the log, not the service
                logger.error("the traffic log %s cannot be written: %s", self.path, error)
                done = [(item, False) for item in items if item is not None]
                metrics.LOST.inc(sum(isinstance(item, Record) for item in items))
            for item, found in done:
                if isinstance(item, _Feedback):
                    item.done.set_result(found)
        connection.close()


@dataclass(frozen=True)
class _Feedback:
    id: str
    label: str
    done: Future[bool]


def _apply(connection: sqlite3.Connection, item: Record | _Feedback) -> bool:
    if isinstance(item, _Feedback):
        written = connection.execute(
            "INSERT INTO feedback SELECT id, ?, ? FROM predictions WHERE id = ?"
            " ON CONFLICT (id) DO UPDATE SET time = excluded.time, label = excluded.label",
            (time.time(), item.label, item.id),
        )
        return written.rowcount == 1
    row = item.row()
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO predictions ({', '.join(row)}) VALUES ({marks})", row)
    return True


def find_prediction(id: str, logs: Path | None = None) -> dict[str, str] | None:
    """The row of the prediction `id` in any log of the folder `logs`; None where there is none.

    `model` is the registered model, which names the log, and `time` is in UTC. A log that cannot be read is skipped.
    The service need not run.
    """
    columns = ("id", "label", "picture_sha256", "model_digest", "model_version", "time")
    for path in sorted((logs or folder()).glob("*.db")):
        try:
            with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                query = f"SELECT {', '.join(columns)} FROM predictions WHERE id = ?"
                row = connection.execute(query, (id,)).fetchone()
        except sqlite3.Error:
            continue
        if row:
            when = f"{datetime.fromtimestamp(row[-1], UTC):%Y-%m-%d %H:%M:%S} UTC"
            return {**dict(zip(columns, row, strict=True)), "time": when, "model": path.stem}
    return None
