"""A team's servers are saved, wiped and restored: the same champion answers the same."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pawprint.config import load_params
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier, ModelInfo
from pawprint.tracking.tracker import Tracker
from service_process import ROOT
from team import MISSING, POSTGRES, Team

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def started(team: Team) -> None:
    team.start("mlflow")
    team.until(lambda: team.healthy("mlflow"), "mlflow")


def test_a_team_s_servers_come_back(tmp_path: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    team, root, kept = Team(tmp_path), tmp_path / "client", tmp_path / "kept"
    root.mkdir()
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    for name, value in team.client.items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    for name in team.keys:
        monkeypatch.delenv(name, raising=False)

    def backup(verb: str) -> None:
        address = f"postgresql://postgres@127.0.0.1:{team.ports['postgres']}"
        command = [sys.executable, ROOT / "scripts" / "backup.py", verb, kept, "--root", tmp_path / "none"]
        command += ["--database", f"{address}/mlflow", "--bucket", "s3://mlflow", "--bucket", "s3://dvc"]
        path = {"PATH": f"{POSTGRES[-1]}:{team.clean['PATH']}"}
        subprocess.run(command, env=team.clean | team.keys | path, check=True)

    try:
        for name in ("s3", "postgres"):
            team.start(name)
        started(team)
        info = ModelInfo.read(toy_model)
        params, tracker = load_params(root / "params.yaml"), Tracker(root)
        with tracker.start_training("article_cnn", params, info.lineage, "toy", {"train": 7}) as run:
            run.model(toy_model)
        registry = tracker.registry
        entry = registry.register("pawprint-colours", tracker.run(run.id), info)
        assert registry.promote(entry, "the first", over=None)
        pixels = np.random.default_rng(1).integers(0, 256, (3, 300, 300, 3), np.uint8)
        before = Classifier(registry.folder(entry)).predict(pixels).probabilities
        backup("save")

        for name in ("mlflow", "postgres", "s3"):
            team.end(name, signal.SIGINT)
        shutil.rmtree(team.database)
        (tmp_path / "database").unlink()
        shutil.rmtree(tmp_path / "buckets")
        shutil.rmtree(root / "cache")
        for name in ("s3", "postgres"):
            team.start(name)
        backup("restore")
        started(team)

        champion = registry.current_champion("pawprint-colours")
        assert champion == entry
        after = Classifier(registry.folder(champion)).predict(pixels).probabilities
        assert (before == after).all()

        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(PawprintError, match="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
            Tracker(root).registry.current_champion("pawprint-colours")
        assert "wrong" not in str(caught.value)
    finally:
        for name in reversed(list(team.processes)):
            team.end(name, signal.SIGINT)
        shutil.rmtree(team.database, ignore_errors=True)
