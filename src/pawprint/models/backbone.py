"""What every architecture is: photographs in; logits, embedding and class-activation map out.

    network = catalogue.build("article_cnn", classes=2)
    inputs = network.normalise(pixels)      # uint8 [N, 300, 300, 3] -> float [N, 3, 300, 300]
    logits = network(inputs)                # [N, classes]; what training needs
    outputs = network.outputs(inputs)       # and with it the embedding and the map; what a model folder holds

With two classes a network has one output, the log-odds of the second class, and its map has one plane: above
zero speaks for the second class, below zero for the first.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a network says of N photographs."""

    logits: Tensor  # [N, classes]
    embedding: Tensor  # [N, d]
    activation: Tensor  # [N, classes, h, w], or [N, 1, h, w] with two classes


class Network(nn.Module):
    """Base of all architectures. A subclass defines `maps`, `classify`, `embed` and `activate`."""

    mean: ClassVar[float] = 0.0  # of the normalisation, on the scale 0..255
    scale: ClassVar[float] = 255.0
    pretrained: ClassVar[bool] = False  # `head` and `finetune` need a backbone that has learned before

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.width = 1 if classes == 2 else classes  # numbers that come out of the last layer

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [N, height, width, 3] RGB -> float [N, 3, height, width], channels last in memory."""
        inputs = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return inputs.sub_(self.mean).div_(self.scale)  # in place: a batch is 138 MB

    def maps(self, inputs: Tensor) -> Tensor:
        """Normalised [N, 3, height, width] -> feature maps [N, c, h, w]."""
        raise NotImplementedError

    def classify(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, width]."""
        raise NotImplementedError

    def embed(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, d], alike for alike photographs."""
        raise NotImplementedError

    def activate(self, maps: Tensor) -> Tensor:
        """Feature maps -> [N, width, h, w]: how much each place adds to each output."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised [N, 3, height, width] -> logits [N, classes]."""
        return self.logits(self.classify(self.maps(inputs)))

    def outputs(self, inputs: Tensor) -> Outputs:
        """Logits, embedding and map in one pass."""
        maps = self.maps(inputs)
        return Outputs(self.logits(self.classify(maps)), self.embed(maps), self.activate(maps))

    def logits(self, last: Tensor) -> Tensor:
        """[N, width] -> [N, classes]. Log-odds z become (0, z): softmax of that is the sigmoid of z."""
        return last if self.classes > 2 else torch.cat([torch.zeros_like(last), last], dim=1)

    def load_pretrained(self) -> None:
        """Read pretrained weights, where the architecture has some."""

    def train_last(self, blocks: int) -> list[nn.Parameter]:
        """Freeze all but the head and the last `blocks` of a pretrained backbone; returns the latter's parameters."""
        raise NotImplementedError

    def front(self, inputs: Tensor, blocks: int) -> Tensor:
        """What train_last freezes: normalised inputs -> what the last `blocks` are given, [N, c, h, w]."""
        raise NotImplementedError

    def back(self, maps: Tensor, blocks: int) -> Tensor:
        """What train_last trains, but the head: what `front` gives -> feature maps."""
        raise NotImplementedError


class PooledNetwork(Network):
    """Feature maps, averaged over all places, then one linear layer: the map follows from its weights.

    The class-activation map is that of Zhou et al., Learning Deep Features for Discriminative Localization
    (2016): the linear layer's weights times the feature maps.
    """

    def __init__(self, classes: int, features: int, dropout: float = 0.0) -> None:
        super().__init__(classes)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, self.width)

    def embed(self, maps: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, c]."""
        return maps.mean(dim=(2, 3))

    def classify(self, maps: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, width]."""
        return self.classify_embedding(self.embed(maps))

    def classify_embedding(self, embedding: Tensor) -> Tensor:
        """[N, c] -> [N, width]: the head alone, for features that were computed before."""
        last: Tensor = self.head(self.dropout(embedding))
        return last

    def activate(self, maps: Tensor) -> Tensor:
        """[N, c, h, w] -> [N, width, h, w]."""
        return nn.functional.conv2d(maps, self.head.weight[:, :, None, None])
