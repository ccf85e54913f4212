"""Pictures as people send them, and files that are none: what the tests of photographs share."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RED, BLUE = (220, 40, 40), (40, 40, 220)


def saved(picture: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def two_colours(width: int = 480, height: int = 360, mode: str = "RGB") -> Image.Image:
    """Red above, blue below."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (0, height // 2, width, height))
    return picture.convert(mode)


def scene(seed: int, width: int = 480, height: int = 360) -> Image.Image:
    """A smooth random picture that looks like no other seed's, with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-6, 7, (height, width, 3))
    return Image.fromarray((np.asarray(coarse, np.int16) + grain).clip(0, 255).astype(np.uint8))


def photograph(seed: int, **size: int) -> bytes:
    """A scene as a JPEG."""
    return saved(scene(seed, **size), quality=92)


def with_exif(orientation: int) -> bytes:
    """Red above blue once upright; the pixels in the file lie as EXIF's `orientation` says."""
    undo = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(two_colours().transpose(undo[orientation]), exif=exif)


def png16(levels: NDArray[np.uint16]) -> bytes:
    """A 16-bit grayscale PNG of `levels` [height, width]."""
    return saved(Image.fromarray(levels), "PNG")


def animation() -> bytes:
    """A GIF whose first frame is red above blue."""
    return saved(two_colours(), "GIF", save_all=True, append_images=[Image.new("RGB", (480, 360), (0, 255, 0))])


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes whose header claims a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header was changed to claim another size."""
    data = bytearray(saved(two_colours()))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def heic() -> bytes:
    """A HEIC of 96x64 pixels, red above blue once upright: on its side in the file, as telephones write them."""
    return base64.b64decode(_HEIC)


_HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaFtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
    "AAAAAERAAAIAAQAAAAABxQABAAAAAAAAAH8AAgAAAAACRAABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNg"
    "AAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBhZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAH"
    "RAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAYAAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAA"
    "AAAAAAABAAEFgQIDBIUAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAKttZGF0AAAAeygBrwngITl1X//70p///DfvIfuzdFP//DRc+/xK"
    "dP/9x9kKuBn//KaXuMiZOyMUvIsPqpHUD4HacejYPYRP7xRJO/7DewV7U2v5iRKE/f5MWbhUc12iJ6lc7/M7C0Jg5eBy7YNlZV4aoCq9UvF8"
    "hOp+apqqp4ADu//PfgAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
)
