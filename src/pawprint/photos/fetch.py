"""A source as a person names it -> a file or folder on this disk: public sets by name, http(s) and s3 by URL.

local("oxford-iiit-pet").path                          # cache/downloads/...-images.tar.gz, downloaded once
local("https://example.org/pets.zip", sha256="9f86d0...")
local("s3://bucket/pets/")                             # AWS_* variables say where and who, as they do everywhere

A download that breaks off goes on where it stopped, in this run and in the next; a file whose checksum is known is
never taken with another. One without is asked for again when the server says that it has changed.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import httpx
import tenacity

from pawprint.errors import PawprintError
from pawprint.lineage import sha256 as sha256_of
from pawprint.photos import archives
from pawprint.photos.progress import Progress

TRIES = 5  # in a row that bring no byte
PAUSE = 1.0  # seconds before the second try, doubled each time
SILENCE = 30.0  # seconds without a byte
PIECE = 2**20


@dataclass(frozen=True)
class Public:
    """A public set: where it lies and what it must be; no checksum where none has been published."""

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
    label: str  # what origins call it: a public set's name, a URL without what is secret in it, a file's name


class _Again(Exception):
    """A failure that may pass: the next try goes on where this one stopped, or `anew`."""

    def __init__(self, message: str, anew: bool = False) -> None:
        super().__init__(message)
        self.anew = anew


def local(source: str | Path, sha256: str | None = None) -> Local:
    """Bring a source to this disk, if it is not there.

    Raises:
        PawprintError: it does not exist, cannot be had, or has another SHA-256 than the one that is asked for.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise PawprintError(f"{sha256!r} is no SHA-256: it has 64 hexadecimal digits.")
    checksum = f"sha256:{sha256.lower()}" if sha256 else None
    name = str(source)
    if name in PUBLIC and not Path(name).exists():
        return Local(_download(PUBLIC[name].url, checksum or PUBLIC[name].checksum), name)
    if re.match("(https?|s3)://", name):
        return Local(_download(name, checksum), _public_part(name))
    path = Path(source)
    if not path.exists():
        raise PawprintError(
            f"{source} does not exist. Name a zip, tar or folder, an http(s) or s3 URL, or one of {', '.join(PUBLIC)}."
        )
    if checksum:
        _verify(path, checksum)
    return Local(path, path.resolve().name)


def downloads() -> Path:
    """downloads/ in PAWPRINT_CACHE, or in cache/ where the command runs; safe to delete."""
    return Path(os.environ.get("PAWPRINT_CACHE", "cache")) / "downloads"


def _download(url: str, checksum: str | None) -> Path:
    folder = downloads()
    folder.mkdir(parents=True, exist_ok=True)
    base = re.sub(r"[^\w.-]+", "-", PurePosixPath(urlsplit(url).path).name) or "photographs"
    name = f"{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}-{base}"
    try:
        if not url.startswith("s3:"):
            return _download_file(_Http(url), folder, name, checksum)
        bucket = _S3(url)
        if not bucket.is_folder():
            return _download_file(bucket, folder, name, checksum)
        if checksum:
            raise PawprintError(f"{bucket.shown} is a folder, and a SHA-256 is of one file. Leave it out.")
        target = folder / name
        _patiently(bucket.shown, lambda: bucket.copy(target), lambda: sum(1 for _ in target.rglob("*")))
        return target
    except _Again as error:
        raise PawprintError(
            f"{_public_part(url)} cannot be had ({error}). What has come is kept: run again, and it goes on there."
        ) from None


def _download_file(remote: "_Http | _S3", folder: Path, name: str, checksum: str | None) -> Path:
    """By pooch, which keeps what has the right checksum; resumed and tried again by what follows."""
    import pooch

    note = folder / f"{name}.json"
    if checksum is None and (folder / name).exists() and remote.changed(_read(note)):
        (folder / name).unlink()

    def resume(_: str, target: str, __: Any) -> None:
        partial = folder / f"{name}.partial"

        def attempt() -> None:
            try:
                _attempt(remote, partial, note, bool(checksum))
            except _Again as error:
                if error.anew:
                    partial.unlink(missing_ok=True)
                raise

        _patiently(remote.shown, attempt, lambda: _size(partial))
        partial.replace(target)

    try:
        pooch.get_logger().setLevel("WARNING")
        return Path(pooch.retrieve(remote.url, checksum, name, folder, downloader=resume))
    except ValueError:  # pooch's word for another checksum
        raise PawprintError(
            f"{remote.shown} has another checksum than {checksum}: changed or damaged, it is not taken."
        ) from None


def _patiently(shown: str, attempt: Callable[[], None], brought: Callable[[], int]) -> None:
    """Try until it is done, as long as tries bring something: `brought` says how much is here."""
    fruitless = 0

    def once() -> None:
        nonlocal fruitless
        before = brought()
        try:
            attempt()
        except _Again:
            fruitless = 0 if brought() > before else fruitless + 1
            raise

    tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Again),
        stop=lambda _: fruitless >= TRIES,
        wait=lambda _: PAUSE * 2 ** max(0, fruitless - 1),
        before_sleep=lambda state: print(f"{shown}: {_error(state)}; trying again", file=sys.stderr, flush=True),
        reraise=True,
    )(once)


def _attempt(remote: "_Http | _S3", partial: Path, note: Path, vouched: bool) -> None:
    known = _read(note)
    # Without a validator or a checksum nobody could say whether the rest belongs to what is here.
    have = _size(partial) if known.get("validator") or vouched else 0
    with remote.stream(have, known.get("validator", "")) as (start, total, validator, pieces):
        if (total or 0) > archives.MAX_BYTES:
            raise PawprintError(f"{remote.shown} has {total:,} bytes: it is not taken.")
        archives.enough_room((total or start) - start, partial.parent, remote.shown)
        with partial.open("ab") as file, Progress(remote.shown, total, in_bytes=True) as progress:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PawprintError(f"{remote.shown} is being downloaded by another process. Wait for it.") from None
            file.truncate(start)
            note.write_text(json.dumps({"url": remote.shown, "validator": validator}), encoding="utf-8")
            progress.advance(start)
            for piece in pieces:
                file.write(piece)
                progress.advance(len(piece))
                if progress.done > archives.MAX_BYTES:
                    raise PawprintError(f"{remote.shown} does not end: it is not taken.")
    if total is not None and _size(partial) != total:
        raise _Again(f"it broke off at {_size(partial):,} of {total:,} bytes")


_Stream = tuple[int, int | None, str, Iterator[bytes]]  # first byte, all bytes if known, validator, pieces


class _Http:
    def __init__(self, url: str) -> None:
        self.url, self.shown = url, _public_part(url)

    def changed(self, known: dict[str, str]) -> bool:
        """Does the server say that it has another file now? Where nothing can be asked, no."""
        try:
            answer = httpx.head(self.url, follow_redirects=True, timeout=SILENCE)
        except httpx.HTTPError:
            return False
        return answer.is_success and _validator(answer) != known.get("validator", "")

    @contextmanager
    def stream(self, have: int, validator: str) -> Iterator[_Stream]:
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator  # the whole file, where it is another one by now
        try:
            with httpx.stream("GET", self.url, headers=headers, follow_redirects=True, timeout=SILENCE) as answer:
                yield self._read(answer, have)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise PawprintError(f"{self.shown} cannot be had ({error}). Look at the URL.") from None
        except httpx.TransportError as error:
            raise _Again(str(error) or type(error).__name__) from None

    def _read(self, answer: httpx.Response, have: int) -> _Stream:
        status, said = answer.status_code, f"the server answers {answer.status_code} {answer.reason_phrase}"
        part = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
        if status == 416:  # nothing follows what is here: it is whole, or another file lies there by now
            if not part or int(part[2]) != have:
                raise _Again("the server has another file now", anew=True)
            return have, have, _validator(answer), iter(())
        if status in (408, 425, 429) or status >= 500:
            raise _Again(said)
        if status not in (200, 206):
            raise PawprintError(f"{self.shown} cannot be had: {said}. Look at the URL.")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise PawprintError(f"{self.shown} is a web page, not an archive. Behind a login? Download it by hand.")
        if status == 206:
            if not part or part[1] is None or int(part[1]) != have:
                raise _Again("the server sends another part than was asked for", anew=True)
            return have, int(part[2]), _validator(answer), answer.iter_raw()
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None, _validator(answer), answer.iter_raw()


class _S3:
    def __init__(self, url: str) -> None:
        import fsspec

        self.url = self.shown = url
        with self._explained():
            self._files = fsspec.filesystem("s3")

    def is_folder(self) -> bool:
        with self._explained():
            self._files.invalidate_cache()
            return bool(self._files.isdir(self.url))

    def changed(self, known: dict[str, str]) -> bool:
        with self._explained():
            return self._etag() != known.get("validator", "")

    @contextmanager
    def stream(self, have: int, validator: str) -> Iterator[_Stream]:
        with self._explained():
            total, etag = int(self._files.info(self.url)["size"]), self._etag()
            start = have if etag == validator and have <= total else 0
            with self._files.open(self.url, "rb", cache_type="none", block_size=PIECE * 8) as file:
                file.seek(start)
                yield start, total, etag, iter(lambda: file.read(PIECE * 8), b"")

    def copy(self, target: Path) -> None:
        """The files below it, each whole; those that are here already are not fetched again."""
        with self._explained():
            root = self._files._strip_protocol(self.url).rstrip("/")
            found = self._files.find(root, detail=True)
            archives.enough_room(sum(int(info["size"]) for info in found.values()), target.parent, self.shown)
            wanted = {}
            for key, info in found.items():
                below = PurePosixPath(key).relative_to(root)
                if ".." in below.parts:
                    raise PawprintError(f"{self.shown} names a place outside itself (`{key}`): it is not taken.")
                etag = str(info.get("ETag", "")).strip('"')
                wanted[str(below)] = (key, etag)
            note = target.with_name(f"{target.name}.json")
            known = _read(note)
            for file in [file for file in target.rglob("*") if file.is_file()]:
                name = file.relative_to(target).as_posix()
                if name not in wanted or known.get(name) != wanted[name][1]:
                    file.unlink()
            note.write_text(json.dumps({name: etag for name, (_, etag) in wanted.items()}), encoding="utf-8")
            with Progress(f"downloading {self.shown}", len(wanted)) as progress:
                for name, (key, _) in wanted.items():
                    if not (target / name).exists():
                        (target / name).parent.mkdir(parents=True, exist_ok=True)
                        partial = target.with_name(f"{target.name}.partial")
                        self._files.get_file(key, str(partial))
                        partial.replace(target / name)
                    progress.advance(1)

    def _etag(self) -> str:
        return str(self._files.info(self.url, refresh=True).get("ETag", ""))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import aiohttp
        import botocore.exceptions

        try:
            yield
        except FileNotFoundError:
            raise PawprintError(f"{self.url} does not exist, or you may not list it.") from None
        except PermissionError as error:
            raise PawprintError(f"{self.url} is not yours to read ({error}). Look at AWS_ACCESS_KEY_ID.") from None
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.ParamValidationError) as error:
            raise PawprintError(f"{self.url} cannot be asked for ({error}). Set AWS_ACCESS_KEY_ID etc.") from None
        except (botocore.exceptions.BotoCoreError, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise _Again(str(error)) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise _Again(str(error)) from None


def _validator(answer: httpx.Response) -> str:
    """What says whether two answers are of the same bytes; empty where the server does not tell."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(answer.headers.get("Last-Modified", ""))


def _public_part(url: str) -> str:
    """The URL without user, password, query and fragment, where secrets may stand."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _verify(path: Path, checksum: str) -> None:
    if path.is_dir():
        raise PawprintError(f"{path} is a folder, and a SHA-256 is of one file. Leave it out.")
    if f"sha256:{sha256_of(path)}" != checksum:
        raise PawprintError(f"{path} has another checksum than {checksum}: it is not taken.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(note: Path) -> dict[str, str]:
    try:
        return dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
