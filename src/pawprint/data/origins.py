"""Where each photograph of data/ came from: data/origins.csv, which DVC versions with the photographs.

origins = read(Path("data"))
origins.add(Origin(hash="9f86d0...", file="cat/1.jpg", source="train.zip", name="train/cat.1.jpg", label="cat"))
write(origins, Path("data"))

A row is one origin: the same content from two places has two rows and one file. `class` is what the source called it;
where a person knew better, the file lies under another class. `file` is empty where a person dropped it, so that the
same source, added again, does not bring it back.
"""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pawprint.errors import PawprintError
from pawprint.progress import Progress

ORIGINS = "origins.csv"
COLUMNS = ("file", "class", "hash", "source", "name", "breed")
NOTHING = hashlib.sha256().hexdigest()  # of an empty file: equal content means nothing there


@dataclass(frozen=True, order=True)
class Origin:
    """One photograph, from one place."""

    file: str  # path below data/; empty: dropped
    label: str  # what the source called it
    hash: str  # SHA-256 of the bytes
    source: str  # an archive's or folder's name, or a URL
    name: str  # in the source
    breed: str = ""


class Origins:
    """All rows; a set, so that the same source twice changes nothing."""

    def __init__(self, rows: Iterable[Origin] = ()) -> None:
        self.rows: set[Origin] = set()
        self._files: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            self.add(row)

    def __iter__(self) -> Iterator[Origin]:
        return iter(sorted(self.rows))

    def add(self, row: Origin) -> None:
        """One row more."""
        self.rows.add(row)
        self._files[_key(row.hash, row.file)].add(row.file)

    def files(self, digest: str, file: str) -> set[str]:
        """Where this content lies: paths below data/, {""} where it was dropped, nothing where it is new.

        Empty files are all equal and yet not the same photograph: each is known by `file`, its own path.
        """
        found = self._files.get(_key(digest, file), set())
        return found - {""} or found

    def moved(self, moves: Mapping[str, str]) -> "Origins":
        """With the photographs at `moves` where it says; "" drops one."""
        return Origins(replace(row, file=moves.get(row.file, row.file)) for row in self.rows)


def read(data: Path, files: Iterable[Path], source: str) -> Origins:
    """What data/origins.csv says of the photographs `files` as they are now.

    A photograph that no row tells of (put there by hand, or before there were origins) gets a row: from `source`, by
    its own name. A row whose photograph is gone or has other content is forgotten.

    Raises:
        PawprintError: origins.csv is damaged.
    """
    hashes = hash_files(data, files)
    rows = [row for row in _read(data / ORIGINS) if not row.file or hashes.get(row.file) == row.hash]
    told = {row.file for row in rows}
    rows += [
        Origin(file, file.split("/")[0], digest, source, file) for file, digest in hashes.items() if file not in told
    ]
    return Origins(rows)


def decided(data: Path) -> int:
    """How many photographs a person has dropped, or put under another class than their source."""
    try:
        rows = _read(data / ORIGINS)
    except PawprintError:
        return 0
    return len({row.hash for row in rows if row.file.split("/")[0] != row.label})


def hash_files(data: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path below `data` -> SHA-256 of the bytes."""

    def work(file: Path) -> tuple[str, str]:
        return file.relative_to(data).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()

    files = list(files)
    hashes = {}
    with ThreadPoolExecutor() as pool, Progress(f"hashing {data}/", len(files)) as progress:
        for file, digest in pool.map(work, files):
            hashes[file] = digest
            progress.advance(1)
    return hashes


def write(origins: Origins, data: Path) -> None:
    """Write data/origins.csv; the same rows give the same bytes."""
    with (data / ORIGINS).open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        out.writerows((row.file, row.label, row.hash, row.source, row.name, row.breed) for row in origins)


def _read(path: Path) -> list[Origin]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if tuple(next(rows)) != COLUMNS:
                raise ValueError
            return [Origin(*row) for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, StopIteration, csv.Error):
        raise PawprintError(
            f"{path} is damaged. `git checkout data.dvc && dvc checkout` brings it back; without it origins are lost."
        ) from None


def _key(digest: str, file: str) -> str:
    return f"{digest}:{file}" if digest == NOTHING else digest
