"""Where downloads come from: an http(s) server and an S3 bucket, each able to go on in the middle of a file.

with Http("https://example.org/pets.zip").stream(have=1000, validator='"etag"') as (start, total, validator, pieces):
    ...                                # from byte `start`: 1000, or 0 where the server cannot or has another file now

What may pass raises Again; what a person must mend raises PawprintError.
"""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx

from pawprint.data.archives import enough_room
from pawprint.errors import PawprintError
from pawprint.progress import Progress

SILENCE = 30.0  # seconds without a byte
PIECE = 2**23


class Again(Exception):
    """A failure that may pass: the next try goes on where this one stopped, or `anew`."""

    def __init__(self, message: str, anew: bool = False) -> None:
        super().__init__(message)
        self.anew = anew


Stream = tuple[int, int | None, str, Iterator[bytes]]  # first byte, all bytes if known, validator, pieces


class Http:
    """A file on an http(s) server."""

    def __init__(self, url: str) -> None:
        self.url, self.shown = url, public_part(url)

    def changed(self, known: dict[str, str]) -> bool:
        """Does the server say that it has another file now? Where nothing can be asked, no."""
        try:
            answer = httpx.head(self.url, follow_redirects=True, timeout=SILENCE)
        except httpx.HTTPError:
            return False
        return answer.is_success and _validator(answer) != known.get("validator", "")

    @contextmanager
    def stream(self, have: int, validator: str) -> Iterator[Stream]:
        """The bytes after the first `have`, if the file is still the one that `validator` was told for."""
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator  # the whole file, where it is another one by now
        try:
            with httpx.stream("GET", self.url, headers=headers, follow_redirects=True, timeout=SILENCE) as answer:
                yield self._read(answer, have, validator)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise PawprintError(f"{self.shown} cannot be had ({error}). Look at the URL.") from None
        except httpx.TransportError as error:
            raise Again(str(error) or type(error).__name__) from None

    def _read(self, answer: httpx.Response, have: int, validator: str) -> Stream:
        status, said = answer.status_code, f"the server answers {answer.status_code} {answer.reason_phrase}"
        part = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
        if status == 416:  # nothing follows what is here: it is whole, or another file lies there by now
            if not part or int(part[2]) != have:
                raise Again("the server has another file now", anew=True)
            return have, have, _validator(answer), iter(())
        if status in (408, 425, 429) or status >= 500:
            raise Again(said)
        if status not in (200, 206):
            raise PawprintError(f"{self.shown} cannot be had: {said}. Look at the URL.")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise PawprintError(f"{self.shown} is a web page, not an archive. Behind a login? Download it by hand.")
        if status == 206:
            other = validator and validator != _validator(answer)
            if other or not part or part[1] is None or int(part[1]) != have:
                raise Again("the server sends a part of something else", anew=True)
            return have, int(part[2]), _validator(answer), answer.iter_raw()
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None, _validator(answer), answer.iter_raw()


class S3:
    """A file, or a folder, in a bucket."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = self.shown = url
        with self._explained():
            self._files = fsspec.filesystem("s3")

    def is_folder(self) -> bool:
        """Is it a prefix of many files?"""
        with self._explained():
            self._files.invalidate_cache()
            return bool(self._files.isdir(self.url))

    def changed(self, known: dict[str, str]) -> bool:
        """Is there another file now?"""
        with self._explained():
            return self._etag() != known.get("validator", "")

    @contextmanager
    def stream(self, have: int, validator: str) -> Iterator[Stream]:
        """The bytes after the first `have`, if the file is still the one that `validator` was told for."""
        with self._explained():
            total, etag = int(self._files.info(self.url)["size"]), self._etag()
            start = have if etag == validator and have <= total else 0
            with self._files.open(self.url, "rb", cache_type="none", block_size=PIECE) as file:
                file.seek(start)
                yield start, total, etag, iter(lambda: file.read(PIECE), b"")

    def copy(self, target: Path) -> None:
        """The files below it, each whole; those that are here already are not fetched again."""
        with self._explained():
            root = self._files._strip_protocol(self.url).rstrip("/")
            found = self._files.find(root, detail=True)
            enough_room(sum(int(info["size"]) for info in found.values()), target.parent, self.shown)
            wanted = {}
            for key, info in found.items():
                below = PurePosixPath(key).relative_to(root)
                if ".." in below.parts:
                    raise PawprintError(f"{self.shown} names a place outside itself (`{key}`): it is not taken.")
                etag = str(info.get("ETag", "")).strip('"')
                wanted[str(below)] = (key, etag)
            note = target.with_name(f"{target.name}.json")
            known = read_note(note)
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
            raise Again(str(error)) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise Again(str(error)) from None


def _validator(answer: httpx.Response) -> str:
    """What says whether two answers are of the same bytes; empty where the server does not tell."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(answer.headers.get("Last-Modified", ""))


def public_part(url: str) -> str:
    """The URL without user, password, query and fragment, where secrets may stand."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_note(note: Path) -> dict[str, str]:
    """What an earlier download noted; nothing where there is none."""
    try:
        return dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
