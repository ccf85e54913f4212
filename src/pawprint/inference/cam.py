"""Heat map of a prediction: its class-activation map over the picture (Zhou et al., 2016)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint.image import Pixels

_OPACITY = 0.5


def heat_map(activation: NDArray[np.float32], label: int, size: int) -> NDArray[np.float32]:
    """[classes or 1, h, w] -> the evidence for class `label`, [size, size] in 0..1; the hottest place is 1.

    A map of one plane is the log-odds of the second of two classes: for the first it is negated.
    """
    plane = activation[label] if len(activation) > 1 else activation[0] * (1 if label else -1)
    heat = np.maximum(plane, 0).astype(np.float32)
    heat /= max(float(heat.max()), 1e-6)
    return np.asarray(np.clip(cv2.resize(heat, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1), np.float32)


def overlay(pixels: Pixels, activation: NDArray[np.float32], label: int) -> bytes:
    """RGB uint8 [size, size, 3] and its activation -> a PNG of the picture under the heat map of class `label`."""
    colours = cv2.applyColorMap((heat_map(activation, label, len(pixels)) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    blended = cv2.addWeighted(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), 1 - _OPACITY, colours, _OPACITY, 0)
    return bytes(cv2.imencode(".png", blended)[1])
