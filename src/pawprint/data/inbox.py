"""Pictures that are not in data/ yet and wait for a person's decision: inbox/index.csv, one row a picture.

    inbox = Inbox(Path("inbox"))
    inbox.add(Incoming(hash="9f86d0...", file="/home/ann/pictures/1.jpg", source="pictures", name="1.jpg"))
    inbox.keep(picture, source="traffic pawprint-dogs-cats/3", name="3f2a...", feedback="dog")

A picture of a folder stays where it is; one of the traffic log is kept under inbox/pictures/. What is decided goes into
labels.csv, and `pawprint photos apply` brings what has a class into data/, with its row as its origin.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pawprint import image
from pawprint.data.class_folders import has_control, is_utf8
from pawprint.errors import PawprintError
from pawprint.files import files_in, read_csv, write_bytes, write_csv
from pawprint.progress import Progress

FOLDER = "inbox"
TRAFFIC = "traffic "  # begins the source of a picture that the service was sent; the model follows


class Incoming(NamedTuple):
    """A picture that waits; the fields are the columns of index.csv."""

    hash: str  # SHA-256 of the bytes
    file: str  # where it lies: an absolute path, or one below the inbox
    source: str  # a folder, or `traffic MODEL/VERSION`
    name: str  # in the source: a path, or the id of the answer
    answer: str = ""  # what the model said, "" where none was asked
    feedback: str = ""  # what a client said
    why: str = ""  # why it was chosen
    score: str = ""  # the larger, the more there is to learn from it
    model_digest: str = ""


class Inbox:
    """The folder at `path`, which may not be there yet. PawprintError where its index is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = {one.hash: one for one in self._read()}

    def __iter__(self) -> Iterator[Incoming]:
        return iter(self._rows.values())

    def __contains__(self, digest: str) -> bool:
        return digest in self._rows

    def get(self, digest: str) -> Incoming | None:
        return self._rows.get(digest)

    def file(self, one: Incoming) -> Path:
        """Where its bytes are."""
        return self.path / one.file

    def add(self, rows: Iterable[Incoming]) -> int:
        """Take these in too; how many were new. What is known of a picture is replaced, its place in the list stays."""
        before = len(self._rows)
        self._rows |= {one.hash: one for one in rows}
        self._write()
        return len(self._rows) - before

    def keep(self, picture: bytes, row: Incoming) -> Incoming:
        """Keep the bytes of a picture in the inbox; its row, for `add`."""
        try:
            suffix = image.SUFFIXES_BY_FORMAT[image.inspect(picture).format][0]
        except (image.BadImage, KeyError):
            suffix = ".bin"
        file = f"pictures/{row.hash}{suffix}"
        write_bytes(self.path / file, picture)
        return row._replace(file=file)

    def remove(self, hashes: Iterable[str]) -> None:
        """Forget pictures; what the inbox holds of them is deleted."""
        for digest in hashes:
            if (one := self._rows.pop(digest, None)) and not Path(one.file).is_absolute():
                self.file(one).unlink(missing_ok=True)
        self._write()

    def _read(self) -> list[Incoming]:
        path = self.path / "index.csv"
        try:
            header, *rows = read_csv(path)
            if tuple(header) != Incoming._fields:
                raise ValueError
            return [Incoming(*row) for row in rows]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, csv.Error):
            raise PawprintError(f"{path} is damaged. Remove {self.path}/ and fill it again.") from None

    def _write(self) -> None:
        write_csv(self.path / "index.csv", [Incoming._fields, *self._rows.values()])


def folder_of_pictures(folder: Path) -> list[Incoming]:
    """The pictures below a folder, each once. PawprintError where it is none or holds no picture."""
    if not folder.is_dir():
        raise PawprintError(f"{folder} is no folder. Name a folder of photographs.")
    files = [file for file in files_in(folder) if file.suffix.lower() in image.IMAGE_SUFFIXES]
    found: dict[str, Incoming] = {}
    with Progress(f"reading {folder}/", len(files)) as progress:
        for file in files:
            name = file.relative_to(folder).as_posix()
            if has_control(name) or not is_utf8(name):
                raise PawprintError(f"{folder} has a file {name!a}, whose name cannot be written in a list. Rename it.")
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found.setdefault(digest, Incoming(digest, str(file.resolve()), folder.resolve().name, name))
            progress.advance(1)
    if not found:
        raise PawprintError(f"{folder} holds no photographs. Name a folder with some.")
    return list(found.values())
