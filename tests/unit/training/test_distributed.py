"""Two processes train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.models import registry
from pawprint.training.dataloader import TrainingData
from prepared_set import drawings, params

TESTS = str(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


TRAIN = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepared_set import Memory, params
from pawprint.data.dataset import PreparedDataset
from pawprint.training.dataloader import TrainingData, chunks
from pawprint.training import distributed
from pawprint.training.train import fit
from pawprint.training.trainer import NullLogger

# the batches that two processes make, also in one
TrainingData._epoch = lambda self, indices: chunks(indices, self.batch_size, 2)
given = params("article_cnn", **json.loads(sys.argv[3]))
given = given.model_copy(update={"training": given.training.model_copy(update={"precision": "float32"})})
memory = Memory()
logger = NullLogger() if distributed.rank() else memory  # as in flows/train.py
fit("article_cnn", given, PreparedDataset.open(Path(sys.argv[2])), logger)
if memory.steps:
    print(json.dumps([memory.curve("train_loss"), memory.curve("validation_loss"), memory.curve("train_accuracy")]))
"""


@pytest.mark.parametrize("last", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_processes_have_the_curve_of_one(last: int, data: PreparedDataset, tmp_path: Path) -> None:
    """Also where one photograph is left for the last batch: fewer than there are processes."""
    count = len(data.split("train"))
    size = next(size for size in range(8, count) if count % size == last or last == 0)
    changes = {"epochs": 3, "early_stopping": 0, "batch_size": size, "learning_rate": 1e-4}
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    arguments = [str(script), TESTS, str(data.folder), json.dumps(changes)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(TESTS).parent / "src")}
    one, two = (
        subprocess.run([*start, *arguments], capture_output=True, text=True, check=True, env=environment).stdout
        for start in ([sys.executable], torchrun)
    )
    curves = [json.loads(next(line for line in out.splitlines() if line.startswith("[["))) for out in (one, two)]
    assert sum(line.startswith("[[") for line in two.splitlines()) == 1  # rank 0 alone reports
    np.testing.assert_allclose(curves[1], curves[0], atol=1e-4)


def test_more_processes_than_photographs_in_a_batch_is_a_sentence(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    network = registry.create_model("article_cnn")
    with pytest.raises(PawprintError, match="4 processes share batches of 3 photographs"):
        TrainingData("article_cnn", network, params("article_cnn", batch_size=3), data, torch.device("cpu"))
