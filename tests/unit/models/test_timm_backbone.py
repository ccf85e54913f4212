"""Networks of timm as backbones: a CNN, a vision transformer and a hybrid, of random weights saved as files."""

import itertools
from pathlib import Path

import make_sample
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pawprint import image
from pawprint.config import Candidate, load_params
from pawprint.models import registry, timm_backbone, weights
from pawprint.models.timm_backbone import TimmBackbone
from pawprint.training import dataloader
from pawprint.training.export import _Served, compare, save_onnx
from pawprint.training.feature_cache import FeatureCache, backbone_digest
from prepared_set import ROOT

NAMES = {
    "cnn": "timm/test_resnet.r160_in1k",
    "vit": "timm/test_vit.r160_in1k",
    "hybrid": "timm/vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k",
    "norm behind the pooling": "timm/test_convnext.r160_in1k",
    "channels last": "timm/swin_tiny_patch4_window7_224.ms_in1k",
}
SMALL = ("cnn", "vit", "hybrid")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("PAWPRINT_CACHE", raising=False)
        for name in NAMES.values():
            torch.manual_seed(1)
            network = timm_backbone._timm().create_model(name.removeprefix("timm/"))
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "file")
            weights.add(name, folder / "file")
    return folder


@pytest.fixture(autouse=True)
def project(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)
    monkeypatch.delenv("PAWPRINT_CACHE", raising=False)


def loaded(kind: str, classes: int = 2) -> TimmBackbone:
    torch.manual_seed(0)
    network = registry.create_model(NAMES[kind], classes)
    network.load_pretrained()
    assert isinstance(network, TimmBackbone)
    return network.eval()


def photographs(count: int) -> np.ndarray:
    drawn = [image.decode(data) for _, data in itertools.islice(make_sample.sample(), count)]
    return np.stack([image.resize(one) for one in drawn])


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("classes", [2, 5])
def test_outputs_and_the_map(kind: str, classes: int) -> None:
    network = loaded(kind, classes)
    inputs = network.normalise(torch.from_numpy(photographs(3)))
    with torch.inference_mode():
        logits, embedding, activation = network.outputs(inputs)
        frozen = network.forward_frozen(inputs, 0)
        maps = network.forward_features(inputs)
        last = network.forward_head(maps)
    assert logits.shape == (3, classes) and embedding.shape == (3, network.features)
    assert activation.shape[:2] == (3, network.width) and activation.shape[2] == activation.shape[3] > 1
    torch.testing.assert_close(frozen, embedding)
    if kind in ("cnn", "channels last"):  # they average over all places, so the map adds up to the output
        torch.testing.assert_close(activation.mean(dim=(2, 3)) + network.head.bias, last, rtol=1e-3, atol=1e-4)
    if kind in ("vit", "hybrid"):  # patch tokens times the head's weights
        tokens = maps[:, network.prefix :] @ network.head.weight.T
        torch.testing.assert_close(activation.flatten(2).transpose(1, 2), tokens, rtol=1e-3, atol=1e-4)


def test_the_input_is_what_timm_would_be_given_but_for_its_reduction_by_pillow() -> None:
    network = loaded("cnn")
    pixels = photographs(2)
    reduced = [np.asarray(Image.fromarray(one).resize((160, 160), Image.Resampling.BILINEAR)) for one in pixels]
    mean, std = (np.array(values, np.float32) for values in (network.record.mean, network.record.std))
    inputs = torch.from_numpy((np.stack(reduced) / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        ours = network.reduction @ network.normalise(torch.from_numpy(pixels)) @ network.reduction.T
    assert float((ours - inputs).abs().max()) < 1.01 / 255 / float(std.min())  # Pillow rounds, twice


@pytest.mark.parametrize("kind", SMALL)
def test_the_graph_gives_torchs_answers_on_photographs(kind: str, tmp_path: Path) -> None:
    served = _Served(loaded(kind), temperature=1.5).eval()
    save_onnx(served, tmp_path / "model.onnx")
    assert compare(served, tmp_path / "model.onnx", photographs(3)) < 1e-4


@pytest.mark.parametrize("kind", SMALL)
def test_features_are_cached_by_the_weights_digest(kind: str) -> None:
    params = load_params(ROOT / "params.yaml")
    params = params.model_copy(update={"training": params.training.model_copy(update={"precision": "float32"})})
    network = loaded(kind)
    cache = FeatureCache(network, NAMES[kind], params)
    pixels = photographs(2)
    with torch.inference_mode():
        expected = network.forward_frozen(network.normalise(torch.from_numpy(pixels)), 0).numpy()
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(cache.engine.by_openvino(pixels) / scale, expected / scale, atol=2e-3)
    digest = backbone_digest(network)
    nn.init.zeros_(network.head.weight)
    assert backbone_digest(network) == digest
    network.means += 1  # another normalization is another transform
    assert backbone_digest(network) != digest
    assert FeatureCache(network, NAMES[kind], params).folder != cache.folder


@pytest.mark.parametrize("kind", SMALL)
def test_fine_tuning_trains_the_last_blocks_and_what_lies_behind_them(kind: str) -> None:
    network = loaded(kind)
    assert network.unfreeze_last(0) == []
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {"head.weight", "head.bias"}
    one, three = ({id(each) for each in network.unfreeze_last(blocks)} for blocks in (1, 3))
    assert one < three < {id(each) for each in network.backbone.parameters()}
    last = list(network.backbone.parameters())[-3]
    assert id(last) in one
    candidate = Candidate(architecture=NAMES[kind], train="finetune")
    assert not dataloader.is_cacheable(network, candidate, torch.device("cpu"))
    assert not network.train().backbone.training  # batch norm keeps its statistics


def test_torchvision_that_fails_or_is_missing_does_not_matter(tmp_path: Path) -> None:
    """PyPI's build for CUDA raises a RuntimeError beside a torch for the CPU."""
    import subprocess
    import sys

    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    check = (
        "import sys; from pawprint.models import timm_backbone as t; t._timm().create_model('test_vit'); "
        "print([name for name in sys.modules if name.startswith('torchvision')])"
    )
    for where in (str(tmp_path), str(tmp_path / "none")):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {where!r}); {check}"],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.stdout == "[]\n", done.stderr
