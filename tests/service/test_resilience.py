"""Kills, ends and overload, on services of their own."""

import io
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from pawprint.serving import traffic
from service_process import checkout, serving


@pytest.fixture
def env(toy_model: Path, tmp_path: Path) -> dict[str, str]:
    return {"PAWPRINT_MODEL": str(toy_model), "PAWPRINT_TRAFFIC": str(tmp_path / "traffic")}


def worker_of(process) -> psutil.Process:
    """The process that answers, below the one that was started."""
    return next(child for child in psutil.Process(process.pid).children(True) if "worker" in " ".join(child.cmdline()))


def slow_batch() -> list[tuple[str, tuple[str, bytes]]]:
    """A form that keeps the service busy for a second or two: 12 pictures of six megapixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 2000), (220, 40, 40)).save(buffer, "PNG")
    return [("image", ("big.png", buffer.getvalue()))] * 12


def test_sigterm_finishes_what_was_accepted(env: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path / "log", env) as (url, process), ThreadPoolExecutor(4) as pool:
        running = [pool.submit(httpx.post, f"{url}/predict/batch", files=slow_batch(), timeout=60) for _ in range(3)]
        time.sleep(0.5)
        assert not any(future.done() for future in running)  # else this test says nothing
        process.send_signal(signal.SIGTERM)
        answers = [future.result() for future in running]
        assert process.wait(30) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/model", timeout=2)
    for answer in answers:
        assert [item["prediction"]["label"] for item in answer.json()["answers"]] == ["red"] * 12


def test_a_killed_worker_is_replaced(env: dict[str, str], pictures: dict[str, bytes], tmp_path: Path) -> None:
    with serving(tmp_path / "log", env) as (url, process):
        first = worker_of(process)
        first.kill()
        first.wait(10)
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = httpx.post(f"{url}/predict", content=pictures["blue"], timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert answer.json()["label"] == "blue"
        assert worker_of(process).pid != first.pid


def test_the_traffic_log_survives_a_kill(env: dict[str, str], pictures: dict[str, bytes], tmp_path: Path) -> None:
    with serving(tmp_path / "log", env) as (url, process):
        with httpx.Client() as client:
            ids = [client.post(f"{url}/predict", content=pictures["red"]).json()["id"] for _ in range(30)]
            noted = client.post(f"{url}/feedback", json={"id": ids[0], "label": "blue"})
            assert noted.status_code == 200  # it and all before it are on disk now
            late = [client.post(f"{url}/predict", content=pictures["green"]).json()["id"] for _ in range(5)]
        for victim in (worker_of(process), psutil.Process(process.pid)):
            victim.kill()
        process.wait(10)
    with closing(sqlite3.connect(tmp_path / "traffic/pawprint-colours.db")) as log:
        assert log.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = log.execute("SELECT id, label, embedding, picture FROM predictions ORDER BY number").fetchall()
        feedback = log.execute("SELECT id, label FROM feedback").fetchall()
    assert [row[0] for row in rows[:30]] == ids
    assert {row[0] for row in rows[30:]} <= set(late)
    assert all(np.frombuffer(row[2], "<f2").shape == (3,) and row[3] is None for row in rows)
    assert feedback == [(ids[0], "blue")]


def test_the_log_is_bounded_and_can_keep_pictures(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    env = checkout(tmp_path, traffic_rows=10, keep_pictures=True)
    with serving(tmp_path / "log", {**env, "PAWPRINT_MODEL": str(toy_model)}, cwd=tmp_path) as (url, _):
        files = [("image", ("red.jpg", pictures["red"]))] * 60
        for _ in range(5):
            assert httpx.post(f"{url}/predict/batch", files=files, timeout=60).status_code == 200
        time.sleep(0.5)  # the log writes behind
    with closing(sqlite3.connect(tmp_path / "traffic/pawprint-colours.db")) as log:
        count, kept = log.execute("SELECT count(*), min(picture) FROM predictions").fetchone()
    assert count < 300  # trimmed every 256 rows
    assert kept == pictures["red"]


def hammer(url: str, picture: bytes, clients: int, seconds: float) -> list[tuple[int, float, str | None]]:
    """(status, seconds, Retry-After) of every request of `clients` that ask without a pause."""
    seen: list[tuple[int, float, str | None]] = []
    end = time.monotonic() + seconds

    def client() -> None:
        with httpx.Client(timeout=20) as http:
            while time.monotonic() < end:
                started = time.monotonic()
                response = http.post(f"{url}/predict", content=picture)
                seen.append((response.status_code, time.monotonic() - started, response.headers.get("Retry-After")))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 30)
    assert not any(thread.is_alive() for thread in threads)
    return seen


def check_overload(url: str, picture: bytes, seconds: float) -> None:
    seen = hammer(url, picture, clients=24, seconds=seconds)
    assert {status for status, _, _ in seen} == {200, 503}
    assert all(retry == "1" for status, _, retry in seen if status == 503)
    started = time.monotonic()
    assert httpx.post(f"{url}/predict", content=picture).status_code == 200
    assert time.monotonic() - started < 2


@pytest.fixture
def narrow(toy_model: Path, tmp_path: Path):
    """A service that takes four requests at once."""
    env = checkout(tmp_path, max_in_flight=4)
    with serving(tmp_path / "log", {**env, "PAWPRINT_MODEL": str(toy_model)}, cwd=tmp_path) as (url, _):
        yield url


@pytest.fixture
def photograph() -> bytes:
    """Two megapixels of noise as PNG, which takes a while to decode."""
    rng = np.random.default_rng(5)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (1000, 2000, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def test_overload_is_told_to_come_back(narrow: str, photograph: bytes) -> None:
    check_overload(narrow, photograph, seconds=3)


@pytest.mark.slow
def test_a_minute_of_overload(narrow: str, photograph: bytes) -> None:
    check_overload(narrow, photograph, seconds=60)


def test_the_state_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PAWPRINT_TRAFFIC", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert traffic.folder() == tmp_path / "pawprint"
