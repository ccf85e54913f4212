"""Stages on a Ray cluster of processes of this machine: the bytes of one process, also where a node is killed."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors import SafetensorError, safe_open

from pawprint import batch
from pawprint.data import build, ingest
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier, Unloaded
from pawprint.models import registry
from pawprint.training import feature_cache
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.cluster import fit_anywhere
from pawprint.training.train import fit
from prepared_set import Memory, drawings, params
from ray_cluster import cluster, killed_when

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` is not installed")


def digest(folder: Path, pattern: str = "*") -> str:
    """Of the names and bytes of all files."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and not path.name.startswith("."):
            found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def begun(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_size > 100_000


def test_two_nodes_one_of_them_killed_prepare_and_predict_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drawings(tmp_path, 100)
    data, given, local = tmp_path / "data", params("efficientnet_lite0"), tmp_path / "prepared"
    monkeypatch.setattr(build, "BATCH", 4)
    monkeypatch.setattr(batch, "CHUNK", 16)
    batch.run(str(data), str(tmp_path / "predicted"), Classifier(toy_model))
    with cluster(2) as nodes:
        for process in nodes:
            listening = [one.laddr.ip for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            assert listening
            assert all(address.endswith("127.0.0.1") for address in listening), listening
        killing = killed_when(begun(tmp_path / ".again.partial" / "building" / "members"), nodes[1])
        build.prepare(ingest.dataset(data), data, tmp_path / "again", given)
        assert not killing.is_alive()
        batch.run(str(data), str(tmp_path / "predicted_again"), Unloaded(toy_model))
    said = capfd.readouterr().out
    assert "cluster: Raylet is terminated" in said
    assert "(raylet)" not in said  # Ray's page on it
    assert digest(tmp_path / "again") == digest(local)
    assert digest(tmp_path / "predicted_again") == digest(tmp_path / "predicted")


@pytest.mark.slow
def test_three_nodes_two_of_them_killed_compute_the_same_features_and_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_model: Path
) -> None:
    data = drawings(tmp_path, 100)
    monkeypatch.setattr(feature_cache, "CHUNK", 8)
    monkeypatch.setattr(feature_cache, "BLOCK", 32)
    monkeypatch.setattr(batch, "CHUNK", 8)
    network = registry.create_model("efficientnet_lite0")
    network.load_pretrained()

    def features(where: Path) -> str:
        monkeypatch.setenv("PAWPRINT_CACHE", str(where))
        feature_cache.FeatureCache(network, "efficientnet_lite0", params("efficientnet_lite0")).of(data.split("train"))
        return digest(where, "*.safetensors")  # the graph beside them names its nodes by a counter of the process

    alone = features(tmp_path / "local")
    batch.run(str(tmp_path / "data"), str(tmp_path / "predicted"), Classifier(toy_model))
    with cluster(3) as nodes:
        killing = killed_when(lambda: any((tmp_path / "shared").rglob("*.safetensors")), nodes[1])
        assert features(tmp_path / "shared") == alone
        assert not killing.is_alive()
        killing = killed_when(lambda: any((tmp_path / "again").glob("*.parquet")), nodes[2])
        batch.run(str(tmp_path / "data"), str(tmp_path / "again"), Classifier(toy_model))
        assert not killing.is_alive()
    assert digest(tmp_path / "again") == digest(tmp_path / "predicted")


@pytest.mark.slow
def test_two_processes_on_two_of_three_nodes_train_as_one_does_also_where_a_node_is_killed(tmp_path: Path) -> None:
    """Killed in the middle of an epoch, the training goes on from a checkpoint in it."""
    data = drawings(tmp_path, 20)
    given = params("article_cnn", epochs=5, batch_size=6, learning_rate=1e-4)
    given = given.model_copy(
        update={"training": given.training.model_copy(update={"precision": "float32", "checkpoint_seconds": 0})}
    )
    alone, together = Memory(), Memory()
    fit("article_cnn", given, data, alone)
    checkpoints = CheckpointManager(tmp_path / "checkpoints", "article_cnn", given, data)

    def place() -> list[int]:
        """Epoch and batch of the checkpoint."""
        try:
            with safe_open(checkpoints.path, "pt") as file:
                return [int(one) for one in json.loads(file.metadata()["state"])["place"][:2]]
        except (OSError, SafetensorError):
            return [0, 0]

    with cluster(3) as nodes, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_PROCESSES", "2")
        killed: list[list[int]] = []

        def kill() -> None:
            while (at := place())[0] < 2 or at[1] < 2:
                time.sleep(0.01)
            at_work = [node for node in nodes[1:] if any("Train" in " ".join(one.cmdline()) for one in node.children())]
            killed.append(at)
            at_work[0].kill()

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        trained = fit_anywhere("article_cnn", given, data, together, checkpoints)
        assert killed
    assert trained.epochs == 5
    # what was not lost was not done again: each epoch is told once
    assert [step for step, _ in together.steps if step] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(together.curve("train_loss"), alone.curve("train_loss"), atol=1e-4)
    np.testing.assert_allclose(together.curve("validation_loss"), alone.curve("validation_loss"), atol=1e-4)


@pytest.mark.slow
def test_an_error_of_a_training_on_the_cluster_is_a_sentence(tmp_path: Path) -> None:
    data, given = drawings(tmp_path, 20), params("article_cnn", epochs=1, batch_size=2)
    with cluster(3), pytest.MonkeyPatch.context() as patch:
        checkpoints = CheckpointManager(tmp_path / "checkpoints", "article_cnn", given, data)
        for processes, sentence in (("3", "3 processes share batches of 2"), ("9", "the cluster has 3 cores")):
            patch.setenv("PAWPRINT_PROCESSES", processes)
            with pytest.raises(PawprintError, match=sentence):
                fit_anywhere("article_cnn", given, data, Memory(), checkpoints)


def test_a_cluster_is_refused_without_its_token(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("0" * 64)
    script = "from pawprint import parallel\nprint(list(parallel.map(lambda: abs, [-1])))"
    with cluster(1):
        environment = dict(os.environ)
        asked = [sys.executable, "-c", script]
        assert subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout == "[1]\n"
        for token, reason in (
            ("other", "it has another token"),
            ("nowhere", "RAY_AUTH_TOKEN_PATH is set but file cannot"),
        ):
            environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / token)
            refused = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
            assert refused.returncode != 0
            first, *_, last = refused.stderr.splitlines()
            assert first.startswith("Traceback")  # no line of Ray's log
            assert re.match("pawprint.errors.PawprintError: The Ray cluster cannot be used: .*" + reason, last), last


def test_a_process_may_work_on_a_cluster_that_it_has_started(tmp_path: Path) -> None:
    code = """
from pawprint import parallel
import os
parallel.make_token()
with parallel.local_cluster(2) as cluster:
    os.environ |= {"PAWPRINT_ENGINE": "ray", "RAY_ADDRESS": cluster.address}
    print(list(parallel.map(lambda: abs, [-1, -2, -3])))
"""
    own = {**os.environ, "HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=300)
    assert (found.returncode, found.stdout.strip()) == (0, "[1, 2, 3]"), found.stderr
