"""Where each photograph of data/ came from: data/origins.csv, which DVC versions with the photographs.

origins = read(Path("data"))
origins.add(Origin(hash="9f86d0...", file="cat/1.jpg", source="train.zip", name="train/cat.1.jpg", label="cat"))
write(origins, Path("data"))

A row is one origin: the same content from two places has two rows and one file. `class` is the source's; where a person
has relabelled the photograph, its file lies under another class. `file` is empty where a person dropped it, so that the
same source, added again, does not bring it back.
"""

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pawprint.data.class_folders import ORIGINS
from pawprint.errors import PawprintError
from pawprint.files import read_csv, write_csv
from pawprint.progress import Progress

COLUMNS = ("file", "class", "hash", "source", "name", "breed", "split", "group")
NOTHING = hashlib.sha256().hexdigest()  # of an empty file: equal content means nothing there


class Origin(NamedTuple):
    """One photograph, from one place: a row of origins.csv."""

    file: str  # path below data/; empty: dropped
    label: str  # in the source
    hash: str  # SHA-256 of the bytes
    source: str  # an archive's or folder's name, or a URL
    name: str  # in the source
    breed: str = ""
    split: str = ""  # the source's own: train, validation or test
    group: str = ""  # what it must share a split with: an animal, a session, a burst


class Origins:
    """All rows; a set, so that the same source twice changes nothing."""

    def __init__(self, rows: Iterable[Origin] = ()) -> None:
        self._rows: set[Origin] = set()
        self._files: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            self.add(row)

    def __iter__(self) -> Iterator[Origin]:
        return iter(sorted(self._rows))

    def add(self, row: Origin) -> None:
        self._rows.add(row)
        self._files[_key(row.hash, row.file)].add(row.file)

    def files(self, digest: str, file: str) -> set[str]:
        """Where this content lies: paths below data/, {""} where it was dropped, empty where it is new.

        Empty files are all equal and yet not the same photograph: each is known by `file`, its own path.
        """
        found = self._files.get(_key(digest, file), set())
        return found - {""} or found

    def hashes(self) -> dict[str, str]:
        """Path below data/ -> SHA-256."""
        return {row.file: row.hash for row in self._rows if row.file}


def read(data: Path, files: Iterable[Path], source: str) -> Origins:
    """The rows of data/origins.csv that hold for the photographs `files` as they are now.

    A photograph without a row (put there by hand, or before there were origins) gets one: from `source`, by its own
    name. A row whose photograph is gone or has other content is removed.

    Raises:
        PawprintError: origins.csv is damaged.
    """
    hashes = hash_files(data, files)
    rows = [row for row in read_rows(data) if not row.file or hashes.get(row.file) == row.hash]
    new = hashes.keys() - {row.file for row in rows}
    return Origins([*rows, *(Origin(file, file.split("/")[0], hashes[file], source, file) for file in new)])


def own_test(data: Path) -> frozenset[str]:
    """Hashes of the photographs that were a test photograph in their source."""
    return frozenset(row.hash for row in read_rows(data) if row.split == "test")


def of(data: Path, digest: str) -> list[Origin]:
    """Where the photograph with this hash came from."""
    return [row for row in read_rows(data) if row.hash == digest]


class Groups:
    """Which group each photograph of data/ is of: by its row in origins.csv, else by its names and a pattern."""

    def __init__(self, data: Path, pattern: str) -> None:
        self._pattern = re.compile(pattern) if pattern else None
        self._given: dict[str, str] = {}
        self._names: dict[str, list[str]] = defaultdict(list)
        for row in read_rows(data):
            if row.group:
                self._given.setdefault(row.hash, row.group)
            if pattern:
                self._names[row.hash] += [row.file, row.name]

    def of(self, digest: str, file: str = "") -> str:
        """The group of the photograph with this content and path below data/; "" where it is by itself.

        The pattern is searched in that path, then in its names in its sources; all that it captures is the group.
        """
        if digest in self._given or self._pattern is None:
            return self._given.get(digest, "")
        found = next((match for name in (file, *self._names[digest]) if (match := self._pattern.search(name))), None)
        return "/".join(filter(None, found.groups())) or found[0] if found else ""


def read_groups(table: Path, origins: Origins) -> Origins:
    """The rows of `origins` with the groups of a CSV file with the columns `file` and `group`, and of no other.

    A file is named by its path below data/, or by its name in its source.

    Raises:
        PawprintError: the table cannot be read, lacks a column, names a file that is not in data/, or one twice.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns, found = list(rows.fieldnames or ()), list(rows)
    except (OSError, UnicodeDecodeError, csv.Error):
        raise PawprintError(f"{table} cannot be read. Name a CSV file with the columns file and group.") from None
    if not {"file", "group"} <= set(columns):
        raise PawprintError(f"{table} has the columns {', '.join(columns) or 'none'}; file and group are needed.")
    named: dict[str, set[str]] = defaultdict(set)
    for row in origins:
        if row.file:
            named[row.file].add(row.hash)
            named[row.name].add(row.hash)
    groups: dict[str, str] = {}
    for line, one in enumerate(found, 2):
        name, group = (one["file"] or "").strip(), (one["group"] or "").strip()
        if name not in named:
            raise PawprintError(
                f"{table}, line {line}: {name!r} is no photograph of data/. Nothing was changed; write paths below "
                f"data/ or names in the source, such as {next(iter(named), 'cat/1.jpg')!r}."
            )
        for digest in named[name]:
            if groups.setdefault(digest, group) != group:
                raise PawprintError(
                    f"{table}, line {line}: {name!r} is of the group {group!r}, and of {groups[digest]!r} before. "
                    "Nothing was changed; decide on one."
                )
    return Origins(row._replace(group=groups.get(row.hash, "")) for row in origins)


def decided(data: Path) -> int:
    """How many photographs a person has dropped, or put under another class than their source."""
    try:
        return len({row.hash for row in read_rows(data) if row.file.split("/")[0] != row.label})
    except PawprintError:
        return 0


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
    rows = list(origins)
    width = len(COLUMNS) if any(row.group for row in rows) else len(COLUMNS) - 1
    write_csv(data / ORIGINS, [COLUMNS[:width], *(row[:width] for row in rows)])


def read_rows(data: Path) -> Iterator[Origin]:
    """The rows of data/origins.csv as they stand; none where it is missing. PawprintError where it is damaged."""
    path = data / ORIGINS
    try:
        lines = read_csv(path)
        if tuple(next(lines, ())) not in (COLUMNS, COLUMNS[:-1], COLUMNS[:-2]):  # no groups; before there were splits
            raise ValueError
        for row in lines:
            yield Origin(*row)
    except FileNotFoundError:
        return
    except (ValueError, TypeError, csv.Error):
        raise PawprintError(
            f"{path} is damaged. `dvc checkout data.dvc` brings it back; without it origins are lost."
        ) from None


def _key(digest: str, file: str) -> str:
    return f"{digest}:{file}" if digest == NOTHING else digest
