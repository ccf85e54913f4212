"""Slices of the photographs (class, light, sharpness, size, shape, breed): no average hides a weak one.

for part in slices(scores, traits(split, data)):
    print(part.name, part.accuracy)         # "brightness: dark" 0.97 [0.93, 0.99]
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.data.dataset import Split
from pawprint.evaluation import intervals
from pawprint.evaluation.metrics import Figure, Scores
from pawprint.files import Closed
from pawprint.parallel import cores

_THIRDS = {"brightness": ("dark", "medium", "bright"), "sharpness": ("soft", "medium", "sharp")}
_SIZES = ((320, "below 320 px"), (640, "320 to 639 px"), (np.inf, "640 px and more"))  # of the longer side


class Slice(Closed):
    """One slice of the test photographs."""

    name: str  # "brightness: dark"
    photographs: int
    accuracy: Figure  # Wilson's interval
    log_loss: float
    mistakes: tuple[str, ...]  # hashes of its photographs that are predicted wrong


def traits(split: Split, data: Path) -> dict[str, Sequence[str]]:
    """Traits of each photograph: one word a photograph and trait.

    Light and sharpness (the Laplacian's variance; Pech-Pacheco et al., 2000) are of the prepared photographs, in
    thirds of this split. Size and shape are the originals', read from the headers below `data`; both are omitted
    where one cannot be read. The breed is the beginning of a file's name (`Abyssinian_12.jpg`), where all have one;
    data/origins.csv, where it is there, gives source and breed by the photograph's hash.
    """
    light, sharp = np.empty(len(split)), np.empty(len(split))

    def measure(index: int) -> None:
        grey = cv2.cvtColor(split.images([index])[0], cv2.COLOR_RGB2GRAY)
        light[index], sharp[index] = grey.mean(), cv2.Laplacian(grey, cv2.CV_64F).var()

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(measure, range(len(split))))
    found: dict[str, Sequence[str]] = {"class": [split.classes[label] for label in split.labels]}
    found["brightness"] = _thirds(light, _THIRDS["brightness"])
    found["sharpness"] = _thirds(sharp, _THIRDS["sharpness"])
    if sizes := _sizes(split, data):
        found["original"] = [next(word for most, word in _SIZES if max(size) < most) for size in sizes]
        found["shape"] = [_shape(*size) for size in sizes]
    breeds = [re.match(r"([A-Za-z].*)_\d+$", Path(origin).stem) for origin in split.origins]
    if all(breeds):
        found["breed"] = [breed[1] for breed in breeds if breed]
    return found | _origins(split, data / "origins.csv")


def slices(scores: Scores, traits: Mapping[str, Sequence[str]], least: int) -> list[Slice]:
    """Every slice with at least `least` photographs, and every class; a trait that all share has no slices."""
    found = []
    correct, losses = scores.correct, scores.losses  # once: each looks at all probabilities
    for trait, words in traits.items():
        places: dict[str, list[int]] = defaultdict(list)
        for place, word in enumerate(words):
            places[word].append(place)
        for word in sorted(places) if len(places) > 1 else ():
            inside, n = places[word], len(places[word])
            if n < least and trait != "class":
                continue
            wrong = tuple(scores.hashes[place] for place in inside if not correct[place])
            accuracy, loss = Figure.share(n - len(wrong), n), float(losses[inside].mean())
            found.append(
                Slice(name=f"{trait}: {word}", photographs=n, accuracy=accuracy, log_loss=loss, mistakes=wrong)
            )
    return found


def worst(found: Sequence[Slice]) -> Slice | None:
    """The slice that is most surely weak: with the lowest upper end of its accuracy, and of equals the less sure one.

    The one with the lowest accuracy would mostly be a small one with bad luck.
    """
    return min(found, key=lambda part: (part.accuracy.high, -part.log_loss), default=None)


def upper_end(found: Sequence[Slice]) -> float:
    """The accuracy that the weakest slice may have, by exact upper ends that are too low in 2.5 % at most for all
    slices together (Bonferroni): the worst of many is below its true accuracy by chance alone."""
    right = [(part.photographs - len(part.mistakes), part.photographs) for part in found]
    return min((intervals.at_most(*counts, intervals.ERROR / len(found)) for counts in right), default=1.0)


def worse(ours: Sequence[Slice], theirs: Sequence[Slice]) -> list[str]:
    """Names of the slices in which we are shown to make more mistakes than they do on the same photographs: exact
    tests, 2.5 % for all together (intervals.worse_parts)."""
    others = {part.name: set(part.mistakes) for part in theirs}
    shared = [part for part in ours if part.name in others]
    mistakes = [set(part.mistakes) for part in shared]
    one_wrong = [wrong ^ others[part.name] for part, wrong in zip(shared, mistakes, strict=True)]
    names, ours_wrong = sorted(set[str]().union(*one_wrong)), set[str]().union(*mistakes)
    alone = np.array([name in ours_wrong for name in names], bool)
    inside = np.array([[name in part for name in names] for part in one_wrong], bool).reshape(len(shared), len(names))
    return [part.name for part, shown in zip(shared, intervals.worse_parts(alone, inside), strict=True) if shown]


def _origins(split: Split, path: Path) -> dict[str, Sequence[str]]:
    """Source and breed of each photograph, "unknown" where a row or its cell is missing; nothing without the file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            here = set(split.hashes)
            rows = {row["hash"]: row for row in csv.DictReader(file) if row.get("hash") in here}
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    known = {
        trait: [(rows.get(name, {}).get(trait) or "unknown").strip() for name in split.hashes]
        for trait in ("source", "breed")
    }
    return {trait: words for trait, words in known.items() if set(words) != {"unknown"}}


def _thirds(values: NDArray[np.float64], words: Sequence[str]) -> list[str]:
    edges = np.quantile(values, [1 / 3, 2 / 3]) if len(values) else np.zeros(2)
    return [words[int(number)] for number in np.digitize(values, edges)]


def _sizes(split: Split, data: Path) -> list[tuple[int, int]]:
    """(height, width) of every original as a person sees it, or nothing where one is not there."""
    found = []
    for origin in split.origins:
        try:
            header = image.inspect((data / origin).read_bytes())
        except (OSError, image.BadImage):
            return []
        sideways = header.orientation >= 5  # EXIF: the camera was held on its side
        found.append((header.width, header.height) if sideways else (header.height, header.width))
    return found


def _shape(height: int, width: int) -> str:
    ratio = width / height
    return "tall" if ratio < 0.9 else "wide" if ratio > 1.1 else "square"
