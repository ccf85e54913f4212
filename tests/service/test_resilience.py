"""Kills, ends and overload, on services of their own."""

import asyncio
import io
import signal
import sqlite3
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
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
    """A form that keeps the service busy for a second or two: 12 pictures of twenty megapixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 4000), (220, 40, 40)).save(buffer, "PNG")
    return [("image", ("big.png", buffer.getvalue()))] * 12


def test_sigterm_finishes_what_was_accepted(toy_model: Path, tmp_path: Path) -> None:
    env = {**checkout(tmp_path, answer_seconds=60), "PAWPRINT_MODEL": str(toy_model)}
    with serving(tmp_path / "log", env, cwd=tmp_path) as (url, process), ThreadPoolExecutor(4) as pool:
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
        for victim in (psutil.Process(process.pid), worker_of(process)):  # the parent first: it replaces a worker
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
    (file,) = (tmp_path / "traffic" / "pictures").glob("??/*")  # the same picture, once
    assert (file.name, file.read_bytes(), file.stat().st_mode & 0o777) == (kept, pictures["red"], 0o600)


@dataclass(frozen=True)
class Seen:
    """How one request went."""

    status: int
    seconds: float
    retry: str | None


async def ask(client: httpx.AsyncClient, picture: bytes) -> Seen:
    started = time.monotonic()
    response = await client.post("/predict", content=picture)
    return Seen(response.status_code, time.monotonic() - started, response.headers.get("Retry-After"))


async def sustainable(client: httpx.AsyncClient, picture: bytes, seconds: float) -> list[Seen]:
    """As many clients as the service takes at once, each asking when it has its answer."""
    end = time.monotonic() + seconds

    async def one() -> list[Seen]:
        return [await ask(client, picture) for _ in iter(lambda: time.monotonic() < end, False)]

    return [seen for each in await asyncio.gather(*(one() for _ in range(4))) for seen in each]


async def flood(client: httpx.AsyncClient, picture: bytes, rate: float, seconds: float) -> list[Seen]:
    """`rate` requests a second, whatever becomes of them; every one must end."""
    started = time.monotonic()
    asked = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0, started + number / rate - time.monotonic()))
        asked.append(asyncio.create_task(ask(client, picture)))
    return await asyncio.wait_for(asyncio.gather(*asked), 60)


async def check_overload(url: str, picture: bytes, seconds: float) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        normal = await sustainable(client, picture, 3)
        assert {seen.status for seen in normal} == {200}
        rate = 2 * len(normal) / 3
        seen = await flood(client, picture, rate, seconds)
        started = time.monotonic()
        while (await ask(client, picture)).status != 200:
            await asyncio.sleep(0.05)
        recovered = time.monotonic() - started
    accepted = sorted(each.seconds for each in seen if each.status == 200)
    refused = sorted(each.seconds for each in seen if each.status == 503)
    assert len(accepted) + len(refused) == len(seen) and accepted and refused
    assert all(each.retry == "1" for each in seen if each.status == 503)
    assert statistics.median(refused) < statistics.median(accepted)  # told at once, not after waiting in line
    assert recovered < 2
    p99 = [times[int(0.99 * len(times))] for times in (sorted(each.seconds for each in normal), accepted)]
    print(
        f"{rate:.0f}/s: {len(accepted)} accepted, {len(refused)} refused (median "
        f"{1000 * statistics.median(refused):.0f} ms); p99 normal {1000 * p99[0]:.0f} ms, accepted "
        f"{1000 * p99[1]:.0f} ms; recovered in {recovered:.2f} s"
    )


@pytest.fixture
def narrow(toy_model: Path, tmp_path: Path):
    """A service that takes four pictures at once."""
    env = checkout(tmp_path, max_in_flight=4, max_images=4)
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
    asyncio.run(check_overload(narrow, photograph, seconds=3))


def test_a_batch_counts_as_its_pictures(narrow: str, photograph: bytes) -> None:
    """Of two batches of three at once one is told to come back, though they are only two requests."""
    batch = [("image", ("large.png", photograph))] * 3
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(lambda _: httpx.post(f"{narrow}/predict/batch", files=batch, timeout=30), range(2)))
    assert sorted(response.status_code for response in seen) == [200, 503]
    assert all(
        answer["prediction"] for response in seen if response.is_success for answer in response.json()["answers"]
    )
    assert httpx.post(f"{narrow}/predict/batch", files=batch, timeout=30).status_code == 200


@pytest.mark.slow
def test_a_minute_of_overload(narrow: str, photograph: bytes) -> None:
    asyncio.run(check_overload(narrow, photograph, seconds=60))


def test_the_state_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PAWPRINT_TRAFFIC", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert traffic.folder() == tmp_path / "pawprint"
