"""A stage runs the same with a Prefect server and without: retries, one sentence for a person, visible runs."""

import errno
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pawprint.errors import explain

ROOT = Path(__file__).parents[2]

STAGE = """
import sys
from prefect import flow
from flows.tasks import run, step
from pawprint.errors import PawprintError

tries = {"flaky": 0, "wrong": 0}

@step(retries=2, delay=0.1)
def flaky() -> str:
    tries["flaky"] += 1
    if tries["flaky"] < 3:
        raise ConnectionError("not yet")
    return "there"

@step(retries=2, delay=0.1)
def wrong() -> None:
    tries["wrong"] += 1
    raise PawprintError("data/ holds no photographs. Run `make run` first.")

@flow(name="toy", flow_run_name="toy {how}")
def toy(how: str) -> None:
    try:
        print(flaky())
        if how == "fails":
            wrong()
    finally:
        print(tries)

run(toy, sys.argv[1])
"""


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prefect server on a free port, ended by process id."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | {"PREFECT_HOME": str(home)}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/api"
    try:
        for _ in range(240):
            assert process.poll() is None, (home / "log").read_text()
            try:
                if httpx.get(f"{address}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def stage(how: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "PAWPRINT_DEBUG")}
    return subprocess.run(
        [sys.executable, "-c", STAGE, how],
        cwd=ROOT,
        env=clean | {"PREFECT_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_a_server_steps_are_retried_and_no_server_is_started(tmp_path: Path) -> None:
    done = stage("works", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "there" in done.stdout
    assert "{'flaky': 3, 'wrong': 0}" in done.stdout
    assert not (tmp_path / "prefect.db").exists()


def test_what_a_person_must_mend_is_said_once_and_not_retried(tmp_path: Path) -> None:
    done = stage("fails", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: data/ holds no photographs. Run `make run` first.\n"
    assert "'wrong': 1" in done.stdout
    loud = stage("fails", tmp_path, PAWPRINT_DEBUG="1")
    assert loud.returncode == 1
    assert "Traceback" in loud.stderr


def test_with_a_server_runs_and_tasks_are_there_by_name(prefect_server: str, tmp_path: Path) -> None:
    done = stage("works", tmp_path, PREFECT_API_URL=prefect_server, PAWPRINT_PIPELINE_RUN="pipeline 7")
    assert done.returncode == 0, done.stderr
    assert "{'flaky': 3, 'wrong': 0}" in done.stdout
    query = {"flow_runs": {"name": {"any_": ["toy works"]}}}
    (run,) = httpx.post(f"{prefect_server}/flow_runs/filter", json=query).json()
    assert run["state"]["type"] == "COMPLETED"
    assert run["tags"] == ["pipeline 7"]
    (task,) = httpx.post(f"{prefect_server}/task_runs/filter", json=query).json()
    assert task["name"].startswith("flaky")
    assert task["run_count"] == 3


def test_with_a_server_a_failure_is_one_sentence_and_a_failed_run(prefect_server: str, tmp_path: Path) -> None:
    done = stage("fails", tmp_path, PREFECT_API_URL=prefect_server)
    assert done.returncode == 1
    assert "error: data/ holds no photographs. Run `make run` first." in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "'wrong': 1" in done.stdout
    query = {"flow_runs": {"name": {"any_": ["toy fails"]}}}
    (run,) = httpx.post(f"{prefect_server}/flow_runs/filter", json=query).json()
    assert run["state"]["type"] == "FAILED"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "cache/x"),
            "No space left on the disk of cache/x. Free some",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a", None, "b/a"), "No space left on the disk of b/a. "),
        (sqlite3.OperationalError("database or disk is full"), "No space left on the disk of the project. Free some"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on the disk"),
        (OSError(errno.EROFS, "Read-only file system", "champion"), "champion cannot be read or written (Read-only"),
    ],
)
def test_a_disk_that_is_full_or_read_only_is_a_sentence(error: Exception, sentence: str) -> None:
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert str(explain(error)).startswith(sentence)
    assert explain(wrapped) == explain(error)
    assert explain(ValueError("a fault of ours")) is None
