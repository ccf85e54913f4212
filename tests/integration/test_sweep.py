"""A sweep: seeded, pruned, resumed after a kill, in parallel; each trial a child run in MLflow."""

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
import yaml
from pydantic import ValidationError

from flows import ROOT, sweep
from pawprint.config import Params, Range, Sweep
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.tracking.tracker import Tracker
from pawprint.training import tune
from prepared_set import ADAM, Memory, drawings, params
from ray_cluster import cluster, killed_when
from workspace import Workspace

RANGES = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch_size": {"choices": [16, 64]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def searched(**changes: object) -> Params:
    given = params("efficientnet_lite0", **(ADAM | {"epochs": 12} | changes))
    return given.model_copy(update={"sweep": Sweep.model_validate({"ranges": RANGES})})


def run(folder: Path, given: Params, data: PreparedDataset, trials: int) -> optuna.Study:
    study = tune.open_study(folder, "efficientnet_lite0", given, data)
    study.optimize(lambda trial: tune.value(trial, "efficientnet_lite0", given, data, Memory()), trials)
    return study


def test_a_sweep_is_seeded_gone_on_with_and_prunes_the_hopeless(data: PreparedDataset, tmp_path: Path) -> None:
    given = searched()
    first = run(tmp_path / "first", given, data, 8)
    assert [trial.number for trial in run(tmp_path / "first", given, data, 1).trials] == list(range(9))
    again = run(tmp_path / "again", given, data, 8)
    assert [trial.params for trial in again.trials] == [trial.params for trial in first.trials[:8]]
    assert [trial.value for trial in again.trials] == [trial.value for trial in first.trials[:8]]
    states = {trial.state for trial in first.trials}
    assert optuna.trial.TrialState.PRUNED in states
    assert 0 < first.best_value < math.log(2)
    assert first.best_params["batch_size"] in (16, 64)
    # A trial is pruned by what it is measured by in the end.
    assert first.best_trial.intermediate_values[12] == pytest.approx(first.best_value, rel=1e-3)
    other = tune.open_study(tmp_path / "first", "efficientnet_lite0", searched(epochs=13), data)
    assert not other.trials  # other params: another study


def test_a_set_with_nothing_to_compare_on_is_refused_before_a_trial(data: PreparedDataset, tmp_path: Path) -> None:
    without = dataclasses.replace(data, rows=[row for row in data.rows if row.split != "validation"])
    with pytest.raises(PawprintError, match="validation split, which is empty"):
        tune.open_study(tmp_path, "efficientnet_lite0", searched(), without)


def test_a_trial_that_was_killed_is_tried_again_first(data: PreparedDataset, tmp_path: Path) -> None:
    given = searched(epochs=1)
    study = tune.open_study(tmp_path, "efficientnet_lite0", given, data)
    trial = study.ask()
    numbers = tune.suggest(trial, given)
    assert [left.number for left in tune.killed(study)] == [trial.number]
    assert tune.killed(study) == []
    assert tune.suggest(study.ask(), given) == numbers
    # a task of a cluster takes up the one that was its own, and no other worker's
    others = [study.ask() for _ in range(2)]
    for worker, one in enumerate(others):
        one.set_user_attr(tune.WORKER, worker)
    numbers = tune.suggest(others[1], given)
    assert [left.number for left in tune.killed(study, 1)] == [others[1].number]
    assert tune.suggest(study.ask(), given) == numbers
    study.tell(others[0], 0.5)
    assert (tune.done(study), tune.done(study, 0), tune.done(study, 1)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"low": 1.0, "high": 0.5}, "a larger `high`"),
        ({"low": 0.0, "high": 0.5, "log": True}, "`log` needs"),
        ({"low": 0.0, "high": 0.5, "choices": [1]}, "not both"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Range.model_validate(wrong)
    with pytest.raises(ValidationError, match="no candidate has"):
        Sweep.model_validate({"ranges": {"learning_rat": {"low": 0.1, "high": 0.2}}})


def test_help_shows_examples() -> None:
    output = subprocess.run([sys.executable, "-m", "flows.sweep", "--help"], capture_output=True, text=True, check=True)
    assert "python -m flows.sweep --jobs 2" in output.stdout


@pytest.mark.parametrize(
    ("where", "error", "states"),
    [
        ("warm", KeyboardInterrupt(), ["KILLED"]),
        ("warm", PawprintError("No space left."), ["FAILED"]),
        ("tune.value", KeyboardInterrupt(), ["KILLED", "KILLED"]),
    ],
)
def test_a_sweep_that_is_stopped_says_so_in_mlflow_and_goes_on_in_the_same_run(
    where: str,
    error: BaseException,
    states: list[str],
    data: PreparedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(data.folder, tmp_path / "prepared")
    given = yaml.safe_load((ROOT / "params.yaml").read_text())
    given["sweep"]["ranges"] = RANGES
    given["candidates"]["efficientnet_lite0"].update(ADAM, epochs=1)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    monkeypatch.setattr(sweep, "FOLDER", tmp_path / "sweeps")

    def found() -> list[str]:
        runs = Tracker(tmp_path).client.search_runs(["0", "1"])
        return sorted(run.info.status for run in runs)

    def stopped(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"flows.sweep.{where}", stopped)
        with pytest.raises(type(error)):
            sweep.search.fn("efficientnet_lite0", 1, 1)
    assert found() == states
    sweep.search.fn("efficientnet_lite0", 1, 1)
    assert found() == sorted([*states[1:], "FINISHED", "FINISHED"])


@pytest.mark.slow
def test_two_processes_and_a_kill_lose_no_trial(data: PreparedDataset, tmp_path: Path, workspace: Workspace) -> None:
    shutil.copytree(data.folder, workspace.root / "prepared")
    workspace.params(lambda values: values["sweep"].update(ranges=RANGES))
    workspace.params(lambda values: values["candidates"]["efficientnet_lite0"].update(ADAM, epochs=300))
    command = [sys.executable, "-m", "flows.sweep", "--trials", "3", "--jobs", "2"]
    environment = workspace.environment | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=workspace.root, env=environment)
    deadline = time.monotonic() + 200
    running = "select count(*) from runs where status = 'RUNNING' and name like '%trial%'"
    while time.monotonic() < deadline:
        if (workspace.root / "mlflow.db").exists():
            try:
                if workspace.query(running)[0][0] == 2:
                    break
            except Exception:  # the tables are not made yet
                pass
        assert process.poll() is None
        time.sleep(0.1)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for pid in workers.stdout.split():  # they end by themselves
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists()

    output = workspace(*command)
    assert "3 in all" in output or "4 in all" in output  # two processes may both take the last
    assert "for params.yaml" in output
    assert workspace.query(running)[0][0] == 0
    parents = workspace.query("select distinct value from tags where key = 'mlflow.parentRunId'")
    assert len(parents) == 1
    killed = workspace.query("select count(*) from runs where status = 'KILLED'")[0][0]
    assert 1 <= killed <= 2
    assert "0 trials now" in workspace(*command)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` is not installed")
def test_on_a_cluster_each_trial_is_a_task_and_one_whose_node_dies_runs_again(
    data: PreparedDataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("prepared", "cache"):  # of the test before
        shutil.rmtree(workspace.root / folder, ignore_errors=True)
    (workspace.root / "mlflow.db").unlink(missing_ok=True)
    shutil.copytree(data.folder, workspace.root / "prepared")
    workspace.params(lambda values: values["sweep"].update(ranges=RANGES))
    workspace.params(lambda values: values["candidates"]["efficientnet_lite0"].update(ADAM, epochs=400))
    monkeypatch.setenv("PYTHONPATH", workspace.environment["PYTHONPATH"])  # the nodes have the clone's code
    journal = workspace.root / "cache" / "sweeps"

    def begun(count: int) -> bool:
        """Have so many trials their MLflow runs? Each then trains for a while."""
        return sum(one.read_bytes().count(b'"run_id"') for one in journal.glob("*.journal")) > count

    with cluster(3) as nodes:
        there = {name: os.environ[name] for name in ("PAWPRINT_ENGINE", "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
        command = [sys.executable, "-m", "flows.sweep", "--trials", "6"]
        killing = killed_when(lambda: begun(3), nodes[1])
        assert "6 trials now, 6 in all" in workspace(*command, **there)
        assert not killing.is_alive()
        assert "0 trials now" in workspace(*command, **there)
    children = "select count(*) from tags join runs using (run_uuid) where key = 'mlflow.parentRunId' and status = "
    assert workspace.query(f"{children} 'FINISHED'")[0][0] == 6
    assert workspace.query(f"{children} 'KILLED'")[0][0] <= 1  # the killed node may have just ended its trial
    assert workspace.query("select count(*) from runs where status = 'RUNNING'")[0][0] == 0
