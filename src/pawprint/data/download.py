"""A source as a person names it -> a file or folder on this disk: public sets by name, http(s) and s3 by URL.

local("oxford-iiit-pet").path                          # cache/downloads/...-images.tar.gz, downloaded once
local("https://example.org/pets.zip", sha256="9f86d0...")
local("s3://bucket/pets/")                             # credentials from AWS_* variables, as everywhere

A download that breaks off resumes where it stopped, in this run and in the next; a file whose checksum is known is
never taken with another. A file without a checksum is downloaded again when the server reports a change.

http(s) is read with httpx and not fsspec, which cannot say whether the rest of a file still belongs to its beginning
(If-Range); docs/decisions/sources.md.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx

from pawprint import files
from pawprint.data import archives
from pawprint.errors import PawprintError
from pawprint.progress import Progress

TRIES = 5  # in a row that bring no byte
PAUSE = 1.0  # seconds before the second try, doubled each time
SILENCE = 30.0  # seconds without a byte
PIECE = 2**23
RESERVE = 2**30  # bytes of the disk that a download of unknown length leaves free


@dataclass(frozen=True)
class Public:
    """A public set; without a checksum where none has been published."""

    url: str
    checksum: str | None


PUBLIC = {
    "oxford-iiit-pet": Public(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c"
    ),
    "microsoft-cats-dogs": Public(
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
        "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
    ),
    "cats-and-dogs-filtered": Public("https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip", None),
}


@dataclass(frozen=True)
class Local:
    """A source on this disk."""

    path: Path
    label: str  # as origins.csv names it: a public set's name, a URL without secrets, a file's name
    downloaded: bool = False

    @contextmanager
    def forgotten_if_damaged(self) -> Iterator[None]:
        """A download that turns out to be no archive is not kept: the next import downloads it again."""
        try:
            yield
        except archives.Damaged:
            if self.downloaded and self.path.is_file():
                self.path.unlink(missing_ok=True)
            raise


def local(source: str | Path, sha256: str | None = None) -> Local:
    """Bring a source to this disk, if it is not there.

    Raises:
        PawprintError: it does not exist, cannot be downloaded, or has not the SHA-256.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise PawprintError(f"{sha256!r} is no SHA-256: it has 64 hexadecimal digits.")
    checksum = f"sha256:{sha256.lower()}" if sha256 else None
    name = str(source)
    if name in PUBLIC and not Path(name).exists():
        return Local(_download(PUBLIC[name].url, checksum or PUBLIC[name].checksum), name, downloaded=True)
    if re.match("(https?|s3)://", name):
        return Local(_download(name, checksum), public_part(name), downloaded=True)
    path = Path(source)
    refuse_missing(path)
    if checksum and path.is_dir():
        raise PawprintError(f"{path} is a folder, and a SHA-256 is of one file. Name no SHA-256.")
    if checksum:
        _verify(path, checksum, str(path))
    return Local(path, path.resolve().name)


def refuse_missing(source: str | Path) -> None:
    """PawprintError where a source is no URL, no public set and not on this disk."""
    name = str(source)
    if name not in PUBLIC and not re.match("(https?|s3)://", name) and not Path(source).exists():
        raise PawprintError(
            f"{source} does not exist. Name a zip, tar or folder, an http(s) or s3 URL, or one of {', '.join(PUBLIC)}."
        )


def downloads() -> Path:
    """downloads/ in PAWPRINT_CACHE, or in cache/ where the command runs; safe to delete."""
    return Path(os.environ.get("PAWPRINT_CACHE", "cache")) / "downloads"


def _download(url: str, checksum: str | None) -> Path:
    base = re.sub(r"[^\w.-]+", "-", PurePosixPath(urlsplit(url).path).name) or "photographs"
    target = downloads() / f"{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}-{base}"
    remote = S3(url) if url.startswith("s3:") else Http(url)
    busy = f"{remote.shown} is being downloaded by another process. Wait for it."
    try:
        with files.lock(target.with_name(f"{target.name}.lock"), busy):
            if not isinstance(remote, S3) or not remote.is_folder():
                _download_file(remote, target, checksum)
            elif checksum:
                raise PawprintError(f"{remote.shown} is a folder, and a SHA-256 is of one file. Name no SHA-256.")
            else:
                _retry(remote.shown, lambda: remote.copy(target), lambda: sum(1 for _ in target.rglob("*")))
    except Again as error:
        raise PawprintError(
            f"{public_part(url)} cannot be downloaded ({error}). What has arrived is kept: run again to resume."
        ) from None
    return target


def _download_file(remote: "Http | S3", target: Path, checksum: str | None) -> None:
    note, partial = (target.with_name(f"{target.name}.{kind}") for kind in ("json", "partial"))
    if target.exists():
        if _matches(target, checksum) if checksum else not remote.changed(files.read_json(note) or {}):
            return
        target.unlink()

    def attempt() -> None:
        try:
            _attempt(remote, partial, note, bool(checksum))
        except Stale:
            partial.unlink(missing_ok=True)
            raise

    _retry(remote.shown, attempt, lambda: _size(partial))
    if checksum:
        try:
            _verify(partial, checksum, remote.shown)
        except PawprintError:
            partial.unlink()
            raise
    partial.replace(target)


def _retry(shown: str, attempt: Callable[[], None], progress: Callable[[], int]) -> None:
    """Try until it is done, as long as tries bring something: `progress` measures what is here."""
    fruitless = 0
    while True:
        before = progress()
        try:
            return attempt()
        except Again as error:
            fruitless = 0 if progress() > before else fruitless + 1
            if fruitless == TRIES:
                raise
            print(f"{shown}: {error}; trying again", file=sys.stderr, flush=True)
        time.sleep(PAUSE * 2 ** max(0, fruitless - 1))


def _attempt(remote: "Http | S3", partial: Path, note: Path, has_checksum: bool) -> None:
    known = files.read_json(note) or {}
    # Without a validator or a checksum nobody could say whether the rest belongs to what is here.
    have = _size(partial) if known.get("validator") or has_checksum else 0
    with remote.stream(have, known.get("validator", "")) as (start, total, validator, pieces):
        if (total or 0) > archives.MAX_BYTES:
            raise PawprintError(f"{remote.shown} has {total:,} bytes, which is too much: it is rejected.")
        archives.enough_room((total or start) - start, partial.parent, remote.shown)
        room = shutil.disk_usage(partial.parent).free + start - RESERVE  # for one that does not say its length
        with partial.open("ab") as file, Progress(remote.shown, total, in_bytes=True) as bar:
            file.truncate(start)
            files.write_json(note, {"url": remote.shown, "validator": validator})
            bar.advance(start)
            for piece in pieces:
                file.write(piece)
                bar.advance(len(piece))
                if bar.done > archives.MAX_BYTES or (total is None and bar.done > room):
                    partial.unlink()
                    raise PawprintError(
                        f"{remote.shown} does not say its length and does not end after {bar.done:,} bytes: it is "
                        "rejected. Download it by hand."
                    )
    if total is not None and _size(partial) != total:
        raise Again(f"it broke off at {_size(partial):,} of {total:,} bytes")


def _matches(path: Path, checksum: str) -> bool:
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == expected


def _verify(path: Path, checksum: str, shown: str) -> None:
    if not _matches(path, checksum):
        raise PawprintError(f"{shown} has another checksum than {checksum}: changed or damaged, it is rejected.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Again(Exception):
    """A failure that may pass: the next try resumes where this one stopped."""


class Stale(Again):
    """What is here belongs to another file: the next try starts at the beginning."""


Stream = tuple[int, int | None, str, Iterator[bytes]]  # first byte, all bytes if known, validator, pieces


class Http:
    """A file on an http(s) server."""

    def __init__(self, url: str) -> None:
        self.url, self.shown = url, public_part(url)

    def changed(self, known: dict[str, str]) -> bool:
        """Does the server report another file now? Where it cannot be reached: no."""
        try:
            answer = httpx.head(self.url, follow_redirects=True, timeout=SILENCE)
        except httpx.HTTPError:
            return False
        return answer.is_success and _validator(answer) != known.get("validator", "")

    @contextmanager
    def stream(self, have: int, validator: str) -> Iterator[Stream]:
        """The bytes after the first `have`, if the file is still the one that `validator` belongs to."""
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator  # the whole file, where it is another one by now
        try:
            with httpx.stream("GET", self.url, headers=headers, follow_redirects=True, timeout=SILENCE) as answer:
                yield self._read(answer, have, validator)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise PawprintError(f"{self.shown} cannot be downloaded ({error}). Check the URL.") from None
        except httpx.TransportError as error:
            raise Again(str(error) or type(error).__name__) from None

    def _read(self, answer: httpx.Response, have: int, validator: str) -> Stream:
        status, problem = answer.status_code, f"the server answers {answer.status_code} {answer.reason_phrase}"
        part = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
        if status == 416:  # nothing follows what is here: it is whole, or another file lies there by now
            if not part or int(part[2]) != have:
                raise Stale("the server has another file now")
            return have, have, _validator(answer), iter(())
        if status in (408, 425, 429) or status >= 500:
            raise Again(problem)
        if status not in (200, 206):
            raise PawprintError(f"{self.shown} cannot be downloaded: {problem}. Check the URL.")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise PawprintError(f"{self.shown} is a web page, not an archive. Behind a login? Download it by hand.")
        if status == 206:
            other = validator and validator != _validator(answer)
            if other or not part or part[1] is None or int(part[1]) != have:
                raise Stale("the server sends a part of something else")
            return have, int(part[2]), _validator(answer), answer.iter_raw()
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None, _validator(answer), answer.iter_raw()


class S3:
    """A file, or a folder, in a bucket."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = self.shown = url
        with self._explained():
            self._files = fsspec.filesystem("s3", use_listings_cache=False)

    def is_folder(self) -> bool:
        """Is it a prefix of many files?"""
        with self._explained():
            return bool(self._files.isdir(self.url))

    def changed(self, known: dict[str, str]) -> bool:
        with self._explained():
            return files.etag(self._files.info(self.url)) != known.get("validator", "")

    @contextmanager
    def stream(self, have: int, validator: str) -> Iterator[Stream]:
        """The bytes after the first `have`, if the file is still the one that `validator` belongs to."""
        with self._explained():
            info = self._files.info(self.url)
            start = have if files.etag(info) == validator and have <= info["size"] else 0
            with self._files.open(self.url, "rb", cache_type="none", block_size=PIECE) as file:
                file.seek(start)
                yield start, info["size"], files.etag(info), iter(lambda: file.read(PIECE), b"")

    def copy(self, target: Path) -> None:
        """The files below it, each whole; those that are here already are not downloaded again."""
        note = target.with_name(f"{target.name}.json")
        known = files.read_json(note) or {}
        with self._explained():
            root = self._files._strip_protocol(self.url).rstrip("/")
            found = {key.removeprefix(f"{root}/"): info for key, info in self._files.find(root, detail=True).items()}
            if outside := next((name for name in found if ".." in PurePosixPath(name).parts), ""):
                raise PawprintError(f"{self.shown} names a place outside itself (`{outside}`): it is rejected.")
            archives.enough_room(sum(info["size"] for info in found.values()), target.parent, self.shown)
            for file in [file for file in target.rglob("*") if file.is_file()]:
                name = file.relative_to(target).as_posix()
                if name not in found or known.get(name) != files.etag(found[name]):
                    file.unlink()
            files.write_json(note, {name: files.etag(info) for name, info in found.items()})
            with Progress(f"downloading {self.shown}", len(found)) as progress:
                for name in found:
                    if not (target / name).exists():
                        with files.new_file(target / name) as partial:
                            self._files.get_file(f"{root}/{name}", str(partial))
                    progress.advance(1)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import aiohttp
        import botocore.exceptions as boto

        try:
            yield
        except FileNotFoundError:
            raise PawprintError(f"{self.url} does not exist, or you may not list it.") from None
        except PermissionError as error:
            raise PawprintError(f"{self.url} may not be read ({error}). Check AWS_ACCESS_KEY_ID.") from None
        except (boto.NoCredentialsError, boto.ParamValidationError) as error:
            raise PawprintError(f"{self.url} cannot be requested ({error}). Set AWS_ACCESS_KEY_ID etc.") from None
        except (boto.BotoCoreError, aiohttp.ClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise Again(str(error)) from None


def _validator(answer: httpx.Response) -> str:
    """Identifies the bytes of a response; empty where the server sends nothing that does."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(answer.headers.get("Last-Modified", ""))


def public_part(url: str) -> str:
    """The URL without user, password, query and fragment, where secrets may stand."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
