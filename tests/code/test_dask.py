"""Preprocess and a sweep on a Dask cluster: the same as on one machine, also when a worker is lost midway."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from odd_pictures import photograph
from prepared_set import drawings
from workspace import clone

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with 1,600 photographs, seven batches of a cluster."""
    for name in ("src", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for number in range(1600):
        path = tmp_path / "data" / ("cat" if number % 2 else "dog") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(number, width=330, height=310))
    return tmp_path


@contextmanager
def started(project: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the project, killed at the end."""
    home = project / "prefect"
    env = os.environ | {"PYTHONPATH": f"{project / 'src'}:{project}", "PREFECT_HOME": str(home)}
    env.pop("PREFECT_API_URL", None)
    with (project / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *words], cwd=project, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(seconds: float, what: str, ready: object) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.1)


def cluster(project: Path, stack: ExitStack) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """A scheduler's address and its two workers, processes of the project."""
    file = project / "scheduler.json"
    local = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file))
    stack.enter_context(started(project, "distributed.cli.dask_scheduler", "--port", "0", *local))
    until(120, "the scheduler", lambda: file.exists() and file.read_text().endswith("}"))
    one = ("--nthreads", "1", "--no-nanny", "--local-directory", str(project / "scratch"))
    workers = [stack.enter_context(started(project, "distributed.cli.dask_worker", *one, *local)) for _ in range(2)]
    until(120, "two workers", lambda: (project / "log").read_text().count("Registered to") == 2)
    return json.loads(file.read_text())["address"], workers


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_that_loses_a_worker_midway_gives_the_same_bytes(project: Path) -> None:
    out, partial = project / "prepared", project / ".prepared.partial" / "packed"
    with started(project, "flows.preprocess") as alone:
        assert alone.wait(300) == 0, (project / "log").read_text()
    expected = contents(out)
    shutil.rmtree(out)
    with ExitStack() as stack:
        address, workers = cluster(project, stack)
        flow = stack.enter_context(started(project, "flows.preprocess", "--dask-address", address))
        until(400, "both workers' first batch", lambda: partial.exists() and len(list(partial.iterdir())) == 2)
        workers[0].send_signal(signal.SIGKILL)
        assert flow.poll() is None
        assert flow.wait(600) == 0, (project / "log").read_text()[-4000:]
        assert workers[1].poll() is None
    assert contents(out) == expected


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_on_a_cluster_that_loses_a_worker_loses_no_trial(tmp_path: Path) -> None:
    drawn = drawings(tmp_path / "drawn").folder
    project = tmp_path / "project"
    project.mkdir()
    clone(project)
    shutil.copytree(drawn, project / "prepared")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["candidates"]["efficientnet_lite0"]["epochs"] = 600  # long enough to be killed in
    values["sweep"]["ranges"] = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def count(what: str) -> int:
        query = f"select count(*) from runs join params using (run_uuid) where key = 'learning_rate' and {what}"
        with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as db:
            return int(db.execute(query).fetchone()[0])

    def trials_are_running() -> bool:
        assert flow.poll() is None, (project / "log").read_text()[-4000:]
        try:
            return count("status = 'RUNNING'") == 2
        except sqlite3.OperationalError:  # the tables are not made yet
            return False

    with ExitStack() as stack:
        address, workers = cluster(project, stack)
        words = ("flows.sweep", "--trials", "4", "--dask-address", address)
        flow = stack.enter_context(started(project, *words))
        until(300, "a trial on each worker", trials_are_running)
        workers[0].send_signal(signal.SIGKILL)
        assert flow.wait(600) == 0, (project / "log").read_text()[-4000:]
        assert workers[1].poll() is None
    assert "4 trials now, 4 in all" in (project / "log").read_text()
    assert (count("status = 'RUNNING'"), count("status = 'KILLED'"), count("status = 'FINISHED'")) == (0, 1, 4)
    (journal,) = (project / "cache" / "sweeps").glob("*.journal")
    study = optuna.load_study(study_name=journal.stem, storage=JournalStorage(JournalFileBackend(str(journal))))
    (lost,) = (trial for trial in study.trials if trial.state == TrialState.FAIL)
    done = [trial.params for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(done) == 4 and lost.params in done  # its numbers were tried again


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_named_in_one_sentence(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "flows.preprocess", "--dask-address", "tcp://127.0.0.1:9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert "error: No Dask scheduler answers at tcp://127.0.0.1:9" in said.stderr
    assert "Traceback" not in said.stderr
