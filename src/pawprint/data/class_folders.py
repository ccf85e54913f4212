"""The layout of data/: a folder a class, and dataset.json with the set's name.

dataset(Path("data"))            # its name, its classes, its photographs
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawprint.config import UNKNOWN
from pawprint.errors import PawprintError
from pawprint.files import recover

DATASET = "dataset.json"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Dataset:
    """The content of data/."""

    name: str
    drawn: bool
    classes: tuple[str, ...]  # sorted
    photographs: tuple[tuple[str, Path], ...]  # (class, file), sorted by path; every file, good or bad


def dataset(data: Path) -> Dataset:
    """Read data/: its name from dataset.json, its classes from its folders.

    Raises:
        PawprintError: data/ is missing or empty, has fewer than two classes or a class with no photographs.
    """
    recover(data)
    if not data.is_dir():
        raise PawprintError(
            f"{data}/ is missing. `dvc pull data.dvc` brings the sample, `make run PHOTOS=<zip or folder>` your own."
        )
    folders = class_folders(data)
    if len(folders) < 2:
        found = f"only `{folders[0].name}`" if folders else "none"
        raise PawprintError(
            f"{data}/ must hold two classes or more, a folder each; it has {found}. Add a folder of photographs for "
            "each class, or `make run PHOTOS=<zip or folder>`."
        )
    photographs = []
    for folder in folders:
        refuse_reserved(folder.name, str(data))
        files = files_in(folder)
        if not files:
            raise PawprintError(f"{folder}/ holds no photographs. Add some, or remove the folder.")
        photographs += [(folder.name, file) for file in files]
    described = description(data)
    return Dataset(
        name=described.get("name", "photos"),
        drawn=bool(described.get("drawn", False)),
        classes=tuple(folder.name for folder in folders),
        photographs=tuple(photographs),
    )


def class_folders(data: Path) -> list[Path]:
    """The folders of data/, a class each."""
    return sorted(folder for folder in data.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def refuse_reserved(label: str, source: str) -> None:
    """PawprintError for the class that a model answers where a picture is of none."""
    if label.casefold() == UNKNOWN:
        raise PawprintError(
            f"{source} has a class `{label}`, which is the answer for a picture of no class. Rename its folder."
        )


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, good or bad; hidden ones are none."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def description(data: Path) -> dict[str, Any]:
    """The content of dataset.json; empty where it is missing. PawprintError where it is damaged."""
    path = data / DATASET
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if not NAME.fullmatch(described.get("name", "photos")):
            raise ValueError(described["name"])
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        raise PawprintError(f'{path} is damaged. It should be like {{"name": "my-pets"}}.') from None
    return dict(described)
