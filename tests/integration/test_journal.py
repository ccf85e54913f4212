"""MLflow away while a training logs: nothing is lost, nothing is doubled, and the order is kept."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest

from pawprint.config import Params, load_params
from pawprint.inference.classifier import ModelInfo
from pawprint.tracking import journal
from pawprint.tracking.journal import Journal, JournaledRun
from pawprint.tracking.run import FOLDER
from pawprint.tracking.tracker import Tracker
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.train import fit
from prepared_set import drawings
from prepared_set import params as candidate_params

PROJECT = Path(__file__).parents[2]
AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with what a run logs; mlflow.db is made here, once."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(PROJECT / "params.yaml")


def history(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, name)]


def test_a_training_without_mlflow_is_delivered_later_and_only_once(
    root: Path, params: Params, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = ModelInfo.read(toy_model)
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", AWAY)
        with Tracker(root).start_training("article_cnn", params, info.lineage, "offline", {"train": 7}) as run:
            for epoch in (1, 2, 3):
                run.metrics({"train_loss": 1 / epoch}, step=epoch)
            passing = shutil.copytree(toy_model, tmp_path / "model")
            run.model(passing)
            shutil.rmtree(passing)  # the next training replaces the folder
            record = run.record()
        assert Tracker(root).sync() == (0, 1)
    assert record.run_name == "offline"

    box = Tracker(root).journals / run.id
    shutil.copytree(box, tmp_path / "box")
    assert Tracker(root).sync() == (1, 0)
    assert not box.exists()
    shutil.copytree(tmp_path / "box", box)  # as if it had been killed before it could note what was delivered
    assert Tracker(root).sync() == (1, 0)

    found = Tracker(root).search_runs(f"tags.restored_from = '{run.id}'")
    assert len(found) == 1
    assert history(found[0], "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    delivered = mlflow.MlflowClient().get_run(found[0])
    assert delivered.info.status == "FINISHED"
    assert delivered.data.params["epochs"] == "5"
    assert len(mlflow.MlflowClient().search_logged_models([delivered.info.experiment_id])) == 1
    assert Tracker(root).artifact(found[0], f"{FOLDER}/model.onnx") is not None
    kept = shutil.copytree(toy_model, tmp_path / "kept")
    (kept / "run.json").write_text(record.model_dump_json())
    restored = Tracker(root).restore_run(kept)
    assert restored.id == found[0]
    assert restored.model_uri.startswith("models:/")


def test_a_training_that_goes_on_logs_no_epoch_twice(root: Path, params: Params, toy_model: Path) -> None:
    info = ModelInfo.read(toy_model)
    with (
        pytest.raises(KeyboardInterrupt),
        Tracker(root).start_training("article_cnn", params, info.lineage, "killed", {}) as first,
    ):
        for epoch in (1, 2, 3):
            first.metrics({"train_loss": float(epoch)}, step=epoch)
        raise KeyboardInterrupt
    with Tracker(root).start_training("article_cnn", params, info.lineage, "killed", {}, resume=first.id) as second:
        assert mlflow.MlflowClient().get_run(first.id).info.status == "RUNNING"
        for epoch in (2, 3, 4):  # the checkpoint was of epoch 1
            second.metrics({"train_loss": float(epoch)}, step=epoch)
    assert second.id == first.id
    assert history(first.id, "train_loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_a_journal_that_its_own_process_removes_meanwhile_is_passed_over(
    root: Path, params: Params, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a sweep bring each other's runs level."""
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", AWAY)
        Tracker(root).begin("offline", "toy").status("FINISHED")
    upload = Journal.upload

    def by_both(journal: Journal, tracker: Tracker) -> None:
        upload(journal, tracker)
        journal.remove()

    monkeypatch.setattr(Journal, "upload", by_both)
    assert Tracker(root).sync() == (1, 0)


def test_what_mlflow_refuses_is_reported_and_the_rest_goes_out(
    root: Path, params: Params, toy_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = ModelInfo.read(toy_model)
    with Tracker(root).start_training("article_cnn", params, info.lineage, "refused", {}) as run:
        run.flush()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
        run.tracker._client = None  # as after a call that failed
        run.params({"epochs": "another"})
        run.metrics({"train_loss": 1.0}, step=1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Tracker(root).sync() == (1, 0)
    assert "MLflow refuses" in capsys.readouterr().out
    assert history(run.id, "train_loss") == [(1, 1.0)]
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FINISHED"
    assert not (Tracker(root).journals / run.id).exists()


def test_on_a_gpu_the_machine_is_watched_while_it_trains(
    root: Path, params: Params, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own monitor; without a GPU here it logs what there is of the machine."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    lineage = ModelInfo.read(toy_model).lineage.model_copy(update={"device": "cuda bfloat16 NVIDIA H100"})
    with Tracker(root).start_training("article_cnn", params, lineage, "watched", {}) as run:
        deadline = time.monotonic() + 30
        while not history(run.id, "system/cpu_utilization_percentage") and time.monotonic() < deadline:
            time.sleep(0.1)
    assert history(run.id, "system/cpu_utilization_percentage")
    with Tracker(root).start_training("article_cnn", params, ModelInfo.read(toy_model).lineage, "unwatched", {}) as run:
        time.sleep(0.3)
    assert not history(run.id, "system/cpu_utilization_percentage")


class Server:
    """A real MLflow server that can be killed and started again over the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = f"sqlite:///{self.folder / 'server.db'}"
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--backend-store-uri", store]
        words += ["--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # as the project starts it
            stdout=(self.folder / "log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
        raise AssertionError("the MLflow server does not start")

    def kill(self) -> None:
        os.killpg(self.process.pid, 9)  # the group of the process that this test started
        self.process.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_misses_nothing(
    root: Path, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(journal, "UPLOAD_SECONDS", 0.2)
    data = drawings(tmp_path / "drawings", per_class=15)
    given = candidate_params("article_cnn", epochs=30, batch_size=8, learning_rate=1e-4)
    lineage = ModelInfo.read(toy_model).lineage
    server = Server(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)

    class Falling:
        """Hands on to the run; at some epochs the server dies or comes back, at one the training is killed."""

        def __init__(self, run: JournaledRun, fatal: int) -> None:
            self.run, self.fatal = run, fatal

        def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
            if step in (3, 12):
                server.kill()
            if step in (7, 15):
                server.start()
                time.sleep(1)  # until it is asked again
            self.run.metrics(values, step)
            if step == self.fatal:
                raise KeyboardInterrupt

        params = artifact = None

    checkpoints = CheckpointManager(tmp_path / "checkpoints", "article_cnn", given, data)
    with (
        pytest.raises(KeyboardInterrupt),
        Tracker(root).start_training("article_cnn", given, lineage, "falls", {}) as first,
    ):
        checkpoints.run_id = first.id
        fit("article_cnn", given, data, Falling(first, fatal=13), checkpoints)  # type: ignore[arg-type]
    assert Journal(Tracker(root).journals / first.id).waiting()

    checkpoints = CheckpointManager(
        tmp_path / "checkpoints", "article_cnn", given, data
    )  # goes on while the server is away
    with Tracker(root).start_training("article_cnn", given, lineage, "falls", {}, resume=checkpoints.run_id) as second:
        fit("article_cnn", given, data, Falling(second, fatal=0), checkpoints)  # type: ignore[arg-type]
        server.kill()
        second.model(toy_model)
    assert Tracker(root).sync() == (0, 1)
    server.start()
    assert Tracker(root).sync() == (1, 0)
    try:
        assert second.id == first.id
        client = mlflow.MlflowClient(server.uri)
        for name in ("train_loss", "validation_accuracy", "learning_rate"):
            points = client.get_metric_history(first.id, name)
            assert [point.step for point in points] == list(range(1, 31)), name
        stamps = [point.timestamp for point in client.get_metric_history(first.id, "train_loss")]
        assert stamps == sorted(stamps)  # when it happened, not when it was delivered
        run = client.get_run(first.id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["model_uri"].startswith("models:/")
        assert len(client.search_runs([run.info.experiment_id])) == 1
        assert len(client.search_logged_models([run.info.experiment_id])) == 1
    finally:
        server.kill()
