"""Batches: a seeded order, prepared ahead, from photographs or cached features alike."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.models import registry
from pawprint.training import dataloader, feature_cache
from pawprint.training.train import fit
from prepared_set import ADAM, ROOT, Memory, drawings, params

# As a training does it: `prepare` sets malloc, whose heap is what small outputs between large batches held.
OUTPUTS = """
import sys
from types import SimpleNamespace
import numpy as np
sys.path.insert(0, sys.argv[1])
from prepared_set import params
from pawprint.models import registry
from pawprint.training import dataloader, devices

class Drawn:
    labels, hashes, size = np.zeros(6400, np.int64), ("",) * 6400, 64
    def __len__(self):
        return len(self.labels)
    def images(self, indices):
        return np.zeros((len(indices), 64, 64, 3), np.uint8)

def peak():  # not getrusage: that counts the memory of the process that started this one too
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

given = params("mlp")
device = devices.prepare(given.training, seed=0)
prepared, network = SimpleNamespace(split=lambda _: Drawn()), registry.create_model("mlp", 20, 64).eval()
data = dataloader.TrainingData("mlp", network, given, prepared, device)
data.predictions("validation", np.arange(4 * dataloader.EVALUATION_BATCH))
before = peak()
data.predictions("validation")
print(peak() - before)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert np.array_equal(dataloader.order(100, seed=1, epoch=2), dataloader.order(100, seed=1, epoch=2))
    assert not np.array_equal(dataloader.order(100, seed=1, epoch=2), dataloader.order(100, seed=1, epoch=3))
    assert not np.array_equal(dataloader.order(100, seed=1, epoch=2), dataloader.order(100, seed=2, epoch=2))
    assert sorted(dataloader.order(100, seed=1, epoch=2)) == list(range(100))


def test_prefetch_gives_the_same_items_in_order() -> None:
    assert list(dataloader.prefetch(iter(range(50)))) == list(range(50))


def test_an_error_in_the_thread_reaches_the_loop() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(dataloader.prefetch(broken()))


def test_a_loop_that_stops_early_stops_the_thread() -> None:
    made = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    stream = dataloader.prefetch(endless())
    assert next(stream) == 0
    stream.close()
    count = len(made)
    assert count <= dataloader.PREFETCH + 3
    assert len(made) == count


def test_batches_hold_every_photograph_once_with_its_label(data: PreparedDataset) -> None:
    split = data.split("train")
    pieces = dataloader.chunks(dataloader.order(len(split), seed=3, epoch=1), 16)
    seen = []
    for batch in dataloader.batches(split, dataloader.photographs(split), pieces):
        assert batch.inputs.dtype == torch.uint8
        assert torch.equal(batch.labels, torch.from_numpy(split.labels[batch.indices]))
        assert np.array_equal(batch.inputs[0].numpy(), split.images([int(batch.indices[0])])[0])
        seen.extend(batch.indices.tolist())
    assert sorted(seen) == list(range(len(split)))


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")
def test_memory_does_not_grow_with_the_batches_that_outputs_are_of() -> None:
    """Outputs that were kept one by one held the memory of the batches between them: 18 GB of 150,000 photographs."""
    command = [sys.executable, "-c", OUTPUTS, str(ROOT / "tests")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inputs = 6400 * 64 * 64 * 3 * 4  # bytes
    assert int(done.stdout) < inputs / 4


def test_augmentation_of_cached_features_is_refused(data: PreparedDataset) -> None:
    with pytest.raises(PawprintError, match="none or flip"):
        fit("efficientnet_lite0", params("efficientnet_lite0", augment="standard"), data, Memory())


def test_finetune_trains_the_last_blocks_from_cached_maps_as_it_would_from_pixels(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path))
    given = params(
        "efficientnet_lite0",
        train="finetune",
        blocks=2,
        epochs=1,
        augment="flip",
        **(ADAM | {"batch_size": 14, "learning_rate": 0.001}),
    )
    given = given.model_copy(update={"training": given.training.model_copy(update={"precision": "float32"})})

    def tuned() -> tuple[nn.Module, list[float]]:
        memory = Memory()
        network = fit("efficientnet_lite0", given, data, memory).network
        return network, memory.curve("train_loss") + memory.curve("validation_loss")

    network, kept = tuned()
    pretrained = registry.create_model("efficientnet_lite0")
    pretrained.load_pretrained()
    changed = {
        name
        for (name, before), after in zip(pretrained.state_dict().items(), network.state_dict().values(), strict=True)
        if not torch.equal(before, after)
    }
    places = {".".join(name.split(".")[:2]) for name in changed}
    assert places == {"blocks.14", "blocks.15", "last.0", "last.1", "head.weight", "head.bias"}
    assert not any("running" in name for name in changed)

    monkeypatch.setattr(feature_cache.Engine, "run", None)  # nothing is missing
    assert tuned()[1] == kept
    monkeypatch.setattr(dataloader, "is_cacheable", lambda *_: False)
    np.testing.assert_allclose(tuned()[1], kept, rtol=1e-4)
