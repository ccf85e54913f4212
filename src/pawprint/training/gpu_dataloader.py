"""On a GPU: the training split's pixels kept in its memory, and augmented there.

3,780 photographs are 1 GB as uint8. No step waits for a decoder, a copy or the CPU's cores.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pawprint.data.augment import AUGMENTATIONS, Kind
from pawprint.data.dataset import Split
from pawprint.training import distributed
from pawprint.training.dataloader import Batch, chunks

SHARE = 0.4  # of the GPU's free memory that photographs may take
CHUNK = 512  # photographs decoded at once
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))  # luma and two axes of hue


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
    pixels: Tensor, split: Split, order: list[NDArray[np.int64]], kind: Kind, seed: tuple[int, int, int]
) -> Iterator[Batch]:
    """This process's share of each batch, augmented; `seed` is (seed, epoch, batches before the first)."""
    run, epoch, before = seed
    labels = torch.from_numpy(split.labels).to(pixels.device)
    for number, batch in enumerate(order, start=before):
        indices = distributed.share(batch)
        rows = torch.from_numpy(indices).to(pixels.device)
        # All draws are a function of (seed, epoch, batch, rank), so that a resumed training draws the same.
        rng = np.random.default_rng((run, epoch, number, distributed.rank()))
        yield Batch(augment(pixels[rows], kind, rng), labels[rows], indices, len(batch))


def augment(pixels: Tensor, kind: Kind, rng: np.random.Generator) -> Tensor:
    """uint8 [n, h, w, 3] -> the same shape: the distributions of data/augment.py, a batch at a time."""
    if kind == "none":
        return pixels
    count = len(pixels)

    def draw(low: float, high: float, chance: float = 1.0, neutral: float = 0.0) -> Tensor:
        """[n], uniform in [low, high] with probability `chance`, else `neutral`."""
        values = np.where(rng.random(count) < chance, rng.uniform(low, high, count), neutral)
        return torch.from_numpy(values.astype(np.float32)).to(pixels.device)

    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    if kind == "flip":
        return torch.where((flip < 0)[:, None, None, None], pixels.flip(2), pixels)
    spec = AUGMENTATIONS[kind]
    if spec.crop:  # RandomResizedCrop: a window of this share of the area and this ratio, anywhere inside
        area, ratio = draw(*spec.crop), draw(*(float(np.log(bound)) for bound in spec.ratio)).exp()
        wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        shift_x, shift_y = draw(-1, 1) * (1 - wide), draw(-1, 1) * (1 - high)
        angle = draw(-spec.rotate, spec.rotate, spec.rotate_chance).deg2rad()
    else:  # Affine: all of it or none of it
        chosen = draw(1, 1, spec.rotate_chance) > 0
        low, up = spec.scale
        wide, high = (torch.where(chosen, 1 / draw(low, up), 1.0) for _ in range(2))
        shift_x, shift_y = (torch.where(chosen, 2 * draw(-spec.shift, spec.shift), 0.0) for _ in range(2))
        angle = torch.where(chosen, draw(-spec.rotate, spec.rotate), 0.0).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * wide * flip, -sin * wide, shift_x], 1),
        torch.stack([sin * high * flip, cos * high, shift_y], 1),
    ]
    inputs = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.stack(rows, dim=1), list(inputs.shape), align_corners=False)
    inputs = F.grid_sample(inputs, grid, padding_mode="zeros", align_corners=False)
    return _colour_jitter(inputs, spec.colour, spec.hue, spec.colour_chance, draw).permute(0, 2, 3, 1)


def _colour_jitter(inputs: Tensor, colour: float, hue: float, chance: float, draw: Callable[..., Tensor]) -> Tensor:
    """float [n, 3, h, w] of 0..255 -> uint8: brightness, contrast, saturation within 1 +- `colour`, hue by a turn."""
    chosen = draw(1, 1, chance) > 0
    brightness, contrast, saturation = (
        torch.where(chosen, draw(1 - colour, 1 + colour), 1.0)[:, None, None, None] for _ in range(3)
    )
    turn = torch.where(chosen, draw(-hue, hue), 0.0) * 2 * torch.pi
    inputs = (inputs * brightness).clamp(0, 255)
    grey = torch.tensor(_YIQ[0], device=inputs.device)[:, None, None]
    mean = (inputs * grey).sum(1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    inputs = (mean + (inputs - mean) * contrast).clamp(0, 255)
    luma = (inputs * grey).sum(1, keepdim=True)
    inputs = (luma + (inputs - luma) * saturation).clamp(0, 255)
    to_yiq = torch.tensor(_YIQ, device=inputs.device)
    rotation = torch.eye(3, device=inputs.device).repeat(len(inputs), 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = turn.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -turn.sin(), turn.sin()
    matrix = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return torch.einsum("nij,njhw->nihw", matrix, inputs).clamp(0, 255).round().to(torch.uint8)
