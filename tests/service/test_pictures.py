"""Odd pictures: what can be shown is answered, what cannot gets a 4xx and a sentence."""

import io
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

RED = (220, 40, 40)


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (400, 320)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


def rotated() -> bytes:
    """Red above blue once turned upright; the file itself lies on its split."""
    upright = red(size=(300, 400))
    upright.paste((40, 40, 220), (0, 330, 300, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def animated() -> bytes:
    return saved(red(), "GIF", save_all=True, append_images=[Image.new("RGB", (400, 320), (40, 40, 220))])


def transparent() -> bytes:
    picture = Image.new("RGBA", (400, 320), (0, 0, 255, 0))
    picture.paste((*RED, 255), (0, 0, 400, 300))
    return saved(picture, "PNG")


SHOWN = {
    "png": lambda: saved(red(), "PNG"),
    "webp": lambda: saved(red(), "WEBP"),
    "bmp": lambda: saved(red(), "BMP"),
    "tiff": lambda: saved(red(), "TIFF"),
    "cmyk jpeg": lambda: saved(red("CMYK"), "JPEG"),
    "palette": lambda: saved(red("P"), "PNG"),
    "progressive": lambda: saved(red(), "JPEG", progressive=True),
    "exif-rotated": rotated,
    "animated": animated,
    "alpha": transparent,
    "1x1": lambda: saved(red(size=(1, 1)), "PNG"),
    "one line": lambda: saved(red(size=(4000, 1)), "PNG"),
    "12 megapixels": lambda: saved(red(size=(4000, 3000)), "JPEG"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_it_is_shown(service: str, name: str) -> None:
    response = httpx.post(f"{service}/predict", content=SHOWN[name](), timeout=30)
    assert (response.status_code, response.json().get("label")) == (200, "red"), response.text


def test_16_bit_and_grey_are_answered(service: str) -> None:
    grey16 = saved(Image.fromarray(np.full((320, 400), 40_000, np.uint16)), "PNG")
    for data in (grey16, saved(red("L"), "JPEG"), saved(red("1"), "PNG")):
        assert httpx.post(f"{service}/predict", content=data).status_code == 200


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><rect width="9" height="9"/></svg>'
REFUSED = {
    "svg": (lambda: SVG, 415, "not_an_image"),
    "html": (lambda: b"<!doctype html><script>alert(1)</script>", 415, "not_an_image"),
    "json": (lambda: b'{"image": "cat"}', 415, "not_an_image"),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", 415, "not_an_image"),
    "20000x20000 header": (lambda: png_header(20_000, 20_000), 422, "too_large"),
    "billion pixels": (lambda: png_header(2**31 - 1, 2**31 - 1), 422, "too_large"),
    "60 megapixel bomb": (lambda: saved(Image.new("1", (10_000, 6_000)), "PNG"), 422, "too_large"),
    "nothing behind the header": (lambda: png_header(400, 300), 422, "truncated"),
    "half a jpeg": (lambda: saved(red(), "JPEG")[:-900], 422, "truncated"),
    "half a png": (lambda: saved(red(), "PNG")[:300], 422, "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(service: str, name: str) -> None:
    make, status, reason = REFUSED[name]
    data = make()
    for request in ({"content": data}, {"files": {"image": ("cat.jpg", data, "image/jpeg")}}):
        response = httpx.post(f"{service}/predict", **request)
        assert (response.status_code, response.json()["reason"]) == (status, reason), response.text
        assert len(response.json()["error"].split()) > 3
        assert "Traceback" not in response.text
