"""Photographs kept on a GPU (here: in memory): the same photographs, and augmented as on the CPU."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pawprint.data.augment import Kind, augment
from pawprint.data.dataset import PreparedDataset
from pawprint.training import dataloader, gpu_dataloader
from pawprint.training.train import fit
from prepared_set import Memory, drawings, params


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"), per_class=20)


@pytest.mark.parametrize("kind", ["flip", "standard", "strong"])
def test_augmentations_of_a_batch_are_seeded_and_keep_the_shape(kind: Kind, data: PreparedDataset) -> None:
    pixels = torch.from_numpy(data.split("train").images(range(6)))
    first, again = (gpu_dataloader.augment(pixels, kind, np.random.default_rng(7)) for _ in range(2))
    other = gpu_dataloader.augment(pixels, kind, np.random.default_rng(8))
    assert first.shape == pixels.shape and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(first.float().mean() - pixels.float().mean())) < 30


def figures(augmented: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Of each picture [n, 300, 300, 3]: what an augmentation changes, measured."""
    centre = augmented[:, 100:200, 100:200].astype(np.float64)
    across, down = (np.diff(centre[..., 0], axis=axis).mean((1, 2)) for axis in (2, 1))
    red, green, blue = centre.mean((1, 2)).T
    return {
        "black beyond the border": (augmented.max(-1) == 0).mean((1, 2)),
        "mirrored": (across < 0).astype(float),
        "rotation": np.degrees(np.arctan2(down, np.abs(across))),
        "size and contrast": np.hypot(across, down) * 100,
        "brightness": (red + green + blue) / 3,
        "red against blue": red - blue,
        "green against blue": green - blue,
    }


@pytest.mark.parametrize("kind", ["flip", "standard", "strong"])
def test_both_implementations_draw_from_one_distribution(kind: Kind) -> None:
    """Mean and spread of each figure over many draws; both follow data.augment.AUGMENTATIONS."""
    down, across = np.mgrid[:300, :300] / 299
    picture = np.stack([60 + 120 * across, 70 + 100 * down, np.full((300, 300), 60.0)], -1).astype(np.uint8)
    count = 300
    on_cpu = augment(kind, seed=7, epoch=1)
    assert on_cpu is not None
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    ours = figures(np.stack([on_cpu(picture, name) for name in hashes]))
    many = torch.from_numpy(picture).repeat(count, 1, 1, 1)
    theirs = figures(gpu_dataloader.augment(many, kind, np.random.default_rng(7)).numpy())
    for name, values in ours.items():
        spread = values.std()
        assert values.mean() == pytest.approx(theirs[name].mean(), abs=0.35 * spread + 0.01), name
        assert theirs[name].std() == pytest.approx(spread, rel=0.4, abs=0.02), name


def test_resident_photographs_are_the_same_photographs(data: PreparedDataset) -> None:
    split = data.split("train")
    pixels = torch.from_numpy(split.images(range(len(split))))
    pieces = [np.array([3, 1]), np.array([0])]
    source = gpu_dataloader.resident(pixels, "none", seed=0, epoch=1)
    for piece, batch in zip(pieces, dataloader.batches(split, source, pieces), strict=True):
        assert np.array_equal(batch.inputs.numpy(), split.images(piece))
        assert batch.labels.tolist() == split.labels[piece].tolist()


def test_a_training_on_resident_photographs_learns_the_same(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(**changes: object) -> list[float]:
        memory = Memory()
        given = params("article_cnn", **({"epochs": 1, "batch_size": 16, "learning_rate": 1e-4} | changes))
        given = given.model_copy(update={"training": given.training.model_copy(update={"precision": "float32"})})
        fit("article_cnn", given, data, memory)
        return memory.curve("train_loss")

    expected = losses()
    monkeypatch.setattr(gpu_dataloader, "load", lambda split, device: torch.from_numpy(split.images(range(len(split)))))
    np.testing.assert_allclose(losses(), expected, rtol=1e-6)
    assert np.isfinite(losses(augment="strong")).all()
