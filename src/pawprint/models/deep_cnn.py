"""Our own network from scratch: a small residual one, 4.6 million parameters for two classes.

Pre-activation-free basic blocks (He et al., Deep Residual Learning, 2015) with what the field has added since:
three 3x3 convolutions for a stem and average pooling before a shortcut's 1x1 (He et al., Bag of Tricks, 2018),
and a last batch norm in each block that starts at zero, so that training starts from a shallow network (Goyal
et al., 2017).
"""

from torch import Tensor, nn

from pawprint.image import SIZE
from pawprint.models.backbone import PooledNetwork

CHANNELS = (32, 64, 128, 240, 256)  # the first is the stem's; the second stands at a quarter of the side
BLOCKS = (2, 2, 2, 2)  # a stage


def _unit(inputs: int, outputs: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; with `stride` 2 the shortcut averages before it projects."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _unit(inputs, outputs, stride)
        self.second = _unit(outputs, outputs, act=False)
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, outputs, ceil(h / stride), ceil(w / stride)]."""
        outputs: Tensor = self.relu(self.second(self.first(inputs)) + self.shortcut(inputs))
        return outputs


class DeepCNN(PooledNetwork):
    """A small residual network, from scratch, 4.6 million parameters."""

    mean, scale = 114.0, 64.0  # of photographs at large, not of any set

    def __init__(self, classes: int, size: int = SIZE) -> None:
        super().__init__(classes, CHANNELS[-1], size, dropout=0.2)
        stem = CHANNELS[0]
        # relu behind the pooling gives the same numbers and has a quarter of the places to do
        pooled = _unit(stem, CHANNELS[1], act=False), nn.MaxPool2d(2), nn.ReLU(inplace=True)
        self.stem = nn.Sequential(_unit(3, stem, 2), _unit(stem, stem), *pooled)
        blocks: list[nn.Module] = []
        inputs = CHANNELS[1]
        for stage, outputs in enumerate(CHANNELS[1:]):
            for repeat in range(BLOCKS[stage]):
                blocks.append(Block(inputs, outputs, 2 if repeat == 0 and stage > 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """[N, 3, h, w] -> [N, 256, h / 32, w / 32], rounded up."""
        maps: Tensor = self.blocks(self.stem(inputs))
        return maps
