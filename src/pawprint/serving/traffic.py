"""What was answered, and what people said of it: one SQLite file that a kill cannot tear.

    log = TrafficLog(folder() / "pawprint-dogs-cats.db", rows=20_000)
    log.add(record)                      # returns at once; a thread of its own writes
    await log.feedback(id, "cat")        # returns when it is on disk

SQLite in WAL mode commits whole transactions or nothing, so a process killed at any moment leaves every record that
was committed and no half of another; several workers may write at once. The oldest rows go when there are more
than `rows`.
"""

import asyncio
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint.serving import metrics

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
    """One answer, as it is kept."""

    id: str
    time: float
    picture_sha256: str
    label: str
    probabilities: dict[str, float]
    typicality: float
    embedding: NDArray[np.float32]  # [d]
    model_digest: str
    model_version: str
    picture: bytes | None = None


def folder() -> Path:
    """Where traffic is kept: PAWPRINT_TRAFFIC, or a state folder of the user (a Bento itself stays as built)."""
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
        """Keep an answer; on disk a moment later."""
        if self._rows:
            self._work.put(record)

    async def feedback(self, id: str, label: str) -> bool:
        """Keep what a person says the label is, the last word counts. False where no such answer is kept."""
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
                    answered = [(item, _apply(connection, item)) for item in items if item is not None]
                    since_trim += len(items)
                    if since_trim >= _TRIM_EVERY:
                        connection.execute(
                            "DELETE FROM predictions WHERE number <= (SELECT max(number) FROM predictions) - ?",
                            (self._rows,),
                        )
                        since_trim = 0
            except sqlite3.Error as error:  # a full disk stops the log, not the service
                logger.error("the traffic log %s cannot be written: %s", self.path, error)
                answered = [(item, False) for item in items if item is not None]
                metrics.LOST.inc(sum(isinstance(item, Record) for item in items))
            for item, found in answered:
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
    connection.execute(
        "INSERT INTO predictions (id, time, picture_sha256, label, probabilities, typicality, embedding,"
        " model_digest, model_version, picture) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            item.id,
            item.time,
            item.picture_sha256,
            item.label,
            json.dumps(item.probabilities),
            item.typicality,
            item.embedding.astype("<f2").tobytes(),
            item.model_digest,
            item.model_version,
            item.picture,
        ),
    )
    return True
