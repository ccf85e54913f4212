"""The class of each photograph of a source, recognised by the paths of its files.

recognised = recognise(["train/cat.0.jpg", "train/dog.0.jpg"], "train")
recognised.photographs        # (Found("train/cat.0.jpg", "cat"), Found("train/dog.0.jpg", "dog"))

A layout is a function from paths to a class for each, empty where it does not apply. To support another: write one
and add it to _LAYOUTS.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from pawprint import image
from pawprint.errors import PawprintError

LAYOUTS = (
    "Kaggle's Dogs vs. Cats (train/cat.0.jpg, or the zip that holds train.zip), Microsoft's (PetImages/Cat/0.jpg), "
    "Oxford's pets (images/Abyssinian_1.jpg), cats_and_dogs_filtered (train/cats/cat.0.jpg), or a folder a class "
    "(flowers/rose/1.jpg); as a folder, zip or tar"
)
_SPLIT_NAMES = ("train", "training", "valid", "validation", "val", "test", "testing", "eval")
_BREEDS = frozenset(
    """Abyssinian Bengal Birman Bombay British_Shorthair Egyptian_Mau Maine_Coon Persian Ragdoll Russian_Blue Siamese
    Sphynx american_bulldog american_pit_bull_terrier basset_hound beagle boxer chihuahua english_cocker_spaniel
    english_setter german_shorthaired great_pyrenees havanese japanese_chin keeshond leonberger miniature_pinscher
    newfoundland pomeranian pug saint_bernard samoyed scottish_terrier shiba_inu staffordshire_bull_terrier
    wheaten_terrier yorkshire_terrier""".split()  # noqa: SIM905 - readable
)


@dataclass(frozen=True)
class Found:
    """A photograph of a source."""

    name: str  # in the source
    label: str
    breed: str = ""


@dataclass(frozen=True)
class Recognised:
    """The photographs of a source."""

    set_name: str  # of a public set; empty for a person's own
    photographs: tuple[Found, ...]
    ignored: tuple[str, ...]  # files that belong to no class, or are no pictures


_Pictures = Sequence[PurePosixPath]


def recognise(names: Sequence[str], source: str) -> Recognised:
    """The photographs among the files `names` of `source`.

    Raises:
        PawprintError: their layout is none that is known.
    """
    seen = [path for path in map(PurePosixPath, names) if not _hidden(path)]
    pictures = [path for path in seen if path.suffix.lower() in image.IMAGE_SUFFIXES]
    for set_name, layout in _LAYOUTS.items():
        if found := layout(pictures):
            used = {one.name for one in found}
            return Recognised(set_name, tuple(found), tuple(str(path) for path in seen if str(path) not in used))
    problem = "pictures, but it is not known which class they are of" if pictures else "no pictures"
    raise PawprintError(f"{source} holds {problem}. Known are {LAYOUTS}.")


def _kaggle(pictures: _Pictures) -> list[Found]:
    """train/cat.0.jpg: the class is in the name. Others (test1/1.jpg has none) are ignored."""
    found = {path: match[1] for path in pictures if (match := re.fullmatch(r"([A-Za-z][\w-]*)\.\d+\.\w+", path.name))}
    if len({path.parent for path in found}) != 1 or len(set(found.values())) < 2:
        return []
    return [Found(str(path), label) for path, label in found.items()]


def _oxford(pictures: _Pictures) -> list[Found]:
    """images/Abyssinian_1.jpg: a capital is a cat, the rest of the name its breed."""
    found = []
    for path in pictures:
        match = re.fullmatch(r"([A-Za-z][A-Za-z_-]*)_\d+", path.stem)
        if path.parent.name != "images" or not match:
            return []
        found.append(Found(str(path), "cat" if match[1][0].isupper() else "dog", match[1]))
    # IMG_1.jpg and dsc_2.jpg in a folder `images` are no cat and dog: some of the names must be breeds.
    return found if any(one.breed in _BREEDS for one in found) else []


def _microsoft(pictures: _Pictures) -> list[Found]:
    """PetImages/Cat/0.jpg."""
    inside = [path for path in pictures if path.parent.parent.name == "PetImages"]
    if {path.parent.name for path in inside} != {"Cat", "Dog"}:
        return []
    return [Found(str(path), path.parent.name.lower()) for path in inside]


def _filtered(pictures: _Pictures) -> list[Found]:
    """train/cats/cat.0.jpg, validation/cats/cat.2000.jpg: the splits are merged, pawprint draws its own."""
    found = _split_folders(pictures)
    own = not all(re.fullmatch(r"(cat|dog)\.\d+", path.stem) for path in pictures)
    if own or {one.label for one in found} != {"cats", "dogs"}:
        return []  # `own`: somebody's photographs, in classes of those names
    return [Found(one.name, one.label.removesuffix("s")) for one in found]


def _split_folders(pictures: _Pictures) -> list[Found]:
    """train/rose/1.jpg, test/rose/2.jpg: a folder a class in a folder a split."""
    start = _common(pictures)
    below = [path.parts[start:] for path in pictures]
    if any(len(parts) < 3 or parts[0].lower() not in _SPLIT_NAMES for parts in below):
        return []
    return [Found(str(path), parts[1]) for path, parts in zip(pictures, below, strict=True)]


def _folders(pictures: _Pictures) -> list[Found]:
    """rose/1.jpg, lily/2.jpg, lily/more/3.jpg: a folder a class; a picture beside the folders is ignored."""
    start = _common(pictures)
    return [Found(str(path), path.parts[start]) for path in pictures if len(path.parts) > start + 1]


def _common(pictures: _Pictures) -> int:
    """How many leading folders all of them share; one folder is always left."""
    parents = [path.parent.parts for path in pictures]
    levels = zip(*parents, strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return max(0, shared - 1) if len(set(parents)) == 1 else shared


def _hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


_LAYOUTS: dict[str, Callable[[_Pictures], list[Found]]] = {
    "oxford-iiit-pet": _oxford,
    "microsoft-cats-dogs": _microsoft,
    "cats-and-dogs-filtered": _filtered,
    "dogs-cats": _kaggle,
    "": lambda pictures: _split_folders(pictures) or _folders(pictures),
}
