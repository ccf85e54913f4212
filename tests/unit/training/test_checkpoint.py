"""Nothing lost: a training that is killed and started again ends with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.train import fit
from prepared_set import Memory, drawings, params

TESTS = str(Path(__file__).resolve().parents[2])
SOURCE = str(Path(__file__).resolve().parents[3] / "src")
TRAIN = """
import json
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepared_set import Memory, params
from safetensors.torch import save_file
from pawprint.data.dataset import PreparedDataset
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.train import fit

data, folder = PreparedDataset.open(Path(sys.argv[2])), Path(sys.argv[3])
name, changes = sys.argv[4], json.loads(sys.argv[5])
given = params(name, **changes)
given = given.model_copy(update={"training": given.training.model_copy(update={"checkpoint_seconds": 0})})
checkpoints = CheckpointManager(folder / "checkpoints", name, given, data)
print("run", checkpoints.run_id, flush=True)
checkpoints.run_id = checkpoints.run_id or "the first"
memory = Memory()
trained = fit(name, given, data, memory, checkpoints)
save_file({key: value.contiguous() for key, value in trained.network.state_dict().items()}, folder / "weights.partial")
(folder / "weights.partial").rename(folder / "weights")
print("losses", memory.curve("train_loss"))
"""
CASES = {
    "article_cnn": {
        "epochs": 5, "batch_size": 8, "mixup": 0.2, "ema": 0.9, "schedule": "one_cycle", "clip_norm": 1.0,
        "early_stopping": 4, "augment": "flip",
    },
    "efficientnet_lite0": {
        "epochs": 60, "batch_size": 8, "optimizer": "sgd", "weight_decay": 0.0, "schedule": "cosine",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


def start(data: PreparedDataset, folder: Path, name: str, cache: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, TESTS, str(data.folder), str(folder), name, json.dumps(CASES[name])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "PAWPRINT_CACHE": str(cache)},
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for_saves(process: subprocess.Popen[str], checkpoint: Path, count: int) -> None:
    """Until the process has written its checkpoint so many times, or ended."""
    seen: set[int] = {checkpoint.stat().st_mtime_ns} if checkpoint.exists() else set()
    wanted = len(seen) + count
    while process.poll() is None and len(seen) < wanted:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.001)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "article_cnn" else pytest.mark.slow) for name in sorted(CASES)]
)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(name: str, data: PreparedDataset, tmp_path: Path) -> None:
    finish(start(data, tmp_path / "whole", name, tmp_path))
    expected = (tmp_path / "whole" / "weights").read_bytes()

    moments = random.Random(2017)
    broken, resumed = tmp_path / "broken", 0
    checkpoint = broken / "checkpoints" / f"{name}.safetensors"
    for _ in range(3):
        process = start(data, broken, name, tmp_path)
        wait_for_saves(process, checkpoint, moments.randint(2, 9))
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        output, _ = process.communicate()
        resumed += "resumes in epoch" in output
    output = finish(start(data, broken, name, tmp_path))
    resumed += "resumes in epoch" in output
    assert resumed >= 1
    assert "run the first" in output
    assert (broken / "weights").read_bytes() == expected


def test_a_signal_saves_and_ends_with_a_sentence(data: PreparedDataset, tmp_path: Path) -> None:
    process = start(data, tmp_path / "run", "article_cnn", tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "article_cnn.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by a signal in epoch" in output
    with safe_open(checkpoint, "pt") as file:
        assert file.metadata()["pawprint"]
    assert "resumes in epoch" in finish(start(data, tmp_path / "run", "article_cnn", tmp_path))


def test_a_checkpoint_of_other_params_or_photographs_is_refused_by_name(
    data: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = params("article_cnn", epochs=1)
    checkpoints = CheckpointManager(tmp_path, "article_cnn", first, data)
    checkpoints.run_id = "a run"
    fit("article_cnn", first, data, Memory(), checkpoints)
    assert CheckpointManager(tmp_path, "article_cnn", first, data).run_id == "a run"

    other = CheckpointManager(tmp_path, "article_cnn", params("article_cnn", epochs=1, learning_rate=0.5), data)
    assert other.run_id == ""
    assert other.load() is None
    assert "candidates.article_cnn.learning_rate 0.001 (now 0.5)" in capsys.readouterr().out

    others = CheckpointManager(tmp_path, "article_cnn", first, drawings(tmp_path / "others", per_class=20))
    assert others.load() is None
    assert "photographs" in capsys.readouterr().out

    checkpoints.discard()
    assert checkpoints.load() is None


def test_a_finished_training_is_not_trained_again(data: PreparedDataset, tmp_path: Path) -> None:
    """A kill between the last epoch and the export costs the export only."""
    given = params("article_cnn", epochs=2)
    fit("article_cnn", given, data, Memory(), CheckpointManager(tmp_path, "article_cnn", given, data))
    memory = Memory()
    fit("article_cnn", given, data, memory, CheckpointManager(tmp_path, "article_cnn", given, data))
    assert memory.curve("train_loss") == []


def test_a_loss_that_is_no_number_names_photographs_and_keeps_the_checkpoint(
    data: PreparedDataset, tmp_path: Path
) -> None:
    given = params("article_cnn", epochs=50, learning_rate=1e35, optimizer="sgd", batch_size=8)
    checkpoints = CheckpointManager(tmp_path, "article_cnn", given, data)
    with pytest.raises(PawprintError, match=r"not a number for (cat|dog)/.*learning_rate"):
        fit("article_cnn", given, data, Memory(), checkpoints)
    assert checkpoints.load() is not None
