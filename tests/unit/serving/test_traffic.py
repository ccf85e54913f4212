"""The traffic log's thread goes on, and says what it could not keep, whatever happens to its file."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from pawprint.serving import metrics, traffic
from pawprint.serving.problems import RequestError
from pawprint.serving.traffic import Record, TrafficLog
from toy import prediction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "toy.db"


@pytest.fixture
def open_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], TrafficLog]]:
    opened: list[TrafficLog] = []
    for name, seconds in {"_GATHER": 0.01, "_RETRY": 0.05, "_CLOSING": 1.0}.items():
        monkeypatch.setattr(traffic, name, seconds)

    def make() -> TrafficLog:
        opened.append(TrafficLog(path, rows=100))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


def add(log: TrafficLog, id: str, picture: bytes | None = None) -> None:
    log.add(Record.of(prediction(id), time.time(), "0" * 64, np.ones(4, np.float32)), picture)


def acknowledged(log: TrafficLog, id: str) -> bool:
    """Feedback on `id`, tried until it is written."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return asyncio.run(log.feedback(id, "dog"))
        except RequestError as error:
            assert (error.status_code, error.reason) == (503, "not_logged")
            assert time.monotonic() < deadline
            time.sleep(0.05)


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as log:
        return [id for (id,) in log.execute("SELECT id FROM predictions ORDER BY number")]


def lost() -> float:
    return float(metrics.LOST._value.get())


def test_only_its_owner_reads_it(open_log: Callable[[], TrafficLog], path: Path) -> None:
    log = open_log()
    add(log, "a")
    assert acknowledged(log, "a")
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_feedback_that_nobody_waits_for_ends_nothing(open_log: Callable[[], TrafficLog], path: Path) -> None:
    log = open_log()
    add(log, "a")

    async def give_up() -> None:
        waiting = asyncio.create_task(log.feedback("a", "dog"))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(give_up())
    add(log, "b")
    assert acknowledged(log, "b") and ids(path) == ["a", "b"]


@pytest.mark.parametrize("damage", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_set_aside(open_log: Callable[[], TrafficLog], path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    log = open_log()
    add(log, "a")
    assert acknowledged(log, "a") and ids(path) == ["a"]
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside.read_bytes() == damage


def test_a_file_that_is_removed_is_begun_anew(open_log: Callable[[], TrafficLog], path: Path) -> None:
    log = open_log()
    add(log, "a")
    assert acknowledged(log, "a")
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert not acknowledged(log, "a")  # it is gone, and nothing is acknowledged that is not on disk
    add(log, "b")
    assert acknowledged(log, "b") and ids(path) == ["b"]


def test_what_cannot_be_written_waits_and_is_counted_where_it_is_too_much(
    open_log: Callable[[], TrafficLog], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.write_bytes(b"a file where the folder should be")
    monkeypatch.setattr(traffic, "_WAITING", 10 * traffic._ROW)
    log, before = open_log(), lost()
    for number in range(25):
        add(log, str(number))
    with pytest.raises(RequestError):
        asyncio.run(log.feedback("24", "dog"))
    assert metrics.LOG_UP._value.get() == 0 and 10 <= lost() - before <= 15
    path.parent.unlink()
    assert acknowledged(log, "24") and metrics.LOG_UP._value.get() == 1
    kept = ids(path)
    assert kept[-1] == "24" and len(kept) + lost() - before == 25


def test_answers_of_two_registered_models_that_wait_go_each_into_its_own_log(
    open_log: Callable[[], TrafficLog], path: Path
) -> None:
    path.parent.touch()  # no folder can be made there
    log = open_log()
    add(log, "1")
    log.turn_to("other")
    add(log, "2")
    log.turn_to("toy")
    add(log, "3")
    time.sleep(0.2)
    path.parent.unlink()
    deadline, kept = time.monotonic() + 10, list[str]()
    while kept != ["1", "3"]:
        assert time.monotonic() < deadline
        with suppress(sqlite3.OperationalError):  # its tables are being made
            kept = ids(path)
        time.sleep(0.02)
    assert ids(path.with_name("other.db")) == ["2"]
    assert acknowledged(log, "1") and acknowledged(log, "2")
