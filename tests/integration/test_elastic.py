"""Two processes train together, one is killed: torchrun starts both again and they go on from the last checkpoint."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from prepared_set import drawings
from workspace import Workspace

TESTS = str(Path(__file__).resolve().parents[1])
SOURCE = str(Path(__file__).resolve().parents[2] / "src")
TRAIN = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepared_set import Memory, params
from pawprint.data.dataset import PreparedDataset
from pawprint.training import distributed
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.train import fit

data, folder = PreparedDataset.open(Path(sys.argv[2])), Path(sys.argv[3])
given = params("article_cnn", epochs=6, batch_size=6, learning_rate=1e-4)
training = given.training.model_copy(update={"precision": "float32", "checkpoint_seconds": 0})
given = given.model_copy(update={"training": training})
(folder / f"rank{distributed.rank()}").write_text(str(os.getpid()))

class Told(Memory):
    def metrics(self, values, step=None):
        super().metrics(values, step)
        if step is not None:
            with (folder / "curve").open("a") as file:
                file.write(json.dumps([step, values["train_loss"]]) + "\\n")

fit("article_cnn", given, data, Told(), CheckpointManager(folder / "checkpoints", "article_cnn", given, data))
"""


def place(checkpoint: Path) -> list[int]:
    """Epoch and batch of a checkpoint."""
    try:
        with safe_open(checkpoint, "pt") as file:
            return [int(one) for one in json.loads(file.metadata()["state"])["place"][:2]]
    except (OSError, SafetensorError):
        return [0, 0]


@pytest.mark.slow
def test_one_of_two_processes_is_killed_and_the_training_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    data = drawings(tmp_path / "drawings", per_class=20)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "2", "--monitor-interval", "0.2"]
    (tmp_path / "train.py").write_text(TRAIN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": SOURCE}

    def start(name: str, *words: str) -> tuple[Path, "subprocess.Popen[bytes]"]:
        folder = tmp_path / name
        folder.mkdir()
        command = [*words, str(tmp_path / "train.py"), TESTS, str(data.folder), str(folder)]
        log = (folder / "log").open("wb")
        return folder, subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

    def curve(folder: Path) -> list[list[float]]:
        lines = (folder / "curve").read_text().splitlines() if (folder / "curve").exists() else []
        return [json.loads(line) for line in lines if line.endswith("]")]

    alone, process = start("alone", sys.executable)
    assert process.wait(300) == 0, (alone / "log").read_text()

    together, process = start("together", *torchrun)
    deadline = time.monotonic() + 400
    checkpoint = together / "checkpoints" / "article_cnn.safetensors"
    while (at := place(checkpoint))[0] < 3 or at[1] < 2:
        assert process.poll() is None and time.monotonic() < deadline, (together / "log").read_text()
        time.sleep(0.02)
    first = {rank: (together / rank).read_text() for rank in ("rank0", "rank1")}
    os.kill(int(first["rank1"]), signal.SIGKILL)
    assert process.wait(300) == 0, (together / "log").read_text()

    assert {rank: (together / rank).read_text() for rank in first} != first  # both were started again
    epoch, batch = re.findall(r"resumes in epoch (\d+) after (\d+) batches", (together / "log").read_text())[-1]
    assert [int(epoch), int(batch)] >= at  # in the middle of an epoch: a checkpoint after each batch
    assert int(batch) > 0
    losses = dict(map(tuple, curve(together)))
    assert [epoch for epoch, _ in curve(together)] == list(range(1, 7))  # none is told twice
    expected = [loss for _, loss in curve(alone)]
    np.testing.assert_allclose([losses[epoch] for epoch in sorted(losses)], expected, atol=1e-4)


@pytest.mark.slow
def test_of_two_processes_one_reports(workspace: Workspace, tmp_path: Path) -> None:
    """`torchrun -m flows.train` is one MLflow run and one model folder."""
    data = drawings(tmp_path / "drawings", per_class=20)
    shutil.copytree(data.folder, workspace.root / "prepared")
    workspace.params(lambda values: values["candidates"]["article_cnn"].update(epochs=1, batch_size=16))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    workspace(*torchrun, "-m", "flows.train", "--candidate", "article_cnn", OMP_NUM_THREADS="1")
    assert workspace.query("select status from runs") == [("FINISHED",)]
    assert (workspace.root / "models" / "article_cnn" / "run.json").exists()
    assert not list((workspace.root / "cache" / "checkpoints").iterdir())
