"""The layout of data/: a folder a class, and dataset.json with the set's name.

dataset(Path("data"))            # its name, its classes, its photographs
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawprint.config import UNKNOWN
from pawprint.errors import PawprintError
from pawprint.files import files_in, hidden, recover, refuse_link

DATASET, ORIGINS, INVENTORY = "dataset.json", "origins.csv", "inventory.parquet"
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
    refuse_link(data)
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
        refuse_name(folder.name, str(data))
        if folder.is_symlink():
            raise PawprintError(
                f"{folder} is a link, which DVC does not follow. Put the folder itself there, or import it: "
                "`pawprint photos import FOLDER` copies a folder of class folders."
            )
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
    """The folders of data/, a class each. PawprintError where it is a list of photographs in a bucket."""
    if (data / INVENTORY).exists():
        raise PawprintError(
            f"{data}/ is a list of photographs that stay in a bucket, and this works on files. Change the bucket, or "
            f"the labels in {INVENTORY}; `pawprint photos inventory` makes the list anew."
        )
    return sorted(folder for folder in data.iterdir() if folder.is_dir() and not hidden(folder.name))


def refuse_name(label: str, source: str) -> None:
    """PawprintError for a class whose name is taken, or cannot be the name of a folder."""
    if label.casefold() == UNKNOWN:
        raise PawprintError(
            f"{source} has a class `{label}`, which is the answer for a photograph of no class. Rename its folder."
        )
    problem = (
        "is the name of a file of data/" if label in (DATASET, ORIGINS)
        else "begins with a dot or is empty" if hidden(label) or not label.strip()
        else "is not valid UTF-8" if not is_utf8(label)
        else "has a control character, a slash or a backslash" if has_control(label) or {"/", "\\"} & set(label)
        else f"has {len(label.encode())} bytes; a folder's name has at most 255" if len(label.encode()) > 255
        else ""
    )  # fmt: skip
    if problem:
        raise PawprintError(f"{source} has a class {label[:80]!a}, which {problem}. Rename its folder.")


def has_control(name: str) -> bool:
    """Whether a name has a line's end or another control character, which damages lists of files."""
    return any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name)


def is_utf8(name: str) -> bool:
    """Whether a name on disk was UTF-8; Python marks the bytes of one that was not."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


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
