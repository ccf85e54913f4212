"""On a GPU: the training split's pixels kept in its memory, and augmented there.

3,780 photographs are 1 GB as uint8. No step waits for a decoder, a copy or the CPU's cores.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pawprint.data.augment import AUGMENTATIONS, Kind
from pawprint.data.dataset import Split
from pawprint.training import distributed

SHARE = 0.4  # of the GPU's free memory that photographs may take
CHUNK = 512  # photographs decoded at once
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))  # luma and two axes of hue


def load(split: Split, device: torch.device) -> Tensor | None:
    """The photographs as uint8 [n, size, size, 3] on the GPU; None on the CPU, or where they do not fit."""
    if device.type != "cuda":
        return None
    one = split.images([0])
    if len(split) * one.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels = torch.empty((len(split), *one.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(split), CHUNK):
        part = split.images(range(start, min(start + CHUNK, len(split))))
        pixels[start : start + len(part)] = torch.from_numpy(part).to(device)
    return pixels


def resident(pixels: Tensor, kind: Kind, seed: int, epoch: int) -> Callable[[NDArray[np.int64], int], Tensor]:
    """The dataloader's source of photographs that `load` has read, augmented as in this epoch."""

    def read(indices: NDArray[np.int64], number: int) -> Tensor:
        # All draws are a function of (seed, epoch, batch, rank), so that a resumed training draws the same.
        rng = np.random.default_rng((seed, epoch, number, distributed.rank(), 2))  # step.py: each stream its own
        return augment(pixels[torch.from_numpy(indices).to(pixels.device)], kind, rng)

    return read


def augment(pixels: Tensor, kind: Kind, rng: np.random.Generator) -> Tensor:
    """uint8 [n, h, w, 3] -> the same shape: the distributions of data/augment.py, a batch at a time."""
    if kind == "none":
        return pixels
    count = len(pixels)

    def tensor(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(pixels.device)

    def draw(low: float, high: float, chance: float = 1.0) -> Tensor:
        """[n], uniform in [low, high] with probability `chance`, else 0."""
        return tensor(np.where(rng.random(count) < chance, rng.uniform(low, high, count), 0.0))

    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    if kind == "flip":
        return torch.where((flip < 0)[:, None, None, None], pixels.flip(2), pixels)
    spec = AUGMENTATIONS[kind]
    if spec.crop:  # RandomResizedCrop: the first of ten windows that fits, anywhere inside
        low, up = np.log(spec.ratio)
        area, ratio = rng.uniform(*spec.crop, (10, count)), np.exp(rng.uniform(low, up, (10, count)))
        sides = np.sqrt([area * ratio, area / ratio])
        fits = (sides <= 1).all(0).argmax(0)
        wide, high = (tensor(side[fits, np.arange(count)].clip(max=1)) for side in sides)
        shift_x, shift_y = draw(-1, 1) * (1 - wide), draw(-1, 1) * (1 - high)
        angle = draw(-spec.rotate, spec.rotate, spec.rotate_chance).deg2rad()
    else:  # Affine: all of it or none of it
        chosen = draw(1, 1, spec.rotate_chance)
        wide, high = (1 / (1 + chosen * (draw(*spec.scale) - 1)) for _ in range(2))
        shift_x, shift_y = (chosen * 2 * draw(-spec.shift, spec.shift) for _ in range(2))
        angle = chosen * draw(-spec.rotate, spec.rotate).deg2rad()
    turn = [angle.cos() * flip, -angle.sin(), angle * 0, angle.sin() * flip, angle.cos(), angle * 0]
    inputs = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.stack(turn, dim=1).view(-1, 2, 3), list(inputs.shape), align_corners=False)
    stretched = grid * torch.stack([wide, high], 1)[:, None, None] + torch.stack([shift_x, shift_y], 1)[:, None, None]
    inputs = F.grid_sample(inputs, stretched, padding_mode="zeros", align_corners=False)
    if spec.crop:  # turned after the crop: black beyond the window
        inputs *= (grid.abs().amax(3) <= 1)[:, None]
    chosen = draw(1, 1, spec.colour_chance)
    factors = torch.stack([1 + chosen * draw(-spec.colour, spec.colour) for _ in range(3)])
    return _jitter(inputs, factors, chosen * draw(-spec.hue, spec.hue)).permute(0, 2, 3, 1)


def _jitter(inputs: Tensor, factors: Tensor, hue: Tensor) -> Tensor:
    """float [n, 3, h, w] of 0..255 -> uint8: brightness, contrast, saturation by `factors` [3, n], hue by `hue` [n]."""
    brightness, contrast, saturation = factors[:, :, None, None, None]
    to_yiq = torch.tensor(_YIQ, device=inputs.device)
    grey = to_yiq[0, :, None, None]
    inputs = (inputs * brightness).clamp(0, 255)
    mean = (inputs * grey).sum(1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    inputs = torch.lerp(mean, inputs, contrast).clamp(0, 255)
    inputs = torch.lerp((inputs * grey).sum(1, keepdim=True), inputs, saturation).clamp(0, 255)
    angle = hue * 2 * torch.pi
    turn = torch.eye(3, device=inputs.device).repeat(len(inputs), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    turned = torch.einsum("nij,njhw->nihw", to_yiq.inverse() @ turn @ to_yiq, inputs)
    return turned.clamp(0, 255).round().to(torch.uint8)
