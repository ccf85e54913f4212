"""The embedded sample: 200 drawn cats and 200 drawn dogs, the same bytes from the same seed.

    python scripts/make_sample.py data        # data/cat/*.jpg, data/dog/*.jpg, data/dataset.json

They are there so that the machinery can be tried with no network, and say nothing about real photographs. Both
kinds share coats, poses, places and clutter; what tells them apart is shape (ears, muzzle, eyes, whiskers,
tail), so that a linear model on raw pixels does not get far.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

SEED = 2017
PER_CLASS = 200
QUALITY = 82
# The text of `source` is part of the sample that data.dvc names: it keeps the name of an earlier module.
DATASET = {"name": "sample", "drawn": True, "source": f"pawprint.photos.drawn, seed {SEED}"}

Kind = Literal["cat", "dog"]
Colour = tuple[int, int, int]
Canvas = NDArray[np.uint8]
Points = NDArray[np.float64]

COATS: tuple[Colour, ...] = (
    (214, 138, 66), (120, 118, 122), (48, 44, 46), (236, 230, 220), (128, 84, 52), (224, 196, 150),
    (86, 66, 56), (170, 164, 160), (188, 108, 60), (66, 70, 82),
)  # fmt: skip
EYES: dict[Kind, tuple[Colour, ...]] = {
    "cat": ((150, 180, 60), (214, 172, 40), (110, 160, 190), (96, 150, 90)),
    "dog": ((92, 56, 28), (60, 38, 24), (120, 80, 40), (110, 150, 180)),
}
PINK, TONGUE, INK = (226, 150, 150), (222, 92, 104), (24, 20, 20)


def sample(seed: int = SEED, per_class: int = PER_CLASS) -> Iterator[tuple[str, bytes]]:
    """(path below data/, JPEG bytes) of every photograph; each depends on its own number and the seed only."""
    kinds: tuple[Kind, ...] = ("cat", "dog")
    for label, kind in enumerate(kinds):
        for number in range(per_class):
            pixels = draw(kind, np.random.default_rng([seed, label, number]))
            jpeg = simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorspace="RGB", colorsubsampling="420")
            yield f"{kind}/{number:03d}.jpg", jpeg


def draw(kind: Kind, rng: np.random.Generator) -> Canvas:
    """One drawing, RGB uint8 [height, width, 3], 220 to 420 pixels a side."""
    height, width = (int(side) for side in rng.integers(220, 421, 2))
    canvas = _place(height * 2, width * 2, rng)  # drawn at twice the size, shrunk at the end: smooth edges
    for _ in range(rng.integers(2, 7)):
        _clutter(canvas, rng)
    _animal(canvas, kind, rng)
    if rng.random() < 0.3:
        _clutter(canvas, rng, at_edge=True)
    canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return _light(canvas, rng)


def write(folder: Path, seed: int = SEED, per_class: int = PER_CLASS) -> None:
    """The whole sample as a data folder: photographs by class and dataset.json."""
    for path, jpeg in sample(seed, per_class):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(jpeg)
    (folder / "dataset.json").write_text(json.dumps(DATASET, indent=2) + "\n", encoding="utf-8")


class _Pen:
    """Draws in the animal's own units: origin at the head's centre, 1 = half a head, y down, mirrored or not."""

    def __init__(self, canvas: Canvas, centre: tuple[float, float], unit: float, angle: float, mirror: bool) -> None:
        self.canvas, self.unit = canvas, unit
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.matrix = turn @ np.diag([-unit if mirror else unit, unit])
        self.centre = np.array(centre)

    def shape(self, points: Points, colour: Colour) -> None:
        cv2.fillPoly(self.canvas, [self._pixels(points)], colour, cv2.LINE_AA, shift=4)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, tilt: float = 0.0) -> None:
        self.shape(_oval(x, y, rx, ry, tilt), colour)

    def line(self, points: Points, colour: Colour, thickness: float) -> None:
        pixels = max(1, round(thickness * self.unit))
        cv2.polylines(self.canvas, [self._pixels(points)], False, colour, pixels, cv2.LINE_AA, shift=4)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        pixels: NDArray[np.int32] = np.round((points @ self.matrix.T + self.centre) * 16).astype(np.int32)
        return pixels


def _animal(canvas: Canvas, kind: Kind, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    unit = min(height, width) * rng.uniform(0.15, 0.34)
    centre = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.62))
    pen = _Pen(canvas, centre, unit, rng.uniform(-0.5, 0.5), bool(rng.random() < 0.5))
    coat = COATS[rng.integers(len(COATS))]
    second = COATS[rng.integers(len(COATS))]
    if rng.random() < 0.75:
        _body(pen, kind, coat, second, rng)
    head: Callable[..., None] = _cat_head if kind == "cat" else _dog_head
    head(pen, coat, second, rng)


def _body(pen: _Pen, kind: Kind, coat: Colour, second: Colour, rng: np.random.Generator) -> None:
    """A sitting or lying body behind the head; the tail tells a little, the rest nothing."""
    dark = _shade(coat, 0.82)
    lean = rng.uniform(-0.5, 0.9)
    long = rng.uniform(1.5, 2.4)
    lying = rng.random() < 0.4
    middle = (lean + long * 0.7, 1.3) if lying else (lean, 1.2 + long * 0.5)
    if kind == "cat":
        curl = np.linspace(0, rng.uniform(2.2, 4.0), 24)
        tail = np.stack([middle[0] + 0.9 + 0.8 * np.sin(curl), middle[1] + 0.9 - 0.55 * curl], 1)
        pen.line(tail, dark, 0.24)
    else:
        wag = rng.uniform(-0.9, 0.2)
        pen.shape(np.array([[middle[0] + 0.6, middle[1] + 0.5], [middle[0] + 0.9, middle[1] + 0.9],
                            [middle[0] + 1.9, middle[1] + wag]]), dark)  # fmt: skip
    if lying:
        pen.oval(*middle, long, 0.95, dark)
        for paw in (-0.5, 0.3):
            pen.oval(paw + lean * 0.3, 1.95, 0.42, 0.24, coat)
    else:
        pen.oval(*middle, 1.1, long, dark)
        for side in (-0.45, 0.45):
            pen.oval(middle[0] + side, middle[1] + long * 0.55, 0.27, 0.9, coat)
            pen.oval(middle[0] + side, middle[1] + long * 0.55 + 0.85, 0.36, 0.2, second)
    if rng.random() < 0.5:
        pen.oval(lean * 0.6, 1.45, 0.5, 0.6, second)  # the bib
    _fur(pen, middle, coat, rng)


def _cat_head(pen: _Pen, coat: Colour, second: Colour, rng: np.random.Generator) -> None:
    wide = rng.uniform(0.95, 1.12)
    point = rng.uniform(1.35, 1.75)
    for side in (-1, 1):
        root_in, root_out, tip = (side * 0.2 * wide, -0.7), (side * 0.98 * wide, -0.15), (side * 0.85 * wide, -point)
        pen.shape(np.array([root_in, tip, root_out]), _shade(coat, 0.8))
        inner = np.array([root_in, tip, root_out]) * 0.72 + np.array([side * 0.2, -0.17])
        pen.shape(inner, PINK)
    pen.oval(0, 0, wide, 0.88, coat)
    if rng.random() < 0.6:  # tabby
        dark = _shade(coat, 0.6) if sum(coat) > 200 else _shade(coat, 1.9)
        for x in (-0.3, 0.0, 0.3):
            pen.line(np.array([[x, -0.82], [x * 0.7, -0.45]]), dark, 0.09)
        for side in (-1, 1):
            for y in (0.05, 0.28):
                pen.line(np.array([[side * 0.95 * wide, y], [side * 0.62 * wide, y + 0.04]]), dark, 0.07)
    _fur(pen, (0.0, 0.0), coat, rng)
    look = rng.uniform(-0.06, 0.06)
    eye = EYES["cat"][rng.integers(len(EYES["cat"]))]
    slit = rng.uniform(0.04, 0.12)
    for side in (-1, 1):
        pen.oval(side * 0.42, -0.12, 0.25, 0.19, INK, side * 0.25)
        pen.oval(side * 0.42, -0.12, 0.22, 0.16, eye, side * 0.25)
        pen.oval(side * 0.42 + look, -0.12, slit, 0.16, INK)
        pen.oval(side * 0.42 + look + 0.05, -0.17, 0.035, 0.035, (250, 250, 250))
        pen.oval(side * 0.17, 0.36, 0.25, 0.19, second)
    pen.shape(np.array([[-0.12, 0.17], [0.12, 0.17], [0.0, 0.31]]), PINK if rng.random() < 0.7 else INK)
    for side in (-1, 1):
        pen.line(np.array([[0, 0.3], [side * 0.08, 0.44], [side * 0.22, 0.44]]), INK, 0.035)
        for spread in (-0.14, 0.0, 0.14):
            whiskers = np.array([[side * 0.26, 0.34 + spread * 0.4], [side * 1.35, 0.3 + spread * 2.2]])
            pen.line(whiskers, (238, 236, 230) if sum(second) < 480 else (90, 84, 80), 0.025)


def _dog_head(pen: _Pen, coat: Colour, second: Colour, rng: np.random.Generator) -> None:
    wide = rng.uniform(0.78, 0.98)
    hang = rng.uniform(0.55, 1.0)
    pen.oval(0, -0.05, wide, 1.0, coat)
    if rng.random() < 0.5:  # a patch over one eye
        pen.oval(0.36, -0.25, 0.36, 0.42, second)
    for side in (-1, 1):
        pen.oval(side * (wide + 0.08), hang * 0.25, 0.3, 0.5 + hang * 0.35, _shade(coat, 0.68), side * -0.22)
    _fur(pen, (0.0, 0.0), coat, rng)
    muzzle = rng.uniform(0.42, 0.56)
    pale = second if rng.random() < 0.5 else _shade(coat, 1.25)
    if rng.random() < 0.5:
        out = rng.uniform(0.1, 0.5)
        pen.oval(0.05, 0.72 + out * 0.5, 0.17, 0.2 + out * 0.4, TONGUE)
    pen.oval(0, 0.45, muzzle, 0.48, pale)
    eye = EYES["dog"][rng.integers(len(EYES["dog"]))]
    look = rng.uniform(-0.04, 0.04)
    for side in (-1, 1):
        pen.oval(side * 0.36, -0.24, 0.17, 0.18, INK)
        pen.oval(side * 0.36, -0.24, 0.14, 0.15, eye)
        pen.oval(side * 0.36 + look, -0.23, 0.09, 0.1, INK)
        pen.oval(side * 0.36 + look + 0.04, -0.29, 0.035, 0.035, (250, 250, 250))
        pen.line(np.array([[0, 0.4], [side * 0.03, 0.66], [side * 0.3, 0.74]]), INK, 0.045)
    pen.oval(0, 0.24, 0.23, 0.16, INK)
    pen.oval(-0.07, 0.19, 0.06, 0.035, (120, 116, 116))


def _fur(pen: _Pen, middle: tuple[float, float], coat: Colour, rng: np.random.Generator) -> None:
    """Short strokes in neighbouring shades."""
    for _ in range(40):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.85)
        start = np.array([middle[0] + radius * np.cos(angle), middle[1] + radius * 0.85 * np.sin(angle)])
        stroke = np.stack([start, start + rng.uniform(-0.06, 0.06, 2) + (0, 0.1)])
        pen.line(stroke, _shade(coat, rng.uniform(0.8, 1.2)), 0.03)


def _place(height: int, width: int, rng: np.random.Generator) -> Canvas:
    """Wall, meadow, stripes, tiles or a soft blur of colours."""
    first, second = (rng.integers(30, 235, 3) for _ in range(2))
    rows = np.linspace(0, 1, height)[:, None, None]
    columns = np.linspace(0, 1, width)[None, :, None]
    style = rng.integers(5)
    if style == 0:  # wall and floor
        mix = np.broadcast_to((rows > rng.uniform(0.45, 0.8)).astype(float), (height, width, 1))
    elif style == 1:  # slanted gradient
        mix = rows * rng.random() + columns * rng.random()
    elif style == 2:  # stripes
        mix = ((rows * rng.uniform(0, 8) + columns * rng.uniform(0, 8)) % 1 > 0.5).astype(float)
    elif style == 3:  # tiles
        mix = ((rows * rng.integers(3, 9)).astype(int) + (columns * rng.integers(3, 9)).astype(int)) % 2 * 1.0
    else:  # soft blobs
        mix = cv2.resize(rng.random((4, 4)), (width, height), interpolation=cv2.INTER_LINEAR)[:, :, None]
    blend: Canvas = np.round(first * (1 - mix) + second * mix).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(blend)


def _clutter(canvas: Canvas, rng: np.random.Generator, at_edge: bool = False) -> None:
    """A ball, a box, a stick, a leaf (pointed or round, so that no shape alone gives the animal away)."""
    height, width = canvas.shape[:2]
    spot = [width * rng.random(), height * rng.random()]
    if at_edge:
        spot[1] = height * rng.uniform(0.93, 1.0)
    pen = _Pen(canvas, (spot[0], spot[1]), min(height, width) * rng.uniform(0.04, 0.16), rng.uniform(0, 6.3), False)
    red, green, blue = (int(level) for level in rng.integers(20, 240, 3))
    colour = (red, green, blue)
    match rng.integers(5):
        case 0:
            pen.oval(0, 0, 1, rng.uniform(0.4, 1), colour)
        case 1:
            pen.shape(np.array([[-1, -0.7], [1, -0.7], [1, 0.7], [-1, 0.7]]), colour)
        case 2:
            pen.line(np.array([[-2.5, 0], [2.5, rng.uniform(-1, 1)]]), colour, 0.25)
        case 3:
            pen.shape(np.array([[-0.8, 0.6], [0.0, -1.2], [0.8, 0.6]]), colour)
        case _:
            pen.shape(_oval(0, 0, 1.4, 0.35, 0.0), colour)
            pen.line(np.array([[-1.4, 0.0], [1.4, 0.0]]), _shade(colour, 0.6), 0.06)


def _light(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    """Uneven light, a little blur and grain, as a camera would add."""
    height, width = canvas.shape[:2]
    lamp = cv2.resize(rng.uniform(0.7, 1.25, (2, 2)), (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (3, 3), 0)
    grain = rng.normal(0, rng.uniform(0, 3), (height, width, 1))
    lit: Canvas = np.round(canvas * lamp[:, :, None] + grain).clip(0, 255).astype(np.uint8)
    return lit


def _oval(x: float, y: float, rx: float, ry: float, tilt: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    across, down = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack(
        [x + across * np.cos(tilt) - down * np.sin(tilt), y + across * np.sin(tilt) + down * np.cos(tilt)], 1
    )


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(level * factor)) for level in colour)
    return red, green, blue


if __name__ == "__main__":
    write(Path(sys.argv[1]))
