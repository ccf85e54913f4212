"""Import of photographs: a source -> data/<class>/*, all or nothing.

ingest("train.zip", Path("data"))                            # a zip, a tar, a folder, a URL, a public set's name
ingest("more/", Path("data"), add=True)                      # beside what is there

layouts.py gives each file of a source its class, archives.py reads them safely, download.py fetches them, origins.py
keeps where each came from.
"""

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pawprint import image
from pawprint.data import archives, download, layouts, origins
from pawprint.data.class_folders import (
    DATASET,
    NAME,
    Dataset,
    class_folders,
    dataset,
    description,
    files_in,
    refuse_reserved,
)  # fmt: skip
from pawprint.data.origins import Origin, Origins
from pawprint.errors import PawprintError
from pawprint.files import recover, replace_folder, write_json
from pawprint.progress import Progress

PIECE = 2**20  # bytes copied at a time
__all__ = ["Dataset", "IngestResult", "dataset", "ingest"]


@dataclass
class IngestResult:
    """The result of an import."""

    dataset: Dataset
    changed: bool = True
    undecided: int = 0  # decisions (relabel, drop) on what was there, which went with it
    added: int = 0  # photographs that were not there
    known: int = 0  # files whose content was there already, in the same class
    dropped: int = 0  # files whose content a person has dropped
    ignored: int = 0  # files that are no pictures, or of no class
    contradictions: list[str] = field(default_factory=list)  # the same content under another class, a sentence each

    def summary(self) -> str:
        """One line for a person."""
        counts = {
            "new": self.added, "there already": self.known, "dropped before": self.dropped,
            "earlier decisions gone (--add keeps them)": self.undecided,
            "under another class": len(self.contradictions), "ignored": self.ignored,
        }  # fmt: skip
        parts = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        files, classes = len(self.dataset.photographs), len(self.dataset.classes)
        whole = f"{self.dataset.name}: {files:,} files in {classes} classes"
        return f"{whole} ({parts})." if self.changed else f"{whole}, as before: nothing has changed."


def ingest(
    source: str | Path, data: Path, name: str | None = None, add: bool = False, sha256: str | None = None
) -> IngestResult:
    """Replace `data` by the photographs of `source`, or `add` them; where that fails `data` stays as it was.

    Raises:
        PawprintError: the source cannot be read or downloaded, is of no known layout, unsafe or damaged, or has
            another SHA-256; the set would have fewer than two classes; or the disk is full.
    """
    if name is not None and not NAME.fullmatch(name):
        raise PawprintError(f"{name!r} cannot name a data set: use lower-case letters, digits, dots and dashes.")
    recover(data)
    local = download.local(source, sha256)
    with replace_folder(data) as fresh:
        described, before = _keep(data, fresh) if add and data.exists() else ({}, Origins())
        with local.forgotten_if_damaged(), _opened(local.path, fresh.with_name("inner")) as archive:
            found = layouts.recognise(sorted(archive.files), str(source))
            _refuse_classes(found, archive, str(source))
            if add:
                _refuse_a_new_class_alone(found, data, str(source))
            importer = _Importer(fresh, local.label, before)
            importer.copy(found, archive)
        origins.write(importer.origins, fresh)
        described = described or {"name": _set_name(found, local.label), "drawn": False, "source": local.label}
        write_json(fresh / DATASET, described | ({"name": name} if name else {}))
        if len(classes := [folder.name for folder in class_folders(fresh)]) < 2:
            only = f"only `{classes[0]}`" if classes else "none"
            raise PawprintError(f"{source} gives fewer than two classes: {only}. Known are {layouts.LAYOUTS}.")
        result = importer.result
        result.changed = not _same(data, fresh, before.hashes(), importer.origins.hashes())
        result.undecided = 0 if add or not result.changed else origins.decided(data)
        if not result.changed:
            shutil.rmtree(fresh)  # not even a file's time changes, for which DVC would hash it again
    result.dataset, result.ignored = dataset(data), len(found.ignored)
    return result


def known_origins(data: Path) -> Origins:
    """origins.csv of data/ as it is now, each photograph hashed; those without an origin get one."""
    files = [file for folder in class_folders(data) for file in files_in(folder)]
    return origins.read(data, files, str(description(data).get("source", "data")))


def link(data: Path, file: str, fresh: Path, to: str) -> None:
    """The photograph `file` of `data` as `to` in `fresh`, with no copy of its bytes where the disk knows links."""
    target = fresh / to
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(data / file, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(data / file, target, follow_symlinks=False)


def free_name(label: str, name: str, digest: str, used: set[str]) -> str:
    """`label/name`, or with a part of the content hash where another photograph has that name; marks it as used.

    Upper and lower case count as the same, as they are on some disks.
    """
    safe = PurePosixPath(_safe(name))
    for candidate in (safe.name, f"{safe.stem}-{digest[:12]}{safe.suffix}", f"{digest}{safe.suffix}"):
        path = f"{label}/{candidate}"
        if path.casefold() not in used:
            break
    used.add(path.casefold())
    return path


def _keep(data: Path, fresh: Path) -> tuple[dict[str, Any], Origins]:
    """Link the photographs of `data`, to which others are added; (dataset.json, origins.csv)."""
    described = description(data)
    if described.get("drawn"):
        raise PawprintError(
            f"{data}/ holds the drawn sample, and photographs do not belong among drawings. Import without --add first."
        )
    known = known_origins(data)
    for file in known.hashes():
        link(data, file, fresh, file)
    return described or {"name": "photos"}, known


class _Importer:
    """Puts photographs into `fresh`, one at a time."""

    def __init__(self, fresh: Path, source: str, before: Origins) -> None:
        self.result = IngestResult(Dataset("", False, (), ()))
        self.origins = Origins(before)
        self._fresh, self._source = fresh, source
        self._settled = {row.hash for row in before}
        self._used = {row.file.casefold() for row in before}
        self._classes = {folder.name.casefold(): folder.name for folder in class_folders(fresh)}

    def copy(self, found: layouts.Recognised, archive: archives.Source) -> None:
        """All photographs of the archive."""
        wanted = {one.name: one for one in found.photographs}
        archives.enough_room(sum(archive.files[name] for name in wanted), self._fresh, self._source)
        incoming = self._fresh.with_name("incoming")
        with Progress(f"importing photographs of {self._source}", len(wanted)) as progress:
            for name, stream in archive.streams(wanted):
                self._place(incoming, _write(stream, incoming), wanted[name])
                progress.advance(1)

    def _place(self, incoming: Path, digest: str, one: layouts.Found) -> None:
        """Give the photograph in the file `incoming` its place, if it is new."""
        label = _safe(one.label)
        label = self._classes.setdefault(label.casefold(), label)
        original = PurePosixPath(one.name).name
        files = self.origins.files(digest, f"{label}/{_safe(original)}")
        same = sorted(file for file in files if file.split("/")[0] == label)
        file = next(iter(same or sorted(files)), "")
        others = sorted({other.split("/")[0] for other in files if other} - {label})
        if files == {""}:
            self.result.dropped += 1
        elif same:
            self.result.known += 1
        elif others and digest in self._settled:
            self.result.contradictions.append(f"{one.name} is called {label}; {file} has the same content and stays")
        else:
            file = free_name(label, original, digest, self._used)
            if others:
                self.result.contradictions.append(
                    f"{one.name} is called {label}, and {others[0]} too: both are imported"
                )
            self.result.added += 1
            (self._fresh / label).mkdir(exist_ok=True)
            incoming.rename(self._fresh / file)
        self.origins.add(Origin(file, label, digest, self._source, one.name, one.breed))


def _write(stream: IO[bytes], target: Path) -> str:
    """Copy a stream; the SHA-256 of what came."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while piece := stream.read(PIECE):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path, scratch: Path) -> Iterator[archives.Source]:
    """The archive at `path`, or the one of photographs inside it: Kaggle's outer zip holds train.zip."""
    with archives.opened(path) as outer:
        pictures = any(PurePosixPath(name).suffix.lower() in image.IMAGE_SUFFIXES for name in outer.files)
        packed = [name for name in outer.files if archives.is_archive(name) and "__MACOSX" not in name]
        train = [name for name in packed if PurePosixPath(name).name.startswith("train.")] or packed
        if pictures or len(train) != 1:
            yield outer
            return
        archives.enough_room(outer.files[train[0]], scratch.parent, str(path))
        for _, stream in outer.streams(train):
            _write(stream, scratch)
    with archives.opened(scratch) as inner:
        yield inner


def _refuse_classes(found: layouts.Recognised, archive: archives.Source, source: str) -> None:
    """A reserved name; and a folder beside the class folders without a photograph, which is a forgotten class."""
    labels = {one.label for one in found.photographs}
    for label in labels:
        refuse_reserved(label, source)
    if found.set_name:
        return
    full = {parent for one in found.photographs for parent in PurePosixPath(one.name).parents}
    homes = {parent.parent for parent in full if parent.name in labels}
    for folder in map(PurePosixPath, archive.folders):
        if folder.parent in homes and folder not in full and not folder.name.startswith("."):
            raise PawprintError(f"{source}: {folder}/ holds no photographs. Add some, or remove the folder.")


def _refuse_a_new_class_alone(found: layouts.Recognised, data: Path, source: str) -> None:
    """Photographs in one folder that is no class of data/ are more often a folder named anyhow than a new class."""
    there = [folder.name for folder in class_folders(data)] if data.is_dir() else []
    new = {_safe(one.label) for one in found.photographs}
    if len(new) == 1 and there and not {name.casefold() for name in new} & {name.casefold() for name in there}:
        (name,) = new
        raise PawprintError(
            f"{source} gives one class, only `{name}`, and {data}/ has {', '.join(there)}. Rename its folder to one of "
            f"these; or, if it is a new class, `mkdir {data / name}` first."
        )


def _same(data: Path, fresh: Path, before: dict[str, str], now: dict[str, str]) -> bool:
    """Is the new content the old one? `before` and `now`: file -> hash; `before` is empty where none is known."""

    def sizes(folder: Path) -> dict[str, int]:
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files_in(folder)}

    if not data.is_dir() or sizes(data) != sizes(fresh):
        return False
    if any((data / name).read_bytes() != (fresh / name).read_bytes() for name in (DATASET, origins.ORIGINS)):
        return False
    photographs = [file for folder in class_folders(data) for file in files_in(folder)]
    return (before or origins.hash_files(data, photographs)) == now


def _set_name(found: layouts.Recognised, label: str) -> str:
    classes = {one.label for one in found.photographs}
    if found.set_name and classes == {"cat", "dog"}:
        return found.set_name
    name = PurePosixPath(label).name.lower()
    name = re.sub(r"\.(zip|tar|tgz|tar\.\w+)$", "", name)
    return re.sub(r"[^a-z0-9._-]+", "-", name).strip("-._")[:64] or "photos"


def _safe(name: str) -> str:
    """A file or folder name that every disk can hold: composed, printable, of at most 150 characters."""
    name = unicodedata.normalize("NFC", name)
    name = "".join("_" if character in '\\/:*?"<>|' or not character.isprintable() else character for character in name)
    suffix = PurePosixPath(name).suffix[:20]
    return (name.removesuffix(suffix)[: 150 - len(suffix)] + suffix).strip(" .") or "photo"
