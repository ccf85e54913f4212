"""A source as a person names it -> a file or folder on this disk: public sets by name, http(s) and s3 by URL.

local("oxford-iiit-pet").path                          # cache/downloads/...-images.tar.gz, downloaded once
local("https://example.org/pets.zip", sha256="9f86d0...")
local("s3://bucket/pets/")                             # AWS_* variables say where and who, as they do everywhere

A download that breaks off goes on where it stopped, in this run and in the next; a file whose checksum is known is
never taken with another. One without is asked for again when the server says that it has changed.
"""

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

import tenacity

from pawprint.data import archives
from pawprint.data.remotes import S3, Again, Http, public_part, read_note
from pawprint.errors import PawprintError
from pawprint.lineage import sha256 as sha256_of
from pawprint.progress import Progress

TRIES = 5  # in a row that bring no byte
PAUSE = 1.0  # seconds before the second try, doubled each time


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
    downloaded: bool = False

    @contextmanager
    def forgotten_if_damaged(self) -> Iterator[None]:
        """A download that turns out to be no archive is not kept: the next import asks for it again."""
        try:
            yield
        except archives.Damaged:
            if self.downloaded and self.path.is_file():
                self.path.unlink(missing_ok=True)
            raise


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
        return Local(_download(PUBLIC[name].url, checksum or PUBLIC[name].checksum), name, downloaded=True)
    if re.match("(https?|s3)://", name):
        return Local(_download(name, checksum), public_part(name), downloaded=True)
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
            return _download_file(Http(url), folder, name, checksum)
        bucket = S3(url)
        if not bucket.is_folder():
            return _download_file(bucket, folder, name, checksum)
        if checksum:
            raise PawprintError(f"{bucket.shown} is a folder, and a SHA-256 is of one file. Leave it out.")
        target = folder / name
        _patiently(bucket.shown, lambda: bucket.copy(target), lambda: sum(1 for _ in target.rglob("*")))
        return target
    except Again as error:
        raise PawprintError(
            f"{public_part(url)} cannot be had ({error}). What has come is kept: run again, and it goes on there."
        ) from None


def _download_file(remote: Http | S3, folder: Path, name: str, checksum: str | None) -> Path:
    """By pooch, which keeps what has the right checksum; resumed and tried again by what follows."""
    import pooch

    note = folder / f"{name}.json"
    if checksum is None and (folder / name).exists() and remote.changed(read_note(note)):
        (folder / name).unlink()

    def resume(_: str, target: str, __: Any) -> None:
        def attempt() -> None:
            try:
                _attempt(remote, partial, note, bool(checksum))
            except Again as error:
                if error.anew:
                    partial.unlink(missing_ok=True)
                raise

        _patiently(remote.shown, attempt, lambda: _size(partial))
        Path(target).unlink(missing_ok=True)
        try:
            os.link(partial, target)  # `partial` stays until pooch has looked at it: a kill costs no download
        except OSError:  # a disk that knows no links
            partial.replace(target)

    partial = folder / f"{name}.partial"
    try:
        pooch.get_logger().setLevel("WARNING")
        path = Path(pooch.retrieve(remote.url, checksum, name, folder, downloader=resume))
        partial.unlink(missing_ok=True)
        return path
    except ValueError:  # pooch's word for another checksum
        partial.unlink(missing_ok=True)
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
        except Again:
            fruitless = 0 if brought() > before else fruitless + 1
            raise

    tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Again),
        stop=lambda _: fruitless >= TRIES,
        wait=lambda _: PAUSE * 2 ** max(0, fruitless - 1),
        before_sleep=lambda state: print(f"{shown}: {_error(state)}; trying again", file=sys.stderr, flush=True),
        reraise=True,
    )(once)


def _attempt(remote: Http | S3, partial: Path, note: Path, vouched: bool) -> None:
    known = read_note(note)
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
        raise Again(f"it broke off at {_size(partial):,} of {total:,} bytes")


def _verify(path: Path, checksum: str) -> None:
    if path.is_dir():
        raise PawprintError(f"{path} is a folder, and a SHA-256 is of one file. Leave it out.")
    if f"sha256:{sha256_of(path)}" != checksum:
        raise PawprintError(f"{path} has another checksum than {checksum}: it is not taken.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
