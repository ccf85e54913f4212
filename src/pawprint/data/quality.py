"""Checks of a photograph by itself: whether it is rejected, and why. `duplicates` looks at all together.

check(Path("cat.jpg").read_bytes(), ".jpg", params.preprocess)   # pixels, flags, perceptual hashes; or BadImage
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.config import Preprocess

BLANK = 3.0  # standard deviation of the grey levels; a lens cap has 1 to 2, fog about 8
BITS = 144  # of a perceptual hash: nine words of 16 bits
_SIDE = 60  # pixels of a side, from which cut pictures are hashed
_EVEN = 16  # grey levels in which the pixels of a border of one colour differ at most


@dataclass(frozen=True, slots=True)
class Rejected:
    """A photograph that is not used, and why."""

    path: Path
    hash: str  # SHA-256 of its bytes
    reason: str  # a short code: BadImage's, or blank, tiny, copy, near_copy, two_labels
    message: str


@dataclass(frozen=True)
class CheckResult:
    """The check of one photograph by itself."""

    pixels: image.Pixels  # uint8 [size, size, 3]
    flags: str  # what was converted, words with spaces between: "cmyk wrong_extension"
    phash: str  # hex of BITS bits; similar pictures have similar ones
    cuts: bytes  # CUTS perceptual hashes of it with its edges cut off


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph in the set."""

    hash: str  # SHA-256 of its bytes
    label: str
    origin: str  # path below data/
    path: Path
    split: str
    group: str  # "": it is by itself
    flags: str
    phash: str
    cuts: bytes


def check(data: bytes, suffix: str, preprocess: Preprocess) -> CheckResult:
    """Check and resize one photograph, given its bytes and its file's suffix.

    Raises:
        BadImage: as image.decode does, and `tiny` or `blank`.
    """
    header = image.inspect(data)
    if min(header.width, header.height) < preprocess.min_side:
        raise image.BadImage(
            "tiny", f"it is {header.width}x{header.height}; a side has at least {preprocess.min_side} pixels"
        )
    pixels = image.resize(image.decode(data, preprocess.max_pixels, preprocess.size), preprocess.fit, preprocess.size)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    for size in (150, 30):  # whole steps, in which INTER_AREA is fast
        grey = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)
    if cv2.meanStdDev(grey)[1].item() < BLANK:
        raise image.BadImage("blank", "it shows one colour and nothing else")
    flags = [*_flags(header, suffix), *([f"{image.bits_used(data)}-bit"] if header.deep else [])]
    return CheckResult(pixels, " ".join(flags), _phash(grey), _cuts(pixels))


def _flags(header: image.Header, suffix: str) -> Iterable[str]:
    if header.frames > 1 and header.format != "MPO":  # a camera's MPO holds a preview, not a film
        yield "animated"
    if header.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        yield "alpha"
    if header.mode == "CMYK":
        yield "cmyk"
    if header.deep:
        yield "deep"
    if header.mode in ("1", "L", "LA"):
        yield "grey"
    if header.orientation not in (0, 1):
        yield "rotated"
    if suffix.lower() not in image.SUFFIXES_BY_FORMAT.get(header.format, (suffix.lower(),)):
        yield "wrong_extension"


def _phash(grey: NDArray[np.uint8]) -> str:
    """Signs of the 144 lowest frequencies of grey [30, 30]: the same for a copy that was scaled or compressed."""
    frequencies = cv2.dct(grey.astype(np.float32))
    return np.packbits(frequencies.take(_LOWEST) >= 0).tobytes().hex()


_LOWEST = np.argsort(np.indices((30, 30)).sum(0), axis=None, kind="stable")[1 : BITS + 1]  # the first is the mean


_ROWS, _COLUMNS = np.unravel_index(_LOWEST, (30, 30))
MIRROR = np.packbits(_COLUMNS % 2 == 1)  # the bits that a mirror image has turned round


def _cosines(start: float, size: float) -> NDArray[np.float32]:
    """The lowest frequencies of a part of a side [17, _SIDE]; pixels that lie on its ends count by their share."""
    first, last, pixel = start * _SIDE, (start + size) * _SIDE, np.arange(_SIDE)
    inside = np.clip(np.minimum(pixel + 1, last) - np.maximum(pixel, first), 0, 1)
    place = (pixel + 0.5 - first) / (last - first)
    return np.asarray(inside * np.cos(np.pi * np.arange(_COLUMNS.max() + 1)[:, None] * place), np.float32)


_PARTS = [(0.0, 1.0)] + [(place * (1 - size), size) for size in (0.95, 0.9) for place in (0, 0.5, 1)]
_WAVES = np.stack([_cosines(*part) for part in _PARTS])
_PAIRS = np.array([
    (y, x) for y, (_, high) in enumerate(_PARTS) for x, (_, wide) in enumerate(_PARTS)
    if high == wide < 1 or {high, wide} == {1, 0.95}
])  # fmt: skip
CUTS = len(_PAIRS) + 1


def _cuts(pixels: image.Pixels) -> bytes:
    """CUTS perceptual hashes: of parts of the picture, and of what is inside a border of one colour."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    # A product a cut: BLAS takes threads of its own for a larger one, and they wait for each other 50 times as long.
    high, wide = _PAIRS.T
    cut = ((_WAVES @ small)[high] @ _WAVES[wide].swapaxes(1, 2))[:, _ROWS, _COLUMNS]
    rows, columns = (_cosines(*_inside(sides)) for sides in (grey, grey.T))
    inside = (rows @ small @ columns.T)[_ROWS, _COLUMNS]
    return np.packbits(np.vstack([cut, inside]) >= 0, axis=1).tobytes()


def _inside(grey: NDArray[np.uint8]) -> tuple[float, float]:
    """(start, size) of the rows of grey [n, m] that are no border of one colour, as shares of n; all of them where a
    quarter or more would go."""
    even = np.ptp(grey.astype(np.int16), axis=1) <= _EVEN
    first, last = (int(np.argmin(side)) for side in (even, even[::-1]))
    if even.all() or max(first, last) >= len(grey) / 4:
        return 0.0, 1.0
    return first / len(grey), (len(grey) - first - last) / len(grey)
