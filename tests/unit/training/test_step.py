"""The options of a candidate, each measured by what it must do to the numbers."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.models import registry
from pawprint.models.deep_cnn import DeepCNN
from pawprint.training import dataloader
from pawprint.training import step as module
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.train import fit
from prepared_set import Memory, drawings, params


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"), per_class=20)


def exact(**changes: object) -> Params:
    """article_cnn in float32, two epochs."""
    given = params("article_cnn", **({"epochs": 2, "batch_size": 16, "learning_rate": 1e-4} | changes))
    return given.model_copy(update={"training": given.training.model_copy(update={"precision": "float32"})})


def losses(given: Params, data: PreparedDataset) -> list[float]:
    memory = Memory()
    fit("article_cnn", given, data, memory)
    return memory.curve("train_loss")


def test_a_batch_in_parts_is_the_same_step(data: PreparedDataset) -> None:
    np.testing.assert_allclose(losses(exact(accumulate=4), data), losses(exact(), data), rtol=1e-4)


def test_memory_that_is_short_is_met_by_parts_when_the_batch_is_auto(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocator that refuses more than 8 photographs at once stands for a small machine."""
    forward = registry.create_model("article_cnn").__class__.forward_features

    def small(self: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 8 and self.training:
            raise torch.OutOfMemoryError("no room")
        return forward(self, inputs)

    expected = losses(exact(batch_size=128), data)
    monkeypatch.setattr(registry.ARCHITECTURES["article_cnn"], "forward_features", small)
    np.testing.assert_allclose(losses(exact(batch_size="auto"), data), expected, rtol=1e-4)
    with pytest.raises(PawprintError, match=r"memory is short for 16.*accumulate"):
        losses(exact(accumulate=1), data)


def test_clipping_bounds_the_step(data: PreparedDataset) -> None:
    """With plain SGD no weight can move further than rate times norm."""
    given = exact(optimizer="sgd", learning_rate=1.0, clip_norm=1e-6, epochs=1)
    torch.manual_seed(given.seed)
    before = registry.create_model("article_cnn")
    after = fit("article_cnn", given, data, Memory()).network
    moved = sum(
        float((a - b).detach().abs().max()) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert 0 < moved < 1e-4


def test_early_stopping_ends_early_and_keeps_the_best(data: PreparedDataset) -> None:
    memory = Memory()
    given = exact(epochs=40, early_stopping=2, learning_rate=0.01)
    trained = fit("article_cnn", given, data, memory)
    curve = memory.curve("validation_loss")
    assert len(curve) < 40
    assert len(curve) - 1 - int(np.argmin(curve)) == 2
    logits = torch.from_numpy(trained.validation.logits)
    kept = nn.functional.cross_entropy(logits, torch.from_numpy(data.split("validation").labels))
    assert float(kept) == pytest.approx(min(curve), rel=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_schedules_end_near_zero(schedule: str, data: PreparedDataset) -> None:
    memory = Memory()
    fit("article_cnn", exact(epochs=6, schedule=schedule), data, memory)
    rates = memory.curve("learning_rate")
    assert rates[-1] < 1e-6 < max(rates) <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 100])
def test_one_cycle_fits_a_training_of_any_length(steps: int) -> None:
    candidate = params("article_cnn", schedule="one_cycle").candidate("article_cnn")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=candidate.learning_rate, momentum=0.9)
    schedule = module.build_schedule(candidate, optimizer, steps)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] < candidate.learning_rate / 1000


def test_class_weights_make_classes_weigh_the_same() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    candidate = params("article_cnn", class_weights="balanced").candidate("article_cnn")
    weights = module.class_weights(candidate, labels, classes=2).numpy()
    assert weights[0] * 90 == pytest.approx(weights[1] * 10)
    assert weights[labels].mean() == pytest.approx(1)


def test_the_running_average_follows_and_is_what_is_kept(data: PreparedDataset) -> None:
    plain = fit("article_cnn", exact(), data, Memory()).network
    averaged = fit("article_cnn", exact(ema=0.99), data, Memory()).network
    assert not torch.equal(plain.dense.weight, averaged.dense.weight)
    torch.testing.assert_close(plain.dense.weight, averaged.dense.weight, atol=1e-2, rtol=0)


def test_mixup_and_smoothing_keep_the_loss_finite(data: PreparedDataset) -> None:
    assert np.isfinite(losses(exact(mixup=0.4, label_smoothing=0.1), data)).all()


def test_deep_cnn_learns_and_stays_below_five_million(data: PreparedDataset) -> None:
    assert registry.parameters(registry.create_model("deep_cnn")) <= 5_000_000
    memory = Memory()
    fit("deep_cnn", params("deep_cnn", epochs=2, batch_size=14, learning_rate=0.003, ema=0.9), data, memory)
    assert memory.curve("train_loss")[1] < memory.curve("train_loss")[0]


def test_class_weights_reach_the_training(data: PreparedDataset) -> None:
    """A few dogs among many cats: with balanced weights more photographs are called dogs."""
    dogs = [row for row in data.rows if (row.split, row.label) == ("train", "dog")]
    uneven = replace(data, rows=tuple(row for row in data.rows if row not in dogs[3:]))

    def called_dogs(kind: str) -> float:
        trained = fit("article_cnn", exact(class_weights=kind, epochs=4), uneven, Memory())
        return float(torch.from_numpy(trained.validation.logits).softmax(1)[:, 1].mean())

    assert called_dogs("balanced") > called_dogs("none") + 0.05


def test_under_mixup_a_prediction_is_right_by_the_share_of_the_photograph_it_names(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "mixup", lambda inputs, labels, alpha, rng: (inputs, 1 - labels, 0.25))
    memory = Memory()
    fit("article_cnn", exact(mixup=0.4, epochs=30, learning_rate=1e-3), data, memory)
    accuracy = memory.curve("train_accuracy")
    assert min(accuracy) >= 0.25
    assert accuracy[-1] > 0.7  # it names the other photograph, which has three quarters; unmixed labels would give 0


def test_no_two_streams_of_random_numbers_are_one(data: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of an epoch, and the mixup of each of its batches."""
    drawn: dict[tuple[int, ...], str] = {}

    def remember(inputs: torch.Tensor, labels: torch.Tensor, alpha: float, rng: np.random.Generator) -> object:
        assert drawn.setdefault(tuple(rng.permutation(50)), "mixup") == "mixup"
        return inputs, labels, 1.0

    given = exact(mixup=0.4)
    for epoch in range(3):
        drawn[tuple(dataloader.order(50, given.seed, epoch))] = "order"
    monkeypatch.setattr(module, "mixup", remember)
    fit("article_cnn", given, data, Memory())
    assert len(drawn) == 3 + 2 * -(-len(data.split("train")) // 16)


def test_compiled_code_is_kept_where_no_other_user_can_put_it() -> None:
    code = (
        "import pawprint.training.step; from torch._inductor.runtime import cache_dir_utils as c; print(c.cache_dir())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(Path(torch.hub.get_dir()).with_name("inductor"))


def test_photographs_grow_over_the_epochs() -> None:
    candidate = params("deep_cnn", epochs=8, train_sizes=(0.35, 0.8)).candidate("deep_cnn")
    assert [module.side(candidate, 224, epoch) for epoch in range(1, 9)] == [80, 80, 112, 112, 144, 144, 176, 176]
    whole = params("deep_cnn", epochs=8, train_sizes=(0.5, 1.0)).candidate("deep_cnn")
    assert module.side(whole, 300, 8) == 300
    pixels = torch.full((2, 300, 300, 3), 7, dtype=torch.uint8)
    small = module.shrink(pixels, 64)
    assert small.shape == (2, 64, 64, 3) and (small == 7).all()


def test_a_network_of_one_size_cannot_learn_from_small_photographs() -> None:
    for architecture in ("article_cnn", "mlp"):
        with pytest.raises(PawprintError, match=f"{architecture} is made for one"):
            registry.check(params(architecture, train_sizes=(0.4, 0.8)))


def test_a_training_on_small_photographs_resumes_from_its_checkpoint(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, forward = [], DeepCNN.forward_features

    def watched(network: DeepCNN, inputs: torch.Tensor) -> torch.Tensor:
        if network.training:
            seen.append(inputs.shape[-1])
        return forward(network, inputs)

    monkeypatch.setattr(DeepCNN, "forward_features", watched)
    given = params("deep_cnn", epochs=2, batch_size=14, train_sizes=(0.3, 0.5))
    memory = Memory()
    whole = fit("deep_cnn", given, data, memory, CheckpointManager(tmp_path, "deep_cnn", given, data))
    assert seen == sorted(seen) and set(seen) == {96, 128}  # of 300, in the first epoch and in the second
    assert np.isfinite(memory.curve("train_loss")).all()
    again = Memory()
    resumed = fit("deep_cnn", given, data, again, CheckpointManager(tmp_path, "deep_cnn", given, data))
    # nothing was left to train: the checkpoint is of these parameters
    assert not [step for step, _ in again.steps if step]
    assert torch.equal(resumed.network.head.weight, whole.network.head.weight)
