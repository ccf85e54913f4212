"""How a photograph becomes 300x300: squash against letterbox, today's reduction against two others, by folds and seeds.

    python benchmarks/reductions.py data [--folds 5] [--seeds 3] [--work DIR] [--out docs/RESULTS.md]

`data` is a folder as `pawprint photos import` leaves it. Each way prepares its own set and computes its own features
below `--work`; then lite0's head is trained and tested on five folds, which are others for each seed (the head itself
has no randomness). What is done is kept there, so that a run that was stopped goes on.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from common import RESULTS
from folds import COLUMNS, FOLDS, row, scores, show, tested
from pawprint import image
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.dataset import PreparedDataset

Answer = tuple[int, list[float]]  # class, probabilities
Scale = Callable[[image.Pixels, int, int], image.Pixels]  # of pixels, height, width


def area(pixels: image.Pixels, height: int, width: int) -> image.Pixels:
    by = cv2.INTER_AREA if height <= pixels.shape[0] and width <= pixels.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=by), np.uint8)


def pillow(pixels: image.Pixels, height: int, width: int) -> image.Pixels:
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


FIRST = "squash, today's"
WAYS: dict[str, tuple[image.Fit, Scale]] = {
    FIRST: ("squash", image._scale),
    "squash, INTER_AREA": ("squash", area),
    "squash, Pillow's bilinear": ("squash", pillow),
    "letterbox, today's": ("letterbox", image._scale),
}


def answers(way: str, arguments: argparse.Namespace) -> tuple[PreparedDataset, list[dict[str, Answer]]]:
    """The prepared set, and of each seed the predictions by photograph."""
    fit, image._scale = WAYS[way]  # type: ignore[assignment]  # here its parameters have no names
    folder = arguments.work / way.replace(" ", "-").replace(",", "").replace("'", "")
    os.environ["PAWPRINT_CACHE"] = str(folder / "cache")  # a feature's key does not know of another reduction
    params = load_params()
    how = params.preprocess.model_copy(update={"fit": fit})
    if not (folder / "prepared").exists():
        folder.mkdir(parents=True, exist_ok=True)
        changed = params.model_copy(update={"preprocess": how})
        prepare(ingest.dataset(arguments.data), arguments.data, folder / "prepared", changed)
    data, seeds = PreparedDataset.open(folder / "prepared"), []
    for seed in range(arguments.seeds):
        found: dict[str, Answer] = {}
        for number in range(arguments.folds):
            found |= tested("lite0_head", data, number, seed, folder)["said"]
        seeds.append(found)
    return data, seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", type=int, default=FOLDS, help="stop after so many, where time is short")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=RESULTS / "reductions", help="for prepared sets and features")
    parser.add_argument("--out", type=Path, help="a Markdown file, in which the table replaces its earlier one")
    arguments = parser.parse_args()
    asked = {way: answers(way, arguments) for way in WAYS}
    data = asked[FIRST][0]
    rows: list[tuple[str, ...]] = [COLUMNS]
    for seed in range(arguments.seeds):
        # a photograph that one way rejects, as a near copy say, is in no row
        hashes = sorted(set.intersection(*(set(seeds[seed]) for _, seeds in asked.values())))
        said = {way: scores(seeds[seed], hashes, data.classes) for way, (_, seeds) in asked.items()}
        rows += [row(f"{way}, seed {seed}", one, said[FIRST]) for way, one in said.items()]
    title = f"reductions, {len(hashes):,} photographs, each tested once a seed ({arguments.folds} of {FOLDS} folds)"
    about = ["written by: `python benchmarks/reductions.py`; the last columns compare with today's of the same seed"]
    show(rows, title, f"reductions {data.dataset}", data.dataset, about, arguments.out)


if __name__ == "__main__":
    main()
