"""The head solver: the optimum of a convex problem, and a penalty that nothing of validation or test has chosen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression

from pawprint.config import Candidate
from pawprint.data.dataset import PreparedDataset
from pawprint.training.head import STRENGTHS, TOLERANCE, _held_out
from pawprint.training.train import Trained, fit
from prepared_set import Memory, drawings, params

NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train(data: PreparedDataset, **changes: object) -> tuple[Trained, Memory]:
    memory = Memory()
    return fit(NAME, params(NAME, **changes), data, memory), memory


def head(trained: Trained) -> torch.Tensor:
    return torch.cat([trained.network.head.weight.detach().ravel(), trained.network.head.bias.detach()])


def test_it_finds_the_optimum_that_scikit_learn_finds(data: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, memory = train(data, weight_decay=0.01)
    features, labels = trained.sample.embedding, data.split("train").labels[trained.sampled]
    scale = np.sqrt((features.astype(float) ** 2).mean(axis=0))
    features = features / np.maximum(scale, 1e-3 * scale.mean())
    theirs = LogisticRegression(C=1 / (0.01 * len(labels)), tol=1e-8, max_iter=5000).fit(features, labels)
    head = trained.network.head.weight.detach().numpy()[-1] * np.maximum(scale, 1e-3 * scale.mean())
    share = 1 / (1 + np.exp(-trained.sample.logits[:, 1]))
    gradient = features.T @ (share - labels) / len(labels) + 0.01 * head
    assert np.abs(gradient).max() < 2 * TOLERANCE  # twice: features are computed in two ways
    # Each CPU takes another step as the first below the tolerance: of a smaller one the answers are the same on all.
    monkeypatch.setattr("pawprint.training.head.TOLERANCE", 1e-6)
    nearer, _ = train(data, weight_decay=0.01)
    np.testing.assert_allclose(
        nearer.sample.logits[:, 1], features @ theirs.coef_[0] + theirs.intercept_[0], atol=2e-3, rtol=1e-3
    )
    assert memory.final("weight_decay_chosen") == 0.01
    losses = memory.curve("train_loss")
    assert losses[-1] < losses[0] and len(memory.curve("validation_loss")) == len(losses)


def test_equal_inputs_give_equal_bytes_and_validation_has_no_part_in_it(data: PreparedDataset) -> None:
    first, memory = train(data)
    assert memory.final("weight_decay_chosen") in STRENGTHS
    assert save({"head": head(first)}) == save({"head": head(train(data)[0])})
    rows = tuple(row for row in data.rows if row.split != "validation")
    assert torch.equal(head(first), head(train(replace(data, rows=rows))[0]))


def test_the_photographs_that_choose_the_penalty_are_whole_groups(data: PreparedDataset) -> None:
    rows = tuple(row._replace(group=f"animal {place % 7}") for place, row in enumerate(data.rows))
    train_split = replace(data, rows=rows).split("train")
    held_out = _held_out(train_split, 2017)
    sides = {(row.group, bool(out)) for row, out in zip(train_split.rows, held_out, strict=True)}
    assert held_out.any() and len(sides) == len({group for group, _ in sides})
    alone = replace(data, rows=tuple(row._replace(group=row.label) for row in data.rows)).split("train")
    assert not any(_held_out(alone, seed).any() for seed in range(20))  # or a class would be gone


def test_five_classes_weights_and_mirror_images(data: PreparedDataset, tmp_path: Path) -> None:
    plain, _ = train(data, weight_decay=0.01)
    for changes in ({"label_smoothing": 0.1}, {"augment": "flip"}):
        other, _ = train(data, weight_decay=0.01, **changes)
        assert not torch.equal(head(plain), head(other)) and torch.isfinite(head(other)).all()
    classes = ("bird", "cat", "dog", "fish", "horse")
    three, memory = train(replace(data, classes=classes), weight_decay=0.01)
    assert three.validation.logits.shape[1] == 5
    assert set(three.validation.logits.argmax(axis=1)) <= {1, 2}
    assert memory.curve("train_accuracy")[-1] == 1


def test_what_lbfgs_cannot_do_is_refused() -> None:
    Candidate(architecture=NAME, train="head", optimizer="lbfgs", weight_decay="auto")
    for changes in ({"train": "finetune"}, {"mixup": 0.2}, {"ema": 0.9}, {"early_stopping": 3}):
        with pytest.raises(ValidationError, match="optimizer: lbfgs needs train: head"):
            Candidate(architecture=NAME, **({"train": "head", "optimizer": "lbfgs"} | changes))
    with pytest.raises(ValidationError, match="auto needs optimizer: lbfgs"):
        Candidate(architecture=NAME, weight_decay="auto")
