"""Where photographs come from: a source -> data/<class>/*, all or nothing.

take(Path("train.zip"), Path("data"))                      # Kaggle's layout: train/cat.0.jpg
take(Path("flowers"), Path("data"), name="flowers")        # a folder with a folder a class
dataset(Path("data"))                                      # its name, its classes, its photographs
"""

import errno
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pawprint.errors import PawprintError

DATASET = "dataset.json"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LAYOUTS = "Kaggle's train.zip (train/cat.0.jpg, train/dog.0.jpg) or a folder with a folder a class"


@dataclass(frozen=True)
class Dataset:
    """What lies under data/."""

    name: str
    drawn: bool
    classes: tuple[str, ...]  # sorted
    photographs: tuple[tuple[str, Path], ...]  # (class, file), sorted by path; every file, good or bad


def dataset(data: Path) -> Dataset:
    """Read data/: its name from dataset.json, its classes from its folders.

    Raises:
        PawprintError: data/ is missing or empty, has fewer than two classes or a class with no photographs.
    """
    if not data.is_dir():
        raise PawprintError(
            f"{data}/ is missing. `dvc pull data.dvc` brings the sample, `make run PHOTOS=<zip or folder>` your own."
        )
    folders = sorted(folder for folder in data.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(folders) < 2:
        found = f"only `{folders[0].name}`" if folders else "none"
        raise PawprintError(
            f"{data}/ must hold two classes or more, a folder each; it has {found}. Add a folder of photographs for "
            "each class, or `make run PHOTOS=<zip or folder>`."
        )
    photographs = []
    for folder in folders:
        files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
        if not files:
            raise PawprintError(f"{folder}/ holds no photographs. Add some, or remove the folder.")
        photographs += [(folder.name, file) for file in files]
    described = _described(data / DATASET)
    return Dataset(
        name=described.get("name", "photos"),
        drawn=bool(described.get("drawn", False)),
        classes=tuple(folder.name for folder in folders),
        photographs=tuple(photographs),
    )


def take(source: Path, data: Path, name: str | None = None) -> Dataset:
    """Replace `data` by the photographs of `source`; where that fails `data` stays as it was.

    Raises:
        PawprintError: the source does not exist, is of no known layout, has fewer than two classes, or the disk is
            full.
    """
    if name is not None and not NAME.fullmatch(name):
        raise PawprintError(f"{name!r} cannot name a data set: use lower-case letters, digits, dots and dashes.")
    if not source.exists():
        raise PawprintError(f"{source} does not exist. Name {LAYOUTS}.")
    data.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data.parent, prefix=f".{data.name}-") as scratch:
        fresh = Path(scratch) / "data"
        fresh.mkdir()
        with _enough_disk(source):
            found = _from_zip(source, fresh) if source.is_file() else _from_folder(source, fresh)
        described = {"name": name or found, "drawn": False, "source": source.name}
        (fresh / DATASET).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        taken = dataset(fresh)  # refuses what could not be trained on, before anything is replaced
        if data.exists():
            data.rename(Path(scratch) / "old")
        fresh.rename(data)
    return Dataset(taken.name, taken.drawn, taken.classes, dataset(data).photographs)


def _from_zip(source: Path, fresh: Path) -> str:
    if not zipfile.is_zipfile(source):
        raise PawprintError(f"{source} is not a zip archive. Name {LAYOUTS}.")
    count = 0
    with zipfile.ZipFile(source) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            inside = PurePosixPath(entry.filename)
            match = re.fullmatch(r"([A-Za-z][\w-]*)\.\d+\.\w+", inside.name)
            if entry.is_dir() or not match or inside.suffix.lower() not in SUFFIXES:
                continue
            folder = fresh / match[1]  # a plain word: nothing in the archive can climb out
            folder.mkdir(exist_ok=True)
            with archive.open(entry) as packed, (folder / inside.name).open("wb") as file:
                shutil.copyfileobj(packed, file)
            count += 1
    if not count:
        raise PawprintError(f"{source} holds no photographs named like train/cat.0.jpg. Name {LAYOUTS}.")
    classes = {folder.name for folder in fresh.iterdir()}
    return "dogs-cats" if classes == {"cat", "dog"} else _plain(source.stem)


def _from_folder(source: Path, fresh: Path) -> str:
    for kind in sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith(".")):
        shutil.copytree(kind, fresh / kind.name, ignore=shutil.ignore_patterns(".*"))
    if not any(fresh.iterdir()):
        raise PawprintError(f"{source} holds no folders. Name {LAYOUTS}.")
    return _plain(source.resolve().name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "photos"


def _described(path: Path) -> dict[str, str]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if not NAME.fullmatch(described.get("name", "photos")):
            raise ValueError(described["name"])
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        raise PawprintError(f'{path} is damaged. It should be like {{"name": "my-pets"}}.') from None
    return dict(described)


@contextmanager
def _enough_disk(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise PawprintError(
            f"No space left on the disk for the photographs of {source}. Free some, run again."
        ) from None
