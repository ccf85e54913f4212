"""The class of each photograph of a source, recognised by the paths of its files.

recognised = recognise(["train/cat.0.jpg", "train/dog.0.jpg"], "train")
recognised.photographs        # (Found("train/cat.0.jpg", "cat"), Found("train/dog.0.jpg", "dog"))

A public set's layout (_PUBLIC) is a function from paths to a class for each, empty unless it explains every picture.
Everything else is folders: folders that are named for a split or for nothing (`train`, `images`) are no classes, and
neither are folders that only hold folders. Where that leaves a choice, or pictures without a class, the import stops
with a preview, and `--layout` decides.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Literal, NoReturn

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.files import hidden

Layout = Literal["auto", "top", "parent", "names"]
LAYOUTS = (
    "Kaggle's Dogs vs. Cats (train/cat.0.jpg, or the zip that holds train.zip), Microsoft's (PetImages/Cat/0.jpg), "
    "Oxford's pets (images/Abyssinian_1.jpg), cats_and_dogs_filtered (train/cats/cat.0.jpg), or a folder a class "
    "(flowers/rose/1.jpg, flowers/train/rose/1.jpg), or photographs with a table of labels (--labels labels.csv); as a "
    "folder, zip or tar"
)
MOST_IGNORED = 0.1  # of the pictures; more stop the import
_SPLIT_WORDS = {
    "train": "train", "training": "train", "dev": "validation", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "holdout": "test", "pred": "test", "trainval": "train",
}  # fmt: skip
_PLAIN_WORDS = {
    "data", "image", "images", "img", "imgs", "jpeg", "jpegimages", "jpg", "photo", "photos", "pic", "pics", "picture",
    "pictures", "png", "seg", "set", "split", "splits",
}  # fmt: skip
_ANNOTATIONS = {
    "annotation", "annotations", "groundtruth", "label", "labels", "mask", "masks", "segmentation", "segmentations",
    "trimaps",
}  # fmt: skip
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
    split: str = ""  # train, validation or test, where the source has folders for them


@dataclass(frozen=True)
class Recognised:
    """The photographs of a source."""

    set_name: str  # of a public set; empty for a person's own
    photographs: tuple[Found, ...]
    ignored: tuple[str, ...]  # files that belong to no class, or are no pictures
    unlabelled: int = 0  # of `ignored`: pictures in a folder of test pictures, which have no classes

    def counts(self) -> str:
        """`2 classes (cat 120, dog 98)`; the most frequent of many."""
        return _counts(one.label for one in self.photographs)

    def other_layouts(self) -> list[str]:
        """A line for each option that gives several classes, with a preview of them."""
        pictures = [PurePosixPath(one.name) for one in self.photographs]
        return _previews(pictures, [name for name in self.ignored if _is_table(PurePosixPath(name))])

    def splits(self) -> str:
        """A sentence on the source's own splits; "" where it has none."""
        counted = Counter(one.split for one in self.photographs if one.split)
        shown = ", ".join(f"{split} {count:,}" for split, count in counted.items())
        return f" Its own splits ({shown}) are merged; `split.keep_test` keeps its test photographs." if shown else ""


_Pictures = Sequence[PurePosixPath]


def recognise(
    names: Sequence[str],
    source: str,
    layout: Layout = "auto",
    extra: Collection[str] = (),
    labels: dict[str, str] | None = None,
) -> Recognised:
    """The photographs among the files `names` of `source`.

    Args:
        names: paths with "/" between their parts.
        source: as errors name it.
        layout: `auto`; or the class is the `top` folder below the common ones and those of splits, the folder that
            holds the picture (`parent`), or the file's name without its number (`names`).
        extra: names without a picture's suffix that are pictures by their content.
        labels: file name, its stem, or its path -> class, as a table says; then folders count for nothing.

    Raises:
        PawprintError: their layout is none that is known, or two fit; the message shows both and names the option.
    """
    seen = [path for path in map(PurePosixPath, names) if not any(map(hidden, path.parts))]
    pictures = [path for path in seen if path.suffix.lower() in image.IMAGE_SUFFIXES or str(path) in extra]
    if not pictures:
        raise PawprintError(f"{source} holds no photographs. Known are {LAYOUTS}.")
    if layout == "auto" and labels is None:
        pictures = _without_annotations(pictures)
    competition = [path for path in pictures if split_of(path.parent.name) == "test"]  # its test pictures: no class
    set_name = ""
    if labels is not None:
        found = _labelled(pictures, labels)
    elif layout != "auto":
        found = _EXPLICIT[layout](pictures)
    else:
        rest = [path for path in pictures if split_of(path.parent.name) != "test"]
        set_name, found = next(((name, made) for name, of in _PUBLIC.items() if (made := of(rest))), ("", []))
        tables = [str(path) for path in seen if _is_table(path)]
        found = found or _folders(pictures, source, tables)
    used = {one.name for one in found}
    unlabelled = [path for path in competition if str(path) not in used]
    lost = [path for path in pictures if str(path) not in used and path not in set(unlabelled)]
    if layout == "auto" and labels is None and len(lost) > MOST_IGNORED * (len(pictures) - len(unlabelled)):
        problem = f"{len(lost):,} of {len(pictures):,} photographs are of no class, `{lost[0]}` for one"
        _refuse(pictures, source, problem, tables)
    if len({one.split for one in found}) < 2:  # a folder that happens to be called `test` is no split of a set
        found = [replace(one, split="") for one in found]
    ignored = tuple(str(path) for path in seen if str(path) not in used)
    return Recognised(set_name, tuple(found), ignored, len(unlabelled))


def read_labels(table: bytes, source: str) -> dict[str, str]:
    """A table of labels (CSV or TSV with a header) as file -> class: its column of file names or ids is the first of
    `image`, `file`, `filename`, `name`, `path`, `id` (or the first of all), its class `label`, `class`, `breed`,
    `category` or `species` (or the other one of two)."""
    try:
        text = table.decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text), csv.Sniffer().sniff(text[:4096], ",;\t")))
        header = [cell.strip().lower() for cell in rows[0]]
        file = next((header.index(name) for name in _FILE_COLUMNS if name in header), 0)
        other = [1 - file] if len(header) == 2 else []  # of several any may be the class, and one-hot columns are none
        label = next(iter([header.index(name) for name in _LABEL_COLUMNS if name in header] + other))
        pairs = {(row[file].strip(), row[label].strip()) for row in rows[1:] if len(row) > max(file, label)}
        found = {file: label for file, label in pairs if label}
        if not found:
            raise ValueError("no rows")
    except (ValueError, IndexError, StopIteration, csv.Error):
        raise PawprintError(
            f"{source} is no table of labels: it needs a header with a column `file` and a column `label` (as CSV)."
        ) from None
    if several := sorted(file for file, label in pairs if label and found[file] != label):
        raise PawprintError(
            f"{source} gives more than one class to `{several[0]}` ({len(several):,} in all). Remove such rows from it."
        )
    return found


_FILE_COLUMNS = ("image", "file", "filename", "file_name", "image_id", "name", "path", "id")
_LABEL_COLUMNS = ("label", "class", "breed", "category", "species", "target")


def split_of(folder: str) -> str:
    """train, validation or test where a folder is named for a split (`training_set`, `seg_test`, `val2017`)."""
    words = {word.removesuffix("set") or "set" for word in _words(folder)}
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 and not words - set(_SPLIT_WORDS) - _PLAIN_WORDS else ""


def _words(folder: str) -> list[str]:
    return re.findall("[^\\W\\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", folder).lower())


def _is_plain(folder: str) -> bool:
    """`images`, `dataset`: says nothing of what is in it."""
    words = {word.removesuffix("set") or "set" for word in _words(folder)}
    return bool(words) and words <= _PLAIN_WORDS


def _folders(pictures: _Pictures, source: str, tables: Sequence[str]) -> list[Found]:
    """rose/1.jpg, train/rose/2.jpg, rose/more/3.jpg: the class is the topmost folder that holds pictures.

    Pictures of no class are left out. PawprintError where folders that hold only folders leave a choice.
    """
    reduced = _reduced(pictures)
    holding = {parts for parts in reduced.values() if parts}
    if any(parts[:1] not in holding for parts in holding):
        _refuse(pictures, source, "folders lie in folders, and either may be the classes", tables)
    return _top(pictures)


def _top(pictures: _Pictures) -> list[Found]:
    reduced = {path: parts for path, parts in _reduced(pictures).items() if parts}
    divided = _divided({parts[0] for parts in reduced.values()})
    return [Found(str(path), *divided.get(parts[0], (parts[0], "", _split(path)))) for path, parts in reduced.items()]


def _divided(folders: Collection[str]) -> dict[str, tuple[str, str, str]]:
    """(class, breed, split) of folders that name class and split (`train_cat` and `test_cat`, `trainA` and `testA`).

    One class must have two splits: `train_station` beside `harbour` is a class.
    """
    word = f"(?i:{'|'.join(sorted(_SPLIT_WORDS, reverse=True))})"  # `training` before `train`
    first, last = f"(?P<split>{word})([\\W_]+|(?=[A-Z]))(?P<of>.+)", f"(?P<of>.+?)([\\W_]+|(?=[A-Z]))(?P<split>{word})"
    matches = {name: re.fullmatch(first, name) or re.fullmatch(last, name) for name in folders}
    found = {name: (match["of"], "", _SPLIT_WORDS[match["split"].lower()]) for name, match in matches.items() if match}
    splits = Counter(label for label, _, _ in set(found.values()))
    return found if max(splits.values(), default=0) > 1 else {}


def _parent(pictures: _Pictures) -> list[Found]:
    return [Found(str(path), path.parent.name) for path in pictures if path.parent.name]


def _names(pictures: _Pictures) -> list[Found]:
    matches = {path: re.fullmatch(r"(.*?[^\W\d_])[\s._-]*\(?\d+\)?", path.stem) for path in pictures}
    return [Found(str(path), match[1], split=_split(path)) for path, match in matches.items() if match]


def _labelled(pictures: _Pictures, labels: dict[str, str]) -> list[Found]:
    found: dict[str, Found] = {}
    for path in pictures:
        keys = (str(path), *(str(PurePosixPath(*path.parts[start:])) for start in range(1, len(path.parts))), path.stem)
        if key := next((key for key in keys if key in labels), ""):
            if key in found:  # train/1.png and test/1.png: only one of them is meant
                raise PawprintError(
                    f"`{key}` in the table of labels is `{found[key].name}` or `{path}`. Write paths, or move one away."
                )
            found[key] = Found(str(path), labels[key], split=_split(path))
    return list(found.values())


def _split(path: PurePosixPath) -> str:
    return next((split for part in reversed(path.parts[:-1]) if (split := split_of(part))), "")


def _reduced(pictures: _Pictures) -> dict[PurePosixPath, tuple[str, ...]]:
    """The folders of each picture that may be classes; () for a picture of no class.

    Left out are folders named for a split or for nothing, a folder that repeats the one it lies in (as unpacking
    makes them), what lies beside folders of splits, and the leading folders that all share.
    """
    holding = {path.parent.parts for path in pictures}
    kept: dict[PurePosixPath, tuple[str, ...]] = {}
    beside: set[tuple[str, ...]] = set()  # folders whose children are splits with classes
    for path in pictures:
        parts = path.parent.parts
        named = [
            part
            for place, part in enumerate(parts)
            if not _says_nothing(part)
            and not (place and part == parts[place - 1] and parts[: place + 1] not in holding)
        ]
        first = next((place for place, part in enumerate(parts) if split_of(part)), None)
        if first is not None and any(part in named for part in parts[first + 1 :]):
            beside.add(parts[:first])
        kept[path] = tuple(named)
    for path in pictures:
        parts = path.parent.parts
        if not _split(path) and any(parts[: len(above)] == above for above in beside):
            kept[path] = ()
    shared = _common([parts for parts in kept.values() if parts])
    return {path: parts[shared:] for path, parts in kept.items()}


def _without_annotations(pictures: _Pictures) -> list[PurePosixPath]:
    """The pictures but masks and the like (`masks` beside `images`); `mask` beside class folders is a class."""

    def marks(folder: str) -> bool:
        return "".join(_words(folder)) in _ANNOTATIONS

    holding = {path.parent.parts for path in pictures}
    classes = {parts[:-1] for parts in holding if parts and not marks(parts[-1]) and not _says_nothing(parts[-1])}
    return [
        path
        for path in pictures
        if not any(marks(part) for part in path.parent.parts)
        or (not any(marks(part) for part in path.parent.parts[:-1]) and path.parent.parts[:-1] in classes)
    ]


def _says_nothing(folder: str) -> bool:
    return bool(split_of(folder)) or _is_plain(folder)


def _common(folders: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all of them share; where all are one folder, it is left."""
    levels = zip(*folders, strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return max(0, shared - 1) if len(set(folders)) == 1 else shared


def _refuse(pictures: _Pictures, source: str, problem: str, tables: Sequence[str]) -> NoReturn:
    """PawprintError with a preview of what each layout gives."""
    if not (previews := _previews(pictures, tables)):
        raise PawprintError(f"{source}: {problem}: it is not known which class they are of. Known are {LAYOUTS}.")
    raise PawprintError(
        "\n".join([f"{source}: {problem}. Import with the option that is right, or move files:", *previews])
    )


def _previews(pictures: _Pictures, tables: Sequence[str]) -> list[str]:
    previews = [f"  --labels {table}: the classes that it names" for table in tables[:3]]
    for layout, of in _EXPLICIT.items():
        found = of(pictures)
        if len({one.label for one in found}) > 1:
            left = f", {len(pictures) - len(found):,} photographs ignored" if len(found) < len(pictures) else ""
            previews.append(f"  --layout {layout}: {_counts(one.label for one in found)}{left}")
    return previews


def _is_table(path: PurePosixPath) -> bool:
    return path.suffix.lower() in (".csv", ".tsv")


def _counts(labels: Iterable[str], most: int = 12) -> str:
    """`3 classes (cat 12, dog 9, fox 2)`; of many the most frequent."""
    counted = Counter(labels)
    shown = ", ".join(f"{label} {count:,}" for label, count in sorted(counted.most_common(most)))
    rest = f" and {len(counted) - most:,} more" if len(counted) > most else ""
    return f"{len(counted):,} classes ({shown}{rest})"


_EXPLICIT: dict[str, Callable[[_Pictures], list[Found]]] = {"top": _top, "parent": _parent, "names": _names}


def _kaggle(pictures: _Pictures) -> list[Found]:
    """train/cat.0.jpg: the class is in the name, of all of one folder."""
    matches = {path: re.fullmatch(r"([A-Za-z][\w-]*)\.\d+\.\w+", path.name) for path in pictures}
    found = [Found(str(path), match[1]) for path, match in matches.items() if match]
    one_folder = len({path.parent for path in pictures}) == 1
    return found if one_folder and len(found) == len(pictures) and len({one.label for one in found}) > 1 else []


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
    inside = all(path.parent.parent.name == "PetImages" for path in pictures)
    if not inside or {path.parent.name for path in pictures} != {"Cat", "Dog"}:
        return []
    return [Found(str(path), path.parent.name.lower()) for path in pictures]


def _filtered(pictures: _Pictures) -> list[Found]:
    """train/cats/cat.0.jpg, validation/cats/cat.2000.jpg."""
    found = _top(pictures)
    own = not all(_split(path) and re.fullmatch(r"(cat|dog)\.\d+", path.stem) for path in pictures)
    if own or {one.label for one in found} != {"cats", "dogs"}:
        return []  # `own`: somebody's photographs, in classes of those names
    return [replace(one, label=one.label.removesuffix("s")) for one in found]


_PUBLIC: dict[str, Callable[[_Pictures], list[Found]]] = {
    "oxford-iiit-pet": _oxford,
    "microsoft-cats-dogs": _microsoft,
    "cats-and-dogs-filtered": _filtered,
    "dogs-cats": _kaggle,
}
