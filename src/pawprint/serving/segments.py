"""Segments: the rows of many replicas' traffic logs, as Parquet files in a bucket or folder.

    ship(Path("traffic/pets.db"), "s3://bucket/traffic", "pod-1")    # the oldest rows -> a segment; then they go here
    with opened("s3://bucket/traffic", "pets") as log:               # all replicas' rows, as a log of its own
        report.summarize(log, ...)

A segment is MODEL/DATE/HOST-FIRST-LAST-DIGEST.parquet: Record's columns and the feedback known by then, or feedback
alone (`model_digest` is null) on a prediction that lies in an earlier segment or another replica's log. It appears
whole, and only then are its rows deleted from the spool, so a kill in between leaves them twice: readers count an `id`
once, and of its feedback the last. `ship` runs beside the service, which has neither pyarrow nor a key to the bucket.
"""

import contextlib
import hashlib
import logging
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, FlexibleChecksumError

from pawprint import files
from pawprint.errors import PawprintError
from pawprint.progress import say
from pawprint.serving import traffic
from pawprint.serving.kept import FOLDER, PictureStore

ROWS = 50_000  # of a segment, at most
READERS = 16  # segments that are read at a time
_TEXT, _NUMBER = pa.string(), pa.float64()
_KINDS = {"time": _NUMBER, "typicality": _NUMBER, "milliseconds": _NUMBER, "embedding": pa.binary()}
_SCHEMA = pa.schema(
    [(name, _KINDS.get(name, _TEXT)) for name in traffic.COLUMNS] + [("right_label", _TEXT), ("feedback_time", _NUMBER)]
)
_MARKS = ", ".join("?" * len(traffic.COLUMNS))
_PUT = f"INSERT OR IGNORE INTO predictions ({', '.join(traffic.COLUMNS)}) VALUES ({_MARKS})"
_LATEST = (
    "INSERT INTO later (id, time, label) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET time = excluded.time,"
    " label = excluded.label WHERE excluded.time > later.time"
)

logger = logging.getLogger(__name__)


def ship(log: Path, to: str, host: str, most: int = ROWS) -> int:
    """Copy the oldest rows of `log` into a segment below `to`, then delete them from it. How many; 0: there was none.

    The service may be writing. Feedback that comes in between stays for a later segment.

    Raises:
        OSError: `to` cannot be written. The log is as before.
    """
    with contextlib.closing(sqlite3.connect(log, timeout=30, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.executescript("PRAGMA secure_delete=ON; PRAGMA foreign_keys=ON;")
        connection.execute("BEGIN")  # one state of both tables
        rows = connection.execute(
            "SELECT p.*, f.label AS right_label, f.time AS feedback_time FROM predictions p"
            " LEFT JOIN feedback f ON f.id = p.id ORDER BY number LIMIT ?",
            (most,),
        ).fetchall()
        later = connection.execute("SELECT id, label AS right_label, time AS feedback_time FROM later").fetchall()
        connection.execute("COMMIT")
        if not rows and not later:
            return 0
        first, last = (rows[0]["number"], rows[-1]["number"]) if rows else (0, 0)
        _ship_pictures(log, to, {row["picture"] for row in rows})
        data = _parquet(dict(row) for row in (*rows, *later))
        when = max(row["time"] if rows else row["feedback_time"] for row in rows or later)
        day, digest = f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d}", hashlib.sha256(data).hexdigest()[:12]
        _write(f"{to.rstrip('/')}/{log.stem}/{day}/{host}-{first}-{last}-{digest}.parquet", data)

        known = {row["id"]: row["feedback_time"] for row in rows}
        connection.execute("BEGIN IMMEDIATE")
        for row in connection.execute(
            "SELECT f.* FROM feedback f JOIN predictions p ON p.id = f.id WHERE number <= ?", (last,)
        ).fetchall():
            if row["time"] != known[row["id"]]:
                connection.execute("INSERT OR REPLACE INTO later VALUES (:id, :time, :label)", dict(row))
        connection.execute("DELETE FROM predictions WHERE number <= ?", (last,))
        connection.executemany("DELETE FROM later WHERE id = :id AND time = :feedback_time", map(dict, later))
        connection.execute("COMMIT")
        return len(rows) + len(later)


def _ship_pictures(log: Path, to: str, digests: Collection[Any]) -> None:
    """Copy kept pictures of a log to pictures/ below `to`, before the segment that names them."""
    store, shipped = PictureStore(log.parent / FOLDER), Pictures(Path(), to)
    for digest in digests:
        if isinstance(digest, str) and (picture := store.read(digest)) is not None:
            shipped.put(digest, picture)


class Pictures(PictureStore):
    """Kept pictures: those in `folder`, and those that were shipped below `where` ("": none)."""

    def __init__(self, folder: Path, where: str) -> None:
        super().__init__(folder)
        self._where = where.rstrip("/")

    def put(self, digest: str, picture: bytes) -> None:
        """Copy a picture there, where it is not there yet."""
        system, path = files.file_system(self._url(digest))
        if not system.exists(path):
            _write(self._url(digest), picture)

    def read(self, digest: str) -> bytes | None:
        """A picture's bytes; None where they are not there, or are others."""
        found = super().read(digest)
        if found is not None or not self._where:
            return found
        system, path = files.file_system(self._url(digest))
        try:
            data = bytes(system.cat_file(path))
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def remove(self, digest: str) -> bool:
        """Delete a picture that was shipped; whether it was there."""
        system, path = files.file_system(self._url(digest))
        there = bool(system.exists(path))
        if there:
            system.rm_file(path)
        return there

    def _url(self, digest: str) -> str:
        return f"{self._where}/{FOLDER}/{digest[:2]}/{digest}"


@contextmanager
def opened(log: str, model: str, since: float = 0, spools: Iterable[Path] = ()) -> Iterator[Path]:
    """`log` as a file that traffic.py reads: itself, or all segments of a model below a folder or URL and its spools.

    Args:
        since: segments of days before are not read, seconds since 1970.

    Raises:
        PawprintError: the place cannot be read, or has no rows of the model.
    """
    if "://" not in log and not Path(log).is_dir():
        yield Path(log)
        return
    with tempfile.TemporaryDirectory(prefix="pawprint-traffic-") as folder:
        path = Path(folder) / f"{model}.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(traffic.SCHEMA)
            connection.execute("PRAGMA synchronous=OFF")
            with connection:
                count = _collect(connection, log, model, since) + sum(_add_spool(connection, one) for one in spools)
                connection.execute("INSERT INTO feedback SELECT * FROM later WHERE id IN (SELECT id FROM predictions)")
        if not count:
            raise PawprintError(
                f"{log} has no segments of {model or 'unregistered'}. Is it where the replicas ship to?"
            )
        yield path


@contextmanager
def log_of(model: str, named: str = "", since: float = 0) -> Iterator[Path]:
    """A model's log as a file: the one that is `named`, or all of PAWPRINT_SEGMENTS, or the one of this machine.

    With segments, this machine's own log is part of it. There may be no such file.
    """
    own = traffic.path(model)
    where = named or traffic.segments()
    if not where or (not named and not own.is_file() and not _found(where, model)):
        yield own
        return
    with opened(where, model, since, [own] if own.is_file() else []) as log:
        yield log


def holding(where: str, digest: str) -> dict[str, int]:
    """Rows on the picture with this hash, as it came or as it is kept: by segment. PawprintError where unreadable."""
    with _explained(where):
        system, root = files.file_system(where)
        found = sorted(system.glob(f"{root}/*/*/*.parquet"))
        with ThreadPoolExecutor(READERS) as pool:
            tables = pool.map(lambda path: _table(system, path, ["picture_sha256", "picture"]), found)
            counts = {
                path: sum(_is_on(row, digest) for row in table) for path, table in zip(found, tables, strict=True)
            }
    return {path: count for path, count in counts.items() if count}


def kept(where: str, paths: Iterable[str], digest: str) -> set[str]:
    """The hashes under which these segments say that the picture is kept."""
    system, _ = files.file_system(where)
    rows = (row for path in paths for row in _table(system, path, ["picture_sha256", "picture"]))
    return {row["picture"] for row in rows if row["picture"] and _is_on(row, digest)}


def erase(where: str, paths: Iterable[str], digest: str) -> None:
    """Write segments again, under the same names, without a picture's rows. OSError where that is refused."""
    system, _ = files.file_system(where)
    for path in paths:
        left = [row for row in _table(system, path) if not _is_on(row, digest)]
        _write(system.unstrip_protocol(path), _parquet(left))


def _is_on(row: dict[str, Any], digest: str) -> bool:
    return digest in (row["picture_sha256"], row["picture"])


def _collect(connection: sqlite3.Connection, where: str, model: str, since: float) -> int:
    """The rows of a model's segments; how many segments."""
    with _explained(where):
        system, _ = files.file_system(where)
        found = _found(where, model, since)
        with ThreadPoolExecutor(READERS) as pool:
            for table in pool.map(lambda path: _table(system, path), found):
                connection.executemany(
                    _PUT, ([row[name] for name in traffic.COLUMNS] for row in table if row["model_digest"] is not None)
                )
                judged = (row for row in table if row["feedback_time"] is not None)
                connection.executemany(
                    _LATEST, ((row["id"], row["feedback_time"], row["right_label"]) for row in judged)
                )
    return len(found)


def _found(where: str, model: str, since: float = 0) -> list[str]:
    """Paths of a model's segments, by day."""
    first = f"{datetime.fromtimestamp(since, UTC):%Y-%m-%d}"
    with _explained(where):
        system, root = files.file_system(where)
        found = sorted(system.glob(f"{root}/{model or 'unregistered'}/*/*.parquet"))
        return [path for path in found if path.rsplit("/", 2)[-2] >= first]


def _add_spool(connection: sqlite3.Connection, log: Path) -> int:
    """The rows that are not in a segment yet; how many."""
    with traffic.reading(log) as spool:
        rows = spool.execute(f"SELECT {', '.join(traffic.COLUMNS)} FROM predictions").fetchall()
        connection.executemany(_PUT, map(tuple, rows))
        for table in ("feedback", "later"):
            judged = spool.execute(f"SELECT id, time, label FROM {table}").fetchall()
            connection.executemany(_LATEST, map(tuple, judged))
    return len(rows)


def _parquet(rows: Iterable[dict[str, Any]]) -> bytes:
    """The same bytes for the same rows."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in _SCHEMA.names} for row in rows], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _table(system: Any, path: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """A segment's rows. One that is torn is passed over: its upload did not end, so its rows are elsewhere."""
    try:
        with system.open(path, "rb") as file:
            return list(pq.read_table(file, columns=columns).to_pylist())
    except (pa.ArrowInvalid, FlexibleChecksumError) as error:
        say(f"{path} is not whole, and is passed over: {error}")
        return []


def _write(url: str, data: bytes) -> None:
    """Whole or not at all: by rename on a disk, by PUT in a bucket."""
    system, path = files.file_system(url)
    if "file" in system.protocol:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_bytes(Path(path), data)
    else:
        system.pipe_file(path, data)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid, BotoCoreError) as error:
        raise PawprintError(
            f"The segments in {where} cannot be read: {error}. Check the address and the keys."
        ) from None


def keep_shipping(logs: Path, to: str, host: str, every: float, stop: Any) -> None:
    """`ship` each log in the folder `logs` every so many seconds until `stop` (an Event) is set, and once more then.

    A bucket that does not answer is tried again in the next round; the rows wait in the spool.
    """
    while True:
        closing = stop.wait(every)
        for log in sorted(logs.glob("*.db")):
            try:
                started, count = time.monotonic(), 0
                while found := ship(log, to, host):
                    count += found
                if count:
                    logger.info("%s: %d rows in %.1f s", log.name, count, time.monotonic() - started)
            except Exception as error:
                logger.error("%s cannot be shipped to %s; its rows wait: %s", log.name, to, error)
        if closing:
            return
