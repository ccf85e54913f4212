"""Import of photographs: a source -> data/<class>/*, all or nothing.

ingest("train.zip", Path("data"))                            # a zip, a tar, a folder, a URL, a public set's name
ingest("more/", Path("data"), add=True)                      # beside what is there

layouts.py gives each file of a source its class, archives.py reads them safely, download.py fetches them, origins.py
keeps where each came from.
"""

import hashlib
import os
import re
import shlex
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
    ORIGINS,
    Dataset,
    class_folders,
    dataset,
    description,
    has_control,
    is_utf8,
    refuse_name,
)
from pawprint.data.origins import Origin, Origins
from pawprint.errors import PawprintError
from pawprint.files import files_in, hidden, recover, refuse_link, replace_folder, write_json
from pawprint.progress import Progress

PIECE = 2**20  # bytes copied at a time
_TEXTS = {".csv", ".json", ".tsv", ".txt", ".xml"}  # there may be one a photograph: not looked into
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
    ignored: tuple[str, ...] = ()  # files that are no pictures, or of no class
    unlabelled: int = 0  # of these: a competition's test pictures
    classes: str = ""  # photographs of the source by class
    splits: str = ""  # and by split, where the source has some
    contradictions: list[str] = field(default_factory=list)  # the same content under another class, a sentence each

    def summary(self) -> str:
        """One line for a person; it names the first files that were ignored."""
        counts = {
            "new": self.added, "there already": self.known, "dropped before": self.dropped,
            "earlier decisions gone (--add keeps them)": self.undecided,
            "under another class": len(self.contradictions), "test photographs without a class": self.unlabelled,
            "ignored": len(self.ignored) - self.unlabelled,
        }  # fmt: skip
        parts = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        files, classes = len(self.dataset.photographs), len(self.dataset.classes)
        whole = f"{self.dataset.name}: {files:,} files in {classes} classes"
        if not self.changed:
            return f"{whole}, as before: nothing has changed."
        more = f" and {len(self.ignored) - 3:,} more" if len(self.ignored) > 3 else ""
        named = f" Ignored: {', '.join(self.ignored[:3])}{more}." if self.ignored else ""
        return f"{whole} ({parts}). The source has {self.classes}.{self.splits}{named}"


def ingest(
    source: str | Path,
    data: Path,
    name: str | None = None,
    add: bool = False,
    sha256: str | None = None,
    layout: layouts.Layout = "auto",
    labels: str = "",
    encoding: str = "",
) -> IngestResult:
    """Replace `data` by the photographs of `source`, or `add` them; where that fails `data` stays as it was.

    `layout` is what the classes are (see layouts.recognise); `labels` a table of them, a file of the source or on disk;
    `encoding` is of the names in an old zip.

    Raises:
        PawprintError: the source cannot be read or downloaded, is of no known layout, unsafe or damaged, or has
            another SHA-256; the set would have fewer than two classes; or the disk is full.
    """
    check(source, name)
    refuse_link(data)
    recover(data)
    local = download.local(source, sha256)
    with replace_folder(data) as fresh:
        described, before = _keep(data, fresh) if add and data.exists() else ({}, Origins())
        with local.forgotten_if_damaged(), _opened(local.path, fresh.with_name("inner"), encoding) as archive:
            _refuse_files(archive, str(source))
            table = _labels(archive, labels) if labels else None
            found = layouts.recognise(sorted(archive.files), str(source), layout, _by_content(archive), table)
            _refuse_classes(found, archive, str(source))
            _refuse_one_class(found, data, add, str(source))
            importer = _Importer(fresh, local.label, before)
            importer.copy(found, archive)
        origins.write(importer.origins, fresh)
        described = described or {"name": _set_name(found, local.label), "drawn": False, "source": local.label}
        write_json(fresh / DATASET, described | ({"name": name} if name else {}))
        result = importer.result
        result.changed = not _same(data, fresh, before.hashes(), importer.origins.hashes())
        result.undecided = 0 if add or not result.changed else origins.decided(data)
        if not result.changed:
            shutil.rmtree(fresh)  # not even a file's time changes, for which DVC would hash it again
    result.dataset, result.ignored, result.unlabelled = dataset(data), found.ignored, found.unlabelled
    result.classes, result.splits = found.counts(), found.splits()
    return result


def check(source: str | Path, name: str | None = None) -> None:
    """Refuse at once a source that is not there and a name that no data set can have.

    Raises:
        PawprintError: see above.
    """
    if name is not None and not NAME.fullmatch(name):
        raise PawprintError(
            f"{name!r} cannot name a data set: use lower-case letters, digits, dots and dashes, as in `{_plain(name)}`."
        )
    download.refuse_missing(source)


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
        self._made: dict[str, str] = {}  # classes of this import
        there = [folder.name for folder in class_folders(fresh)]
        self._classes = {name.casefold(): name for name in there} | {name: name for name in there}

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
        label = self._label(one.label)
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
            incoming.rename(self._fresh / file)
        self.origins.add(Origin(file, label, digest, self._source, one.name, one.breed, one.split))

    def _label(self, name: str) -> str:
        """The class of this name: one that was there before, in upper or lower case; else a new one."""
        name = unicodedata.normalize("NFC", name)
        label = self._made.get(name) or self._classes.get(name) or self._classes.get(name.casefold())
        if label is None:
            try:
                (self._fresh / name).mkdir()
            except FileExistsError:
                raise PawprintError(
                    f"{self._source} has two classes `{name}` that differ by upper and lower case, which are one "
                    "folder on this disk. Rename one."
                ) from None
            label = self._made[name] = name
        return label


def _write(stream: IO[bytes], target: Path) -> str:
    """Copy a stream; the SHA-256 of what came."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while piece := stream.read(PIECE):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path, scratch: Path, encoding: str) -> Iterator[archives.Source]:
    """The archive at `path`, or the one of photographs inside it: Kaggle's outer zip holds train.zip."""
    with archives.opened(path, encoding) as outer:
        pictures = any(PurePosixPath(name).suffix.lower() in image.IMAGE_SUFFIXES for name in outer.files)
        packed = [name for name in outer.files if archives.is_archive(name) and "__MACOSX" not in name]
        train = [name for name in packed if PurePosixPath(name).name.startswith("train.")] or packed
        if pictures or len(train) != 1:
            yield outer
            return
        archives.enough_room(outer.files[train[0]], scratch.parent, str(path))
        for _, stream in outer.streams(train):
            _write(stream, scratch)
    with archives.opened(scratch, encoding) as inner:
        yield inner


def _by_content(archive: archives.Source) -> set[str]:
    """Names of pictures whose suffix is none of a picture: there is none, or it is wrong."""
    paths = map(PurePosixPath, archive.files)
    unknown = {
        str(path)
        for path in paths
        if path.suffix.lower() not in image.IMAGE_SUFFIXES | _TEXTS and not any(map(hidden, path.parts))
    }
    return {name for name, stream in archive.streams(unknown) if image.is_picture(stream.read(12))}


def _labels(archive: archives.Source, table: str) -> dict[str, str]:
    """The table of labels: a file of the source, or on disk."""
    inside = [name for name in archive.files if name == table or name.endswith(f"/{table}")]
    if inside:
        return next(layouts.read_labels(stream.read(), table) for _, stream in archive.streams(inside[:1]))
    try:
        return layouts.read_labels(Path(table).read_bytes(), table)
    except OSError as error:
        problem = f"{table} is no file of the source, nor one here that can be read ({error.strerror})"
        raise PawprintError(f"{problem}. Name the table of labels.") from None


def _refuse_files(archive: archives.Source, source: str) -> None:
    """Names of pictures that lists of files cannot hold."""
    for path in map(PurePosixPath, archive.files):
        odd = has_control(str(path)) or not is_utf8(str(path))
        if odd and path.suffix.lower() in image.IMAGE_SUFFIXES and not any(map(hidden, path.parts)):
            raise PawprintError(
                f"{source} has a file {str(path)[-80:]!a}, whose name has control characters or is no valid UTF-8. "
                "Rename it."
            )


def _refuse_classes(found: layouts.Recognised, archive: archives.Source, source: str) -> None:
    """Names that no class can have; and a folder beside the class folders without a photograph: a forgotten class."""
    labels = {one.label for one in found.photographs}
    spelled: dict[str, str] = {}
    for label in sorted(labels):
        name = unicodedata.normalize("NFC", label)
        refuse_name(name, source)
        shown = " ".join(re.sub("[\u200b\ufeff]", "", name).split())  # a space behind it, a character of no width
        if (other := spelled.setdefault(shown, label)) != label:
            raise PawprintError(
                f"{source} has two classes `{shown}` that look alike and are encoded differently ({other!a} and "
                f"{label!a}). Rename one, or put their photographs into one folder."
            )
    if found.set_name:
        return
    full = {parent for one in found.photographs for parent in PurePosixPath(one.name).parents}
    homes = {parent.parent for parent in full if parent.name in labels}
    for folder in map(PurePosixPath, archive.folders):
        if folder.parent in homes and folder not in full and not hidden(folder.name):
            raise PawprintError(f"{source}: {folder}/ holds no photographs. Add some, or remove the folder.")


def _refuse_one_class(found: layouts.Recognised, data: Path, add: bool, source: str) -> None:
    """One class is no set. Added to one, a class that it does not have is more often a folder named anyhow."""
    there = [folder.name for folder in class_folders(data)] if add and data.is_dir() else []
    new = {one.label for one in found.photographs}
    only = f"only `{next(iter(new))}`" if new else "none"
    if len(new | set(there)) < 2:
        problem, remedy = f"gives fewer than two classes: {only}", f"Known are {layouts.LAYOUTS}."
    elif len(new) == 1 and not {name.casefold() for name in new} & {name.casefold() for name in there}:
        problem = f"gives one class, {only}, and {data}/ has {', '.join(there)}"
        remedy = (
            "Rename its folder to one of these; or, if it is a new class, "
            f"`mkdir {shlex.quote(str(data / next(iter(new))))}` first."
        )
    else:
        return
    if others := found.other_layouts():
        remedy = "\n".join([f"{remedy}\nOr import with the option that is right:", *others])
    raise PawprintError(f"{source} {problem}. {remedy}")


def _same(data: Path, fresh: Path, before: dict[str, str], now: dict[str, str]) -> bool:
    """Is the new content the old one? `before` and `now`: file -> hash; `before` is empty where none is known."""

    def sizes(folder: Path) -> dict[str, int]:
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files_in(folder)}

    if not data.is_dir() or sizes(data) != sizes(fresh):
        return False
    if any((data / name).read_bytes() != (fresh / name).read_bytes() for name in (DATASET, ORIGINS)):
        return False
    photographs = [file for folder in class_folders(data) for file in files_in(folder)]
    return (before or origins.hash_files(data, photographs)) == now


def _set_name(found: layouts.Recognised, label: str) -> str:
    classes = {one.label for one in found.photographs}
    if found.set_name and classes == {"cat", "dog"}:
        return found.set_name
    return _plain(re.sub(r"\.(zip|tar|tgz|tar\.\w+)$", "", PurePosixPath(label).name.lower()))


def _plain(name: str) -> str:
    """A name that a data set can have: `Büro pets` -> `buro-pets`."""
    letters = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", letters).strip("-._")[:64] or "photos"


def _safe(name: str) -> str:
    """A file's name that every disk can hold: composed, printable, of at most 150 bytes."""
    name = unicodedata.normalize("NFC", name)
    name = "".join("_" if character in '\\/:*?"<>|' or not character.isprintable() else character for character in name)
    suffix = PurePosixPath(name).suffix[:20]
    stem = name.removesuffix(suffix).encode()[: 150 - len(suffix.encode())].decode(errors="ignore")
    return (stem + suffix).strip(" .") or "photo"
