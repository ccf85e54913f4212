"""Stages on a Ray cluster of processes of this machine: the bytes of one process, also where a node is killed."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from pawprint import batch
from pawprint.data import build, ingest
from pawprint.inference.classifier import Classifier
from pawprint.models import registry
from pawprint.training import feature_cache
from prepared_set import drawings, params

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` is not installed")
PAWPRINT = Path(sys.executable).with_name("pawprint")


@contextmanager
def cluster(nodes: int, home: Path) -> Iterator[list[psutil.Process]]:
    """`pawprint cluster up`, and this process on it; the process of each node."""
    command = [str(PAWPRINT), "cluster", "up", "--local", str(nodes)]
    environment = {**os.environ, "HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            address = [started.stdout.readline() for _ in range(2)][1].strip().partition("RAY_ADDRESS=")[2]
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {
                    "PAWPRINT_ENGINE": "ray",
                    "RAY_ADDRESS": address,
                    "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token"),
                }.items():
                    patch.setenv(name, value)
                family = psutil.Process(started.pid).children(recursive=True)
                yield sorted((one for one in family if one.name() == "raylet"), key=psutil.Process.create_time)
        finally:
            sys.modules["ray"].shutdown()
            started.send_signal(signal.SIGINT)
            assert started.wait(60) == 0


def killed_when(happened: Callable[[], bool], victim: psutil.Process) -> threading.Thread:
    def wait() -> None:
        while not happened():
            time.sleep(0.002)
        victim.kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def digest(folder: Path) -> str:
    """Of the names and bytes of all files."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def begun(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_size > 100_000


def test_two_nodes_one_of_them_killed_prepare_and_predict_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_model: Path
) -> None:
    drawings(tmp_path, 100)
    data, given, local = tmp_path / "data", params("efficientnet_lite0"), tmp_path / "prepared"
    monkeypatch.setattr(build, "BATCH", 4)
    monkeypatch.setattr(batch, "CHUNK", 16)
    batch.run(str(data), str(tmp_path / "predicted"), Classifier(toy_model))
    with cluster(2, tmp_path) as nodes:
        for process in nodes:
            listening = [one.laddr.ip for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            assert listening
            assert all(address.endswith("127.0.0.1") for address in listening), listening
        killing = killed_when(begun(tmp_path / ".again.partial" / "building" / "members"), nodes[1])
        build.prepare(ingest.dataset(data), data, tmp_path / "again", given)
        assert not killing.is_alive()
        batch.run(str(data), str(tmp_path / "predicted_again"), Classifier(toy_model))
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
        return digest(where)

    alone = features(tmp_path / "local")
    batch.run(str(tmp_path / "data"), str(tmp_path / "predicted"), Classifier(toy_model))
    with cluster(3, tmp_path) as nodes:
        killing = killed_when(lambda: any((tmp_path / "shared").rglob("*.safetensors")), nodes[1])
        assert features(tmp_path / "shared") == alone
        assert not killing.is_alive()
        killing = killed_when(lambda: any((tmp_path / "again").glob("*.parquet")), nodes[2])
        batch.run(str(tmp_path / "data"), str(tmp_path / "again"), Classifier(toy_model))
        assert not killing.is_alive()
    assert digest(tmp_path / "again") == digest(tmp_path / "predicted")


@pytest.mark.slow  # Ray tries for 20 s
def test_a_cluster_is_refused_without_its_token(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("0" * 64)
    script = "from pawprint import parallel\nprint(list(parallel.map(lambda: abs, [-1])))"
    with cluster(1, tmp_path):
        environment = dict(os.environ)
        asked = [sys.executable, "-c", script]
        assert subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout == "[1]\n"
        environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "other")
        refused = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "The Ray cluster cannot be used" in refused.stderr
