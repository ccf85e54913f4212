"""Back up, wipe, restore: the same champion gives the same answers."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pawprint.config import load_params
from pawprint.inference.classifier import Classifier, ModelInfo
from pawprint.tracking.tracker import Tracker

PROJECT = Path(__file__).parents[2]


def backup(root: Path, *words: str | Path, fails: bool = False) -> str:
    command = [sys.executable, PROJECT / "scripts" / "backup.py", *words, "--root", root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_what_was_wiped_comes_back_and_answers_as_before(
    tmp_path: Path, toy_model: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root, kept = tmp_path / "project", tmp_path / "kept"
    root.mkdir()
    shutil.copy(empty_runs, root)
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, root)
    (root / ".dvc" / "cache" / "files").mkdir(parents=True)
    (root / ".dvc" / "cache" / "files" / "one").write_text("a photograph")
    (root / ".dvc" / "cache" / "files" / "one").chmod(0o444)  # as DVC leaves them
    info, tracker = ModelInfo.read(toy_model), Tracker(root)
    params = load_params(root / "params.yaml")
    with tracker.start_training("article_cnn", params, info.lineage, "toy", {"train": 7}) as run:
        run.model(toy_model)
    registry = tracker.registry
    entry = registry.register("pawprint-colours", tracker.run(run.id), info)
    assert registry.promote(entry, "the first", over=None)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 300, 300, 3), np.uint8)
    before = Classifier(registry.folder(entry)).predict(pixels).probabilities

    assert "files in" in backup(root, "save", kept)
    assert "is there already" in backup(root, "save", kept, fails=True)
    assert "say --force" in backup(root, "restore", kept, fails=True)
    for name in ("mlartifacts", ".dvc", "cache"):
        shutil.rmtree(root / name)
    (root / "mlflow.db").unlink()
    assert "are back" in backup(root, "restore", kept)
    backup(root, "restore", kept, "--force")  # a second time changes nothing

    champion = registry.current_champion("pawprint-colours")
    assert champion == entry
    after = Classifier(registry.folder(champion)).predict(pixels).probabilities
    assert (before == after).all()
    assert (root / ".dvc" / "cache" / "files" / "one").read_text() == "a photograph"

    (kept / "mlflow.db").write_bytes(b"half")
    assert "mlflow.db is missing or not as it was saved" in backup(root, "restore", kept, "--force", fails=True)
    assert registry.current_champion("pawprint-colours") == entry
