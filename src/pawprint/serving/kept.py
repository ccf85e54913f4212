"""Pictures that the service keeps where `serving.keep_pictures` is on: by hash, in a folder beside the traffic log.

    store = PictureStore(folder() / "pictures", days=30, mb=1000)
    digest = store.keep(clean(data, pixels))    # on disk when it returns
    store.read(digest)                          # None where it is not kept any more
    store.trim()                                # what is too old, then the oldest until all fit

What a camera or a telephone writes beside the pixels (place, time, name, preview) is not kept. A JPEG keeps its pixels,
byte for byte; of any other format the 300x300 picture that the model saw is kept, so that nothing is decoded again.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from pawprint import image
from pawprint.files import write_bytes
from pawprint.image import Pixels

FOLDER = "pictures"  # below the folder of the logs
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends a scan's data
_DAY = 86_400.0
TRIM_SECONDS = 3600.0  # between two looks for what is too old, at most
_JFIF, _ADOBE, _ICC, _SCAN, _END = 0xE0, 0xEE, 0xE2, 0xDA, b"\xff\xd9"


def clean(data: bytes, pixels: Pixels) -> bytes:
    """A picture without what is written beside its pixels; `pixels` is what the model saw of it."""
    if data[:3] == b"\xff\xd8\xff":
        with contextlib.suppress(ValueError, image.BadImage):
            return b"".join(_jpeg(data, image.inspect(data).orientation))
    return image.encode(pixels)


def _jpeg(data: bytes, orientation: int) -> Iterator[bytes]:
    """A JPEG's parts up to its end, without EXIF, XMP, IPTC, comments and previews; ValueError where it is damaged."""
    yield data[:2]
    if orientation != 1:
        yield _exif(orientation)
    end = 2
    while True:
        marker = 0
        for marker, place, after in image.segments(data, len(data), end):
            if not place <= after <= len(data):
                raise ValueError("a segment has another length than it says")
            icc = marker == _ICC and data.startswith(b"ICC_PROFILE\0", place)
            if marker in (_JFIF, _ADOBE) or icc or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                yield data[place - 4 : after]
            end = after
        if marker == _SCAN:
            found = _MARKER.search(data, end)
            if found is None:
                raise ValueError("it ends in a scan")
            yield data[end : found.start()]
            end = found.start()
        if data[end : end + 2] == _END:
            yield _END
            return
        if marker != _SCAN:
            raise ValueError("it ends before its end")


def _exif(orientation: int) -> bytes:
    """A segment with the orientation alone."""
    entry = b"\x01\x12\0\x03\0\0\0\x01" + orientation.to_bytes(2, "big") + b"\0\0"
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


class PictureStore:
    """A file a picture at `folder`/ab/abcd...; at most `days` old (since it came last) and `mb` MB together."""

    def __init__(self, folder: Path, days: float = 0, mb: float = 0) -> None:
        self.folder, self._seconds, self._most = folder, days * _DAY, int(mb * 2**20)
        self._new, self._trimmed = 0, float("-inf")  # bytes since `trim`, and when that was

    def keep(self, picture: bytes) -> str:
        """Its SHA-256, under which it is kept."""
        digest = hashlib.sha256(picture).hexdigest()
        path = self._path(digest)
        if path.exists():
            os.utime(path)
        else:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_bytes(path, picture)
            path.chmod(0o600)
            self._new += len(picture)
        if self._new > self._most / 20 or time.monotonic() > self._trimmed + TRIM_SECONDS:
            self.trim()
        return digest

    def read(self, digest: str) -> bytes | None:
        """A picture's bytes; None where they are not there, or are others."""
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def remove(self, digest: str) -> bool:
        """Delete a picture; whether it was there."""
        path = self._path(digest)
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    def trim(self) -> None:
        """Delete what is too old, then the oldest until the others fit."""
        self._new, self._trimmed = 0, time.monotonic()
        found = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        left = sum(size for _, size, _ in found)
        for changed, size, path in sorted(found):
            if changed < time.time() - self._seconds or left > self._most:
                path.unlink(missing_ok=True)
                left -= size

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest
