"""Where the model looked: its class activation over the picture, as a PNG."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint.image import SIZE, Pixels

_OPACITY = 0.5


def overlay(pixels: Pixels, activation: NDArray[np.float32], label: int) -> bytes:
    """RGB uint8 [300, 300, 3] and [classes or 1, h, w] -> a PNG of the picture under the heat of class `label`.

    A map of one channel speaks for the second of two classes, as a single logit does; for the first it is turned
    round. Heat is relative to the picture: its hottest place is always red, and what speaks against is cold.
    """
    plane = activation[label] if len(activation) > 1 else activation[0] * (1 if label else -1)
    heat = np.maximum(plane, 0).astype(np.float32)
    heat /= max(float(heat.max()), 1e-6)
    scaled = cv2.resize(heat, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    colours = cv2.applyColorMap((np.clip(scaled, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    blended = cv2.addWeighted(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), 1 - _OPACITY, colours, _OPACITY, 0)
    return bytes(cv2.imencode(".png", blended)[1])
