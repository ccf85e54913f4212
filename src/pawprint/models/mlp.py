"""Pixels, flattened, into dense layers: the network that a convolution is to replace. 2,700,021 parameters.

As many hidden units as article_cnn has filters, so that the two can be compared side by side: a filter looks
at 5x5 pixels and costs 76 parameters, a hidden unit looks at all of them and costs 270,001.
"""

from torch import Tensor, nn

from pawprint.image import SIZE
from pawprint.models.backbone import Network

HIDDEN, BLOCK = 10, 10


class MLP(Network):
    """Dense layers on the flattened pixels: what a convolution replaces, from scratch, 2.7 million parameters.

    Its embedding is its hidden layer.
    """

    def __init__(self, classes: int, size: int = SIZE) -> None:
        super().__init__(classes, HIDDEN, size)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(3 * size * size, HIDDEN)
        self.relu = nn.ReLU()
        self.dense = nn.Linear(HIDDEN, self.width)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """There are none: the pixels themselves, [N, 3, 300, 300]."""
        return inputs

    def embed(self, maps: Tensor) -> Tensor:
        """[N, 3, 300, 300] -> [N, 10]."""
        embedding: Tensor = self.relu(self.hidden(self.flatten(maps)))
        return embedding

    def forward_head(self, maps: Tensor) -> Tensor:
        """[N, 3, 300, 300] -> [N, width]."""
        last: Tensor = self.dense(self.embed(maps))
        return last

    def cam(self, maps: Tensor) -> Tensor:
        """[N, 3, 300, 300] -> [N, width, 30, 30]: what the pixels of each 10x10 block add through the active units."""
        # each unit by itself first: a map of all pixels for each class is 0.6 GB of one photograph at 1,000 classes
        products = self.hidden.weight * self.flatten(maps).unsqueeze(1)
        terms = products.unflatten(2, (3, self.size, self.size)).sum(dim=2)
        active = (self.embed(maps) > 0).to(maps.dtype)[:, :, None, None]
        blocks = nn.functional.avg_pool2d(terms, BLOCK) * BLOCK**2 * active
        return nn.functional.conv2d(blocks, self.dense.weight[:, :, None, None])
