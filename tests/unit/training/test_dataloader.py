"""Batches: a seeded order, prepared ahead, from photographs or cached features alike."""

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
from prepared_set import ADAM, Memory, drawings, params


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
