"""What is in a zip, a tar or a folder, read safely: names first, then bytes, and nothing is ever unpacked by its name.

with opened(Path("images.tar.gz")) as source:
    source.files                              # ("images/Abyssinian_1.jpg", ...)
    for name, stream in source.streams(wanted):       # in the archive's order

An archive that names a place outside itself, holds a link, claims an absurd size, is encrypted, damaged or cut short
is refused with a PawprintError that names it, before or while it is read.
"""

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pawprint.errors import PawprintError
from pawprint.files import hidden, unreadable
from pawprint.progress import Progress

MAX_FILES = 5_000_000  # members of an archive
MAX_BYTES = 500 * 2**30  # all of an archive, unpacked
MAX_PHOTOGRAPH = 2**30  # one member that is not an archive itself
MAX_NOTE = 2**20  # a header of a tar: a long name, ...
MAX_RATIO = 200  # unpacked to packed bytes; pictures are packed already, and stay near 1
FREE_RATIO_BYTES = 64 * 2**20  # below this, unpacked, no ratio is absurd (small drawings pack well)
BLOCK = tarfile.BLOCKSIZE
_UTF8 = 0x800  # flag of a zip's member: its name is UTF-8
_CODE_PAGES = ("gbk", "big5", "cp932", "cp949", "cp866", "cp850", "cp437")  # of Windows, by language
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Damaged(PawprintError):
    """An archive that is none, or not whole: another copy of it may be better."""


@dataclass(frozen=True)
class Source:
    """An open zip, tar or folder."""

    files: dict[str, int]  # name with "/" between its parts -> bytes, in the order in which they are read
    folders: tuple[str, ...]  # those of a folder on disk; an archive's follow from its files
    _open: Callable[[str], IO[bytes]]

    def streams(self, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
        """The bytes of the `wanted` names, each to be read before the next."""
        for name in self.files:
            if name in wanted:
                with self._open(name) as stream:
                    yield name, stream

    def read(self, name: str) -> bytes:
        """The bytes of one; those of a packed tar are wanted in their order."""
        with self._open(name) as stream:
            return stream.read()


@contextmanager
def opened(path: Path, encoding: str = "") -> Iterator[Source]:
    """Open a folder or an archive by its content, whatever its suffix; `encoding` of an old zip's names.

    Raises:
        PawprintError: it is none, or an unsafe or damaged one.
    """
    if path.is_dir():
        yield _folder(path)
        return
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _zip(archive, path, encoding)
        else:
            with _open_tar(path) as tar:
                yield _tar(tar, path)
    except (zipfile.BadZipFile, zlib.error, tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise Damaged(f"{path} is damaged or cut short ({error}). Bring it again.") from None
    except _Absurd as error:
        raise PawprintError(f"{path} has {error}: it is rejected.") from None
    except NotImplementedError as error:
        raise PawprintError(f"{path} is packed in a way that is not known here ({error}). Pack it again.") from None


def is_archive(name: str) -> bool:
    """Is this the name of an archive?"""
    return name.lower().endswith(ARCHIVES)


def _folder(root: Path) -> Source:
    # The folder's own name belongs to the names, as an archive's top folder does: `images`, `PetImages`, ...
    home = root.resolve()
    top = home.name.lstrip(".") or "folder"
    found: dict[str, Path] = {}
    folders = []
    for folder, inside, files in os.walk(home, onerror=unreadable):
        for name in (*inside, *files):
            path = Path(folder, name)
            if path.is_symlink() and not hidden(name) and (problem := _problem_of_link(path, home)):
                raise PawprintError(f"{path} is a link {problem}. Copy what it points at (`cp -rL`), or remove it.")
        folders += [PurePosixPath(top, Path(folder, name).relative_to(home)).as_posix() for name in inside]
        for path in (Path(folder, name) for name in files):
            if path.is_file():
                found[PurePosixPath(top, path.relative_to(home)).as_posix()] = path
    sizes = {name: found[name].stat().st_size for name in sorted(found)}
    return Source(sizes, tuple(folders), lambda name: _open_file(found[name]))


def _problem_of_link(link: Path, home: Path) -> str:
    if not link.exists():
        return "to nothing"
    if not link.resolve().is_relative_to(home):
        return f"that leads out of {home}/"
    return "to a folder, which is not followed" if link.is_dir() else ""


def _open_file(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        unreadable(error)


def _zip(archive: zipfile.ZipFile, path: Path, encoding: str) -> Source:
    guard = _Guard(path)
    names = _zip_names(archive, encoding)
    for name, entry in zip(names, archive.infolist(), strict=True):
        guard.check(name, entry.file_size, link=(entry.external_attr >> 28) == 0o12)
        if entry.flag_bits & 1:
            raise PawprintError(f"{path} is encrypted. Unpack it with its password and name the folder.")
    entries = {name: entry for name, entry in zip(names, archive.infolist(), strict=True) if not name.endswith("/")}
    sizes = {name: entries[name].file_size for name in sorted(entries)}
    return Source(sizes, (), lambda name: archive.open(entries[name]))


def _zip_names(archive: zipfile.ZipFile, encoding: str) -> list[str]:
    """The names of a zip's members. Windows' tools write backslashes, and names in the code page of their language
    without saying which: where it is none of ASCII and UTF-8, a person has to."""
    names = []
    for entry in archive.infolist():
        name = entry.filename
        if not entry.flag_bits & _UTF8 and not name.isascii():
            raw = name.encode("cp437")
            decoded = _decoded(raw, encoding or "utf-8")
            if decoded is None:
                seen = [f"  --encoding {page}: {text}" for page in _CODE_PAGES if (text := _decoded(raw, page))]
                problem = f"are not {encoding}" if encoding else "do not say which code page they are in"
                raise PawprintError(
                    "\n".join([f"{archive.filename}: names {problem}. Import with the right one:", *seen])
                )
            name = decoded
        names.append(name.replace("\\", "/"))
    return names


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _tar(archive: tarfile.TarFile, path: Path) -> Source:
    guard, entries = _Guard(path), {}
    with Progress(f"listing {path.name}", None) as progress:
        for entry in _members(archive):
            guard.check(entry.name, entry.size, link=not (entry.isreg() or entry.isdir()) or entry.issparse())
            if entry.isreg():
                entries[entry.name.removeprefix("./")] = entry
            progress.advance(1)
    # tarfile takes an archive that ends anywhere between two members for a whole one; a whole one ends in zeros.
    if not any(_is_zero(archive, place) for place in (archive.offset, max(0, archive.offset - BLOCK))):
        raise EOFError("its end is missing")

    def opened(name: str) -> IO[bytes]:
        stream = archive.extractfile(entries[name])
        assert stream is not None
        return stream

    in_order = sorted(entries.values(), key=lambda entry: entry.offset)  # a packed tar cannot go back
    return Source({entry.name.removeprefix("./"): entry.size for entry in in_order}, (), opened)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members; _Absurd where headers lead tarfile astray."""
    while True:
        with _absurd_headers():
            entry = archive.next()
        if entry is None:
            return
        if entry.size < 0:
            raise _Absurd(f"a member of {entry.size:,} bytes")
        yield entry


@contextmanager
def _absurd_headers() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise _Absurd("hundreds of headers before one member") from None
    except (ValueError, OverflowError, IndexError) as error:
        raise _Absurd(f"a header that makes no sense ({error})") from None


def _is_zero(archive: tarfile.TarFile, place: int) -> bool:
    stream = archive.fileobj
    assert stream is not None
    stream.seek(place)
    return bool(stream.read(BLOCK) == bytes(BLOCK))


class _Absurd(Exception):
    """What no archive of photographs has."""


class _Entry(tarfile.TarInfo):
    """A member. What stands before one (a long name, ...) is read whole into memory by tarfile, so it has a limit."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.size > MAX_NOTE and not (self.isreg() or self.isdir())):
            raise _Absurd(f"a header of {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        with _absurd_headers():
            return tarfile.open(path, tarinfo=_Entry)
    except tarfile.ReadError:
        raise Damaged(f"{path} is no zip or tar archive, or it is cut short. Bring it again.") from None


class _Guard:
    """Refuses what no archive of photographs needs, from the headers alone."""

    def __init__(self, path: Path) -> None:
        self._path, self._packed = path, path.stat().st_size
        self._files = self._bytes = 0

    def check(self, name: str, size: int, link: bool) -> None:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")):
            raise PawprintError(f"{self._path} names a place outside itself (`{name}`): it is rejected.")
        if "\0" in name:
            raise PawprintError(f"{self._path} holds a name with a zero byte ({name[:80]!a}): it is rejected.")
        if link:
            raise PawprintError(f"{self._path} holds a link or a device (`{name}`): it is rejected.")
        self._files += 1
        self._bytes += size
        if self._files > MAX_FILES:
            raise PawprintError(f"{self._path} holds more than {MAX_FILES:,} files: it is rejected.")
        if size > MAX_PHOTOGRAPH and not is_archive(name):
            raise PawprintError(f"{self._path} holds a file of {size:,} bytes (`{name}`): it is rejected.")
        absurd = self._bytes > max(FREE_RATIO_BYTES, MAX_RATIO * self._packed)
        if self._bytes > MAX_BYTES or absurd:
            raise PawprintError(
                f"{self._path} has {self._packed:,} bytes and unpacks to {self._bytes:,} or more: it is rejected."
            )


def enough_room(size: int, folder: Path, what: str) -> None:
    """PawprintError where `size` more bytes do not fit the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise PawprintError(f"{what} needs {size:,} bytes, and the disk has {free:,} left. Free some, run again.")
