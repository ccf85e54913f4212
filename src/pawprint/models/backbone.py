"""Base classes of all architectures: photographs to logits, embedding and class-activation map.

    network = registry.create_model("article_cnn", classes=2)
    inputs = network.normalise(pixels)      # uint8 [N, size, size, 3] -> float [N, 3, size, size]
    logits = network(inputs)                # [N, classes]; enough for training
    outputs = network.outputs(inputs)       # with embedding and map; what a model folder holds

With two classes a network has one output, the log-odds of the second class, and its map has one plane: values above
zero speak for the second class, below zero for the first.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Outputs(NamedTuple):
    """A network's outputs for N photographs."""

    logits: Tensor  # [N, classes]
    embedding: Tensor  # [N, d]
    activation: Tensor  # [N, classes, h, w], or [N, 1, h, w] with two classes


class Network(nn.Module, ABC):
    """Base of all architectures. A subclass defines `forward_features`, `forward_head`, `embed` and `cam`.

    A `pretrained` one can be trained in part, and defines the last four methods too: behind the frozen part of its
    backbone lie the last `blocks` of it, possibly none, and the head.
    """

    mean: ClassVar[float] = 0.0  # of the normalization, on the scale 0..255
    scale: ClassVar[float] = 255.0
    pretrained: ClassVar[bool] = False
    head: nn.Linear  # of a pretrained one: the last layer, on the embedding
    maps_can_be_cached: ClassVar[bool] = True  # of a pretrained one: it can be cut in front of its last blocks

    def __init__(self, classes: int, features: int, size: int) -> None:
        super().__init__()
        self.size = size  # pixels a side of its photographs
        self.classes, self.features = classes, features  # features: numbers of the embedding
        self.width = 1 if classes == 2 else classes  # outputs of the last layer

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [N, height, width, 3] RGB -> float [N, 3, height, width], channels last in memory."""
        inputs = pixels.permute(0, 3, 1, 2).to(torch.float32)  # then in place: a batch is 138 MB
        return (inputs.sub_(self.mean) if self.mean else inputs).div_(self.scale)

    @abstractmethod
    def forward_features(self, inputs: Tensor) -> Tensor:
        """Normalized [N, 3, height, width] -> feature maps [N, c, h, w]."""

    @abstractmethod
    def forward_head(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, width]."""

    @abstractmethod
    def embed(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, features], similar for similar photographs."""

    @abstractmethod
    def cam(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, width, h, w]: what each place adds to each output."""

    def cam_of(self, maps: Tensor, weight: Tensor) -> Tensor:
        """`cam` of a pretrained network under another head's `weight` [width, features]."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalized [N, 3, height, width] -> logits [N, classes]."""
        return self.logits(self.forward_head(self.forward_features(inputs)))

    def outputs(self, inputs: Tensor) -> Outputs:
        """Logits, embedding and map in one pass."""
        maps = self.forward_features(inputs)
        return Outputs(self.logits(self.forward_head(maps)), self.embed(maps), self.cam(maps))

    def logits(self, last: Tensor) -> Tensor:
        """[N, width] -> [N, classes]. Log-odds z become (0, z): softmax of that is the sigmoid of z."""
        return last if self.classes > 2 else torch.cat([torch.zeros_like(last), last], dim=1)

    def load_pretrained(self) -> None:
        """Read pretrained weights, where the architecture has some."""

    def class_scores(self) -> tuple[Tensor, Tensor] | None:
        """(weights [s, features], bias [s]) that made class scores of the pretrained embedding, where known."""
        return None

    def unfreeze_last(self, blocks: int) -> list[nn.Parameter]:
        """Freeze all but the head and the last `blocks` of the backbone; the parameters of the latter."""
        raise NotImplementedError

    def forward_frozen(self, inputs: Tensor, blocks: int) -> Tensor:
        """Normalized inputs -> the input of the last `blocks`, [N, c, h, w]; the embedding [N, features] for none."""
        raise NotImplementedError

    def forward_trained(self, maps: Tensor, blocks: int) -> Tensor:
        """The input of the last `blocks`, at least one -> feature maps."""
        raise NotImplementedError

    def head_of(self, embedding: Tensor) -> Tensor:
        """[N, features] -> [N, width]."""
        raise NotImplementedError


class LinearHead(Network):
    """Dropout and one linear layer on the embedding."""

    def __init__(self, classes: int, features: int, size: int, dropout: float = 0.0) -> None:
        super().__init__(classes, features, size)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, self.width)

    def head_of(self, embedding: Tensor) -> Tensor:
        """[N, features] -> [N, width]."""
        last: Tensor = self.head(self.dropout(embedding))
        return last

    def forward_head(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, width]."""
        return self.head_of(self.embed(maps))


class PooledNetwork(LinearHead):
    """Feature maps, averaged over all places, then one linear layer: the map follows from its weights.

    The class-activation map is the linear layer's weights times the feature maps (Zhou et al., Learning Deep Features
    for Discriminative Localization, 2016).
    """

    def embed(self, maps: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, c]."""
        return maps.mean(dim=(2, 3))

    def cam(self, maps: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, width, h, w]."""
        return self.cam_of(maps, self.head.weight)

    def cam_of(self, maps: Tensor, weight: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, width, h, w]."""
        return F.conv2d(maps, weight[:, :, None, None])
