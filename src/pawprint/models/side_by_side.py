"""Several pretrained networks side by side, with one linear head on all their embeddings.

    network = SideBySide(classes=2, members=[EfficientNetLite0(2), EfficientNetLite2(2)])

Each takes the photograph as it is used to. Feature maps of different shapes travel as one row a photograph.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pawprint.models.backbone import LinearHead, Network


class SideBySide(LinearHead):
    """The embeddings of all members, one behind the other; the head's dropout is all that is in training mode."""

    pretrained, maps_can_be_cached = True, False
    scale = 1.0  # members normalize

    def __init__(self, classes: int, members: Sequence[Network]) -> None:
        super().__init__(classes, sum(one.features for one in members), members[0].size, dropout=0.2)
        for one in members:
            del one.head
        self.members = nn.ModuleList(members)
        black = torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8)
        with torch.inference_mode():
            shapes = [one.eval().forward_features(one.normalise(black)).shape[1:] for one in members]
        self.shapes = [tuple(shape) for shape in shapes]

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Pixels as floats [N, 3, 300, 300] -> the members' maps, flattened, [N, k]."""
        pixels = inputs.permute(0, 2, 3, 1)
        maps = [one.forward_features(one.normalise(pixels.clone())) for one in self.sides]
        return torch.cat([one.flatten(1) for one in maps], dim=1)

    def embed(self, maps: Tensor) -> Tensor:
        """[N, k] -> [N, features]."""
        return torch.cat([one.embed(part) for one, part in zip(self.sides, self._parts(maps), strict=True)], dim=1)

    def cam(self, maps: Tensor) -> Tensor:
        """[N, k] -> [N, width, h, w]: the sum of the members' maps, on the finest of their grids."""
        members, weights = self.sides, torch.split(self.head.weight, [one.features for one in self.sides], dim=1)
        found = [
            one.cam_of(part, weight) for one, part, weight in zip(members, self._parts(maps), weights, strict=True)
        ]
        finest = max((one.shape[2:] for one in found), key=math.prod)
        same = [one if one.shape[2:] == finest else F.interpolate(one, finest, mode="bilinear") for one in found]
        return torch.stack(same).sum(dim=0)

    def unfreeze_last(self, blocks: int) -> list[nn.Parameter]:
        """Only the head is trained."""
        assert not blocks
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        return []

    def forward_frozen(self, inputs: Tensor, blocks: int) -> Tensor:
        """Pixels as floats [N, 3, 300, 300] -> the embedding [N, features]."""
        assert not blocks
        return self.embed(self.forward_features(inputs))

    def load_pretrained(self) -> None:
        """Read the weights of every member."""
        for one in self.sides:
            one.load_pretrained()

    def train(self, mode: bool = True) -> Self:
        """Training mode of the dropout alone."""
        super().train(mode)
        self.members.eval()
        return self

    @property
    def sides(self) -> list[Network]:
        """The members."""
        return [one for one in self.members if isinstance(one, Network)]

    def _parts(self, maps: Tensor) -> list[Tensor]:
        parts = torch.split(maps, [math.prod(shape) for shape in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
