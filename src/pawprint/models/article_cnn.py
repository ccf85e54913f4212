"""The 2017 baseline: one convolution, one pooling, one dense layer. 219,801 parameters for two classes.

300x300x3 -> Conv 10 of 5x5, valid, relu -> 296x296x10 -> MaxPool 2x2 -> 148x148x10 -> 219,040 -> Dense
"""

from torch import Tensor, nn

from pawprint.image import SIZE
from pawprint.models.backbone import Network

FILTERS, KERNEL, POOL, GRID = 10, 5, 2, 4


class ArticleCNN(Network):
    """One convolution and one dense layer: the 2017 baseline, from scratch, 220,000 parameters.

    Its embedding is its 10 maps averaged over a 4x4 grid: 160 numbers.
    """

    def __init__(self, classes: int, size: int = SIZE) -> None:
        super().__init__(classes, FILTERS * GRID**2, size)
        self.side = (size - KERNEL + 1) // POOL  # 148 of 300
        self.conv = nn.Conv2d(3, FILTERS, KERNEL)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(POOL)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(FILTERS * self.side**2, self.width)
        self.grid = nn.AdaptiveAvgPool2d(GRID)
        for layer in (self.conv, self.dense):  # as Keras starts them
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """[N, 3, 300, 300] -> [N, 10, 148, 148]."""
        maps: Tensor = self.relu(self.pool(self.conv(inputs)))  # the same numbers, on a quarter of the places
        return maps

    def forward_head(self, maps: Tensor) -> Tensor:
        """[N, 10, 148, 148] -> [N, width]."""
        last: Tensor = self.dense(self.flatten(maps))
        return last

    def embed(self, maps: Tensor) -> Tensor:
        """[N, 10, 148, 148] -> [N, 160]."""
        embedding: Tensor = self.flatten(self.grid(maps))
        return embedding

    def cam(self, maps: Tensor) -> Tensor:
        """[N, 10, 148, 148] -> [N, width, 37, 37]: the dense layer's terms, summed over filters and 4x4 places."""
        # places first, then filters and the 4x4 places as one sum: one map of all places for each class and filter is
        # 88 MB of a photograph at 100 classes
        places = self.side // GRID
        weight = _blocks(self.dense.weight.view(self.width, FILTERS, self.side, self.side), places)
        summed: Tensor = _blocks(maps, places) @ weight.transpose(1, 2)
        return summed.reshape(places, places, -1, self.width).permute(2, 3, 0, 1)


def _blocks(maps: Tensor, places: int) -> Tensor:
    """[N, 10, side, side] -> [places * places, N, 160]: what stands in each block of 4x4."""
    whole = maps[:, :, : places * GRID, : places * GRID].reshape(-1, FILTERS, places, GRID, places, GRID)
    return whole.permute(2, 4, 0, 1, 3, 5).reshape(places**2, -1, FILTERS * GRID**2)
