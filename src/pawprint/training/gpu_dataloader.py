"""On a GPU: the training split's pixels kept in its memory, and varied there.

3,780 photographs are 1 GB as uint8. Held on the GPU no step waits for a decoder, a copy or the CPU's cores.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pawprint.data.dataset import Split
from pawprint.training import distributed
from pawprint.training.dataloader import Batch, chunks

SHARE = 0.4  # of the GPU's free memory that photographs may take
CHUNK = 512  # photographs decoded at once

Kind = Literal["none", "flip", "standard", "strong"]


def load(splits: Mapping[str, Split], device: torch.device) -> Tensor | None:
    """The training split as uint8 [n, 300, 300, 3] on the GPU; None on the CPU, or where it does not fit."""
    if device.type != "cuda":
        return None
    split = splits["train"]
    one = split.images([0])
    if len(split) * one.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels = torch.empty((len(split), *one.shape[1:]), dtype=torch.uint8, device=device)
    for indices in chunks(np.arange(len(split)), CHUNK):
        pixels[indices[0] : indices[-1] + 1] = torch.from_numpy(split.images(indices)).to(device)
    return pixels


def batches(
    pixels: Tensor, split: Split, pieces: list[NDArray[np.int64]], kind: Kind, seed: tuple[int, int, int]
) -> Iterator[Batch]:
    """This process's share of each piece, varied; `seed` is (seed, epoch, batches before the first piece)."""
    run, epoch, before = seed
    labels = torch.from_numpy(split.labels).to(pixels.device)
    for number, piece in enumerate(pieces, start=before):
        indices = distributed.share(piece)
        rows = torch.from_numpy(indices).to(pixels.device)
        # Every draw is a function of (seed, epoch, batch, rank), so that one that goes on draws the same.
        rng = np.random.default_rng((run, epoch, number, distributed.rank()))
        yield Batch(vary(pixels[rows], kind, rng), labels[rows], indices, len(piece))


def vary(pixels: Tensor, kind: Kind, rng: np.random.Generator) -> Tensor:
    """uint8 [n, h, w, 3] -> the same shape: what prepared/augment.py does one by one, a batch at a time.

    `strong` takes a part of the photograph between 35 and 100 % of its area, as is usual from scratch (Szegedy
    et al., Going Deeper with Convolutions, 2014), and stronger colours.
    """
    if kind == "none":
        return pixels
    count = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32)).to(pixels.device)

    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    if kind == "flip":
        return torch.where((flip < 0)[:, None, None, None], pixels.flip(2), pixels)
    if kind == "standard":
        scale, angle, reach, colour = draw(1 / 1.15, 1 / 0.85), draw(-12, 12).deg2rad(), 0.12, 0.2
        stretch = torch.ones_like(scale)
    else:
        scale, angle, colour = draw(0.35, 1).sqrt(), draw(-10, 10).deg2rad(), 0.4
        stretch, reach = draw(-0.14, 0.14).exp(), 0.0
    room = (1 - scale).clamp(min=0) + reach
    shift_x, shift_y = draw(-1, 1) * room, draw(-1, 1) * room
    cos, sin = angle.cos() * scale, angle.sin() * scale
    where = torch.stack(
        [
            torch.stack([cos * stretch * flip, -sin, shift_x], dim=1),
            torch.stack([sin * flip, cos / stretch, shift_y], dim=1),
        ],
        dim=1,
    )
    inputs = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(where, list(inputs.shape), align_corners=False)
    inputs = F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation = (draw(1 - colour, 1 + colour)[:, None, None, None] for _ in range(3))
    inputs = inputs * brightness
    inputs = (inputs - inputs.mean(dim=(1, 2, 3), keepdim=True)) * contrast + inputs.mean(dim=(1, 2, 3), keepdim=True)
    grey = inputs.mean(dim=1, keepdim=True)
    inputs = grey + (inputs - grey) * saturation
    return inputs.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)
