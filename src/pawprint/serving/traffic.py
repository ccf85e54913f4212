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
import re
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pawprint.errors import PawprintError
from pawprint.serving import metrics
from pawprint.serving.kept import TRIM_SECONDS, PictureStore
from pawprint.serving.problems import RequestError
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
    milliseconds: float = 0.0  # of inference
    shadow_of: str | None = None  # id of the champion's answer, where the client never saw this one
    picture: str | None = None  # SHA-256 under which kept.py has it; only where serving.keep_pictures is on

    @classmethod
    def of(cls, one: Prediction, time: float, sha256: str, embedding: NDArray[np.float32]) -> Self:
        """The record of a prediction for the bytes `sha256` and their embedding [d]."""
        probabilities, half = json.dumps(one.probabilities), embedding.astype("<f2").tobytes()
        return cls(
            one.id, time, sha256, one.label, probabilities, one.typicality, half,
            one.model.digest, one.model.version, one.milliseconds.inference,
        )  # fmt: skip


COLUMNS = [field.name for field in fields(Record)]
_TYPES: dict[Any, str] = {str: "TEXT NOT NULL", float: "REAL NOT NULL", bytes: "BLOB NOT NULL", str | None: "TEXT"}
SCHEMA = f"""
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;
CREATE TABLE IF NOT EXISTS predictions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    {", ".join(f"{field.name} {_TYPES[field.type]}" for field in fields(Record))},
    UNIQUE (id)
);
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY REFERENCES predictions (id) ON DELETE CASCADE,
    time REAL NOT NULL,
    label TEXT NOT NULL -- "" where it was taken back
);
CREATE TABLE IF NOT EXISTS later ( -- feedback on predictions that are in a segment, or in another replica's log
    id TEXT PRIMARY KEY,
    time REAL NOT NULL,
    label TEXT NOT NULL
);
"""
_ADD = f"INSERT INTO predictions ({', '.join(COLUMNS)}) VALUES (:{', :'.join(COLUMNS)})"
_TRIM = "DELETE FROM predictions WHERE number <= (SELECT max(number) FROM predictions) - ?"
_FEEDBACK = (
    "INSERT INTO feedback SELECT id, ?, ? FROM predictions WHERE id = ?"
    " ON CONFLICT (id) DO UPDATE SET time = excluded.time, label = excluded.label"
)
_LATER = "INSERT OR REPLACE INTO later (time, label, id) VALUES (?, ?, ?)"
_TRIM_LATER = "DELETE FROM later WHERE rowid <= (SELECT max(rowid) FROM later) - ?"
_ID = re.compile("[0-9a-f]{32}")
_WITH_FEEDBACK = "p.*, NULLIF(f.label, '') AS right_label FROM predictions p LEFT JOIN feedback f ON f.id = p.id"
_KNOWN = "SELECT label FROM predictions WHERE id = ?"
_TRIM_EVERY = 256  # rows
_WAITING = 64 * 2**20  # bytes of records that may wait while the log cannot be written; the oldest are lost
_ROW = 3000  # bytes of a record without its picture, about
_GATHER, _RETRY, _BUSY, _FEEDBACK_SECONDS, _CLOSING = 0.1, 1.0, 2.0, 4.0, 5.0  # seconds

logger = logging.getLogger(__name__)


def folder() -> Path:
    """The folder of the logs: PAWPRINT_TRAFFIC, or a state folder of the user (a Bento itself stays as built)."""
    if chosen := os.environ.get("PAWPRINT_TRAFFIC"):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "pawprint"


def segments() -> str:
    """Where the closed segments of all replicas' logs are (segments.py): PAWPRINT_SEGMENTS, "" without any."""
    return os.environ.get("PAWPRINT_SEGMENTS", "")


def path(model: str) -> Path:
    """The log of the registered model `model`."""
    return folder() / f"{model or 'unregistered'}.db"


class TrafficLog:
    """Writes to `path` from one thread; `rows` of 0 keeps nothing.

    What cannot be written waits, up to a limit in bytes, and is tried again each second: a full disk, a folder that is
    not there, a file that was removed. A damaged file is set aside. See docs/decisions/traffic-log.md.
    """

    def __init__(self, path: Path, rows: int, pictures: PictureStore | None = None) -> None:
        self.path = self._next = path
        self._earlier: set[Path] = set()  # logs of models that were served before; feedback on them still comes
        self._rows, self._pictures = rows, pictures
        self._shared = bool(segments())  # then others take the rows, and answer for some of the clients
        # what waits: its log, the record, and the picture where it is to be kept
        self._records: deque[tuple[Path, Record, bytes | None]] = deque()
        self._feedback: deque[tuple[str, str, Future[str | None]]] = deque()
        self._bytes, self._lock = 0, Lock()  # of the records that wait, or are being written
        self._since_trim = _TRIM_EVERY  # what a killed process left is trimmed first
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what the connection has opened
        self._wake, self._at_once, self._closing = Event(), Event(), False
        self._thread = Thread(target=self._run, name="traffic", daemon=True)
        metrics.LOG_UP.set(1)
        if rows:
            self._thread.start()

    def add(self, record: Record, picture: bytes | None = None) -> None:
        """Log a prediction, and keep its picture; on disk a moment later."""
        if self._rows:
            with self._lock:
                self._records.append((self._next, record, picture))
                self._bytes += _size(picture)
                while self._bytes > _WAITING and len(self._records) > 1:
                    self._bytes -= _size(self._records.popleft()[2])
                    metrics.LOST.inc()
            self._wake.set()

    def turn_to(self, model: str) -> None:
        """What is added from now on is of this registered model, and goes into its log."""
        self._next = self.path.with_name(path(model).name)

    async def feedback(self, id: str, label: str) -> str | None:
        """Log the right label of a prediction; the last one counts, "" takes it back.

        Gives the label that was predicted: "" where another replica, or a segment, may know it; None where no such
        prediction is logged.

        Raises:
            RequestError: 503, it cannot be written now.
        """
        if not self._rows:
            return None
        written: Future[str | None] = Future()
        self._feedback.append((id, label, written))
        self._at_once.set()
        self._wake.set()
        try:
            async with asyncio.timeout(_FEEDBACK_SECONDS):
                return await asyncio.wrap_future(written)
        except (TimeoutError, OSError, sqlite3.Error):
            message = "the traffic log cannot be written now; try again in some seconds"
            raise RequestError(503, "not_logged", message, {"Retry-After": "5"}) from None

    def close(self) -> None:
        """Write what waits, then end; what cannot be written by now is lost."""
        self._closing = True
        self._at_once.set()
        self._wake.set()
        if self._rows:
            self._thread.join(_CLOSING)
        metrics.LOST.inc(len(self._records))

    def _run(self) -> None:
        """The thread: whatever happens to one write, the next one is tried."""
        while not self._closing or self._records or self._feedback:
            if not self._wake.wait(TRIM_SECONDS) and self._pictures:
                with contextlib.suppress(OSError):
                    self._pictures.trim()  # what is too old goes also where nothing comes
                continue
            self._wake.clear()
            self._at_once.wait(_GATHER)  # so that what arrives within it is one transaction
            self._at_once.clear()
            try:
                self._write()
            except Exception as error:
                metrics.LOG_UP.set(0)
                logger.error("the traffic log %s cannot be written: %s", self.path, error)
                self._close_file(set_aside=_is_damaged(error))
                if self._closing:
                    return
                time.sleep(_RETRY)
                self._wake.set()

    def _write(self) -> None:
        """All that waits for one log, in one transaction. It waits on where that fails; feedback is told."""
        with self._lock:
            log = self._records[0][0] if self._records else self.path
            records = [self._records.popleft() for _ in takewhile(lambda waits: waits[0] == log, list(self._records))]
        if log != self.path:
            self._earlier.add(self.path)
            self.path = log
        feedback = [self._feedback.popleft() for _ in range(len(self._feedback))]
        try:
            kept = [self._keep(record, picture) for _, record, picture in records]
            with self._open() as transaction:
                transaction.executemany(_ADD, map(vars, kept))
                self._since_trim += len(records)
                if self._since_trim >= _TRIM_EVERY:
                    trimmed = transaction.execute(_TRIM, (self._rows,)).rowcount
                    transaction.execute(_TRIM_LATER, (self._rows,))
                    metrics.LOST.inc(trimmed if self._shared else 0)  # no segment has them
                    self._since_trim = 0
                known = [self._note(transaction, id, label) for id, label, _ in feedback]
            if self._file != _identity(self.path):
                raise OSError("it was removed while it was written")
        except Exception as error:
            with self._lock:
                self._records.extendleft(reversed(records))
            for *_, written in feedback:
                _tell(written, error)
            raise
        metrics.LOG_UP.set(1)
        with self._lock:
            self._bytes -= sum(_size(picture) for *_, picture in records)
        for (*_, written), result in zip(feedback, known, strict=True):
            _tell(written, result)
        if self._records:  # of the next log, or they came meanwhile
            self._wake.set()

    def _note(self, transaction: sqlite3.Connection, id: str, label: str) -> str | None:
        """Note the right label of a prediction, and find what was predicted."""
        known = transaction.execute(_KNOWN, (id,)).fetchone()
        if known:
            transaction.execute(_FEEDBACK, (time.time(), label, id))
            return str(known[0])
        for log in self._earlier:
            there = f"{log.resolve().as_uri()}?mode=rw"
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(there, uri=True, timeout=_BUSY)) as before,
            ):
                if known := before.execute(_KNOWN, (id,)).fetchone():
                    with before:
                        before.execute(_FEEDBACK, (time.time(), label, id))
                    return str(known[0])
        if self._shared and _ID.fullmatch(id):
            transaction.execute(_LATER, (time.time(), label, id))
            return ""
        return None

    def _keep(self, record: Record, picture: bytes | None) -> Record:
        """The record, with its picture on disk."""
        if picture is None or self._pictures is None:
            return record
        return replace(record, picture=self._pictures.keep(picture))

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one where the file is not there any more, or is another one."""
        if self._connection is None or self._file != _identity(self.path):
            self._close_file()
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
            connection = sqlite3.connect(self.path, timeout=_BUSY, check_same_thread=False)
            self._connection, self._file = connection, _identity(self.path)
            connection.executescript(SCHEMA)
            there = _columns(connection)
            for field in fields(Record):
                if field.name not in there:  # a log of an earlier version
                    kind = _TYPES[field.type].replace("NOT NULL", "NOT NULL DEFAULT 0")
                    connection.execute(f"ALTER TABLE predictions ADD COLUMN {field.name} {kind}")
        return self._connection

    def _close_file(self, set_aside: bool = False) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection:
                self._connection.close()
        self._connection = None
        if set_aside and self.path.exists():
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
            logger.error("it is damaged: it is kept as %s, and a new one is begun", aside.name)
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _size(picture: bytes | None) -> int:
    """Bytes that a record takes with its picture, about."""
    return _ROW + len(picture or b"")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_damaged(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _tell(written: "Future[str | None]", result: str | Exception | None) -> None:
    """The result of a feedback, unless nobody waits for it any more."""
    if written.set_running_or_notify_cancel():
        if isinstance(result, Exception):
            written.set_exception(result)
        else:
            written.set_result(result)


def _columns(connection: sqlite3.Connection) -> set[str]:
    """Of the predictions; a log of an earlier version has fewer, until the service opens it."""
    return {row[1] for row in connection.execute("PRAGMA table_info(predictions)")}


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
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
        raise PawprintError(
            f"There is no traffic log at {log}. Serve the model and send it photographs, or name --log."
        )
    try:
        with reading(log) as connection:
            rows = connection.execute(
                f"SELECT {_WITH_FEEDBACK} WHERE p.model_digest = ? AND p.time >= ? ORDER BY p.time",
                (model_digest, since),
            ).fetchall()
            others = "SELECT count(*) FROM predictions WHERE model_digest != ? AND time >= ?"
            if "shadow_of" in _columns(connection):
                others += " AND shadow_of IS NULL"
            return rows, int(connection.execute(others, (model_digest, since)).fetchone()[0])
    except sqlite3.Error as error:
        raise PawprintError(f"{log} cannot be read as a traffic log ({error}). Name another with --log.") from None


def beside(log: Path, champion: str, since: float = 0) -> tuple[list[sqlite3.Row], list[sqlite3.Row]]:
    """(pairs of answers to the same picture, by champion and in the shadow; answers of other models to clients).

    A pair has the challenger's columns `digest`, `version`, `label`, `milliseconds`, the champion's `champion_label`
    and `champion_milliseconds`, and `right_label`; an answer has the first four and `right_label`. What was logged
    before the champion's first answer is left out.
    """
    if not log.is_file():
        return [], []
    with reading(log) as connection:
        if "shadow_of" not in _columns(connection):
            return [], []
        columns = (
            "p.model_digest AS digest, p.model_version AS version, p.label, p.milliseconds,"
            " NULLIF(f.label, '') AS right_label"
        )
        pairs = connection.execute(
            f"SELECT {columns}, c.label AS champion_label, c.milliseconds AS champion_milliseconds FROM predictions p"
            " JOIN predictions c ON c.id = p.shadow_of LEFT JOIN feedback f ON f.id = c.id"
            " WHERE c.model_digest = ? AND p.time >= ? ORDER BY p.time",
            (champion, since),
        ).fetchall()
        others = connection.execute(
            f"SELECT {columns} FROM predictions p LEFT JOIN feedback f ON f.id = p.id WHERE p.model_digest != :champion"
            " AND p.shadow_of IS NULL AND p.time >= max(:since, (SELECT min(time) FROM predictions WHERE model_digest ="
            " :champion)) ORDER BY p.time",
            {"champion": champion, "since": since},
        ).fetchall()
    return pairs, others


_HOLDING = "FROM predictions WHERE picture_sha256 = :hash OR picture = :hash"


def holding(log: Path, digest: str) -> tuple[int, list[str]]:
    """(rows on the picture with this hash, as it came or as it is kept; hashes under which it is kept)."""
    try:
        with reading(log) as connection:
            rows = connection.execute(f"SELECT picture {_HOLDING}", {"hash": digest}).fetchall()
    except sqlite3.Error as error:
        raise PawprintError(f"{log} cannot be read as a traffic log ({error}). Name another with --log.") from None
    return len(rows), sorted({row["picture"] for row in rows if isinstance(row["picture"], str)})


def erase(log: Path, digest: str) -> None:
    """Delete the rows on a picture, and what SQLite keeps of deleted rows. The service may be running."""
    with contextlib.closing(sqlite3.connect(log, timeout=30)) as connection:
        connection.executescript("PRAGMA secure_delete=ON; PRAGMA foreign_keys=ON;")
        with connection:
            connection.execute(f"DELETE {_HOLDING}", {"hash": digest})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def kept(log: Path, since: float = 0) -> list[sqlite3.Row]:
    """The predictions in a log whose picture is kept, the last ones first; the columns of Record and `right_label`."""
    with reading(log) as connection:
        return connection.execute(
            f"SELECT {_WITH_FEEDBACK} WHERE typeof(p.picture) = 'text' AND p.time >= ? ORDER BY p.time DESC",
            (since,),
        ).fetchall()


def find_prediction(id: str, logs: Path | None = None) -> dict[str, str] | None:
    """Texts of the prediction `id` in any log of the folder `logs`; None where there is none.

    `model` is the registered model, which names the log, and `time` is in UTC. A log that cannot be read is skipped.
    """
    columns = "id, label, picture_sha256, model_digest, model_version, time, picture"
    for path in sorted((logs or folder()).glob("*.db")):
        try:
            with reading(path) as connection:
                row = connection.execute(f"SELECT {columns} FROM predictions WHERE id = ?", (id,)).fetchone()
        except sqlite3.Error:
            continue
        if row:
            when = f"{datetime.fromtimestamp(row['time'], UTC):%Y-%m-%d %H:%M:%S} UTC"
            kept = row["picture"] if isinstance(row["picture"], str) else ""  # bytes in a log of an earlier version
            return {**row, "time": when, "model": path.stem, "picture": kept}
    return None
