"""Requests that are made to take memory or time, as tests/service and benchmarks/attacks.py send them."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def photograph() -> bytes:
    rng = np.random.default_rng(2017)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    return saved(coarse.resize((1600, 1200)), "JPEG", quality=90)


def webp_claim() -> bytes:
    """A lossless WebP of one colour whose header was changed to claim 7000x7000: no bit more is needed."""
    data = bytearray(saved(Image.new("RGB", (1, 1), (220, 40, 40)), "WEBP", lossless=True))
    data[21:25] = (6999 | 6999 << 14).to_bytes(4, "little")
    return bytes(data)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_texts(count: int) -> bytes:
    """Compressed texts of a megabyte each before the pixels."""
    data, text = saved(Image.new("RGB", (8, 8)), "PNG"), zlib.compress(bytes(2**20), 9)
    return data[:33] + chunk(b"zTXt", b"k\0\0" + text) * count + data[33:]


def png(width: int, height: int, depth: int, colour: int, bytes_a_pixel: int) -> bytes:
    """A PNG of nothing but zeros."""
    packer = zlib.compressobj(9)
    rows = [packer.compress(b"\0" * (1 + width * bytes_a_pixel)) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = b"".join(rows) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_scans(scans: int, side: int = 7000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = saved(Image.new("RGB", (side, side), (220, 40, 40)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def jpeg_segments(count: int) -> bytes:
    """Empty APP2 segments."""
    data = photograph()
    return data[:2] + b"\xff\xe2\0\2" * count + data[2:]


def jpeg_exif(entries: int = 5000) -> bytes:
    """EXIF whose entries all name the same 40 kB."""
    directory = b"".join(struct.pack("<HHII", tag, 7, 40_000, 8) for tag in range(1, entries + 1))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + directory + b"\0\0\0\0"
    data = photograph()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def tiff_directories(count: int) -> bytes:
    """A chain of directories with a pixel each."""
    parts, place = [b"II*\0" + struct.pack("<I", 8)], 8
    entries = [
        (256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0), (277, 3, 1, 1),
        (278, 3, 1, 1), (279, 4, 1, 1),
    ]  # fmt: skip
    for number in range(count):
        directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        place += len(directory) + 4
        parts.append(directory + struct.pack("<I", place if number < count - 1 else 0))
    return b"".join(parts)


def gif_frames(count: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", 4000, 4000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * count + b";"


def gif_palettes(count: int) -> bytes:
    """Frames with a palette of 256 colours each."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0x87) + bytes(768) + b"\2\2\x44\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", 4000, 2000, 0, 0, 0) + frame * count + b";"


def animation(format: str, frames: int, side: int) -> bytes:
    pictures = [Image.new("RGB", (side, side), (number * 8 % 256, 0, 0)) for number in range(frames)]
    return saved(pictures[0], format, save_all=True, append_images=pictures[1:])


def form(body: bytes) -> bytes:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def raw(picture: bytes) -> bytes:
    return b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture


CHUNKED = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
ATTACKS: dict[str, Callable[[], bytes]] = {
    "WebP of some 40 bytes that claims 7000x7000": lambda: raw(webp_claim()),
    "RGBA PNG of 7000x7000 in 190 kB": lambda: raw(png(7000, 7000, 8, 6, 4)),
    "RGBA PNG of 16 bits, 7000x7000": lambda: raw(png(7000, 7000, 16, 6, 8)),
    "RGB PNG of 5600x5600 zeros": lambda: raw(png(5600, 5600, 8, 2, 3)),
    "progressive JPEG of 2,500 scans, 7000x7000": lambda: raw(jpeg_scans(2500)),
    "progressive JPEG of 150 scans, 7000x7000": lambda: raw(jpeg_scans(140)),
    "4.8 million empty APP2 segments": lambda: raw(jpeg_segments(4_800_000)),
    "EXIF of 5,000 entries of 40 kB each": lambda: raw(jpeg_exif()),
    "TIFF of 16,000 directories": lambda: raw(tiff_directories(16_000)),
    "GIF of 500,000 frames": lambda: raw(gif_frames(500_000)),
    "form of 2.3 million empty parts": lambda: form(b"--x\r\n\r\n" * 2_300_000 + b"--x--\r\n"),
    "form of 300,000 named parts": lambda: form(
        b"--x\r\nContent-Disposition: form-data; name=\"%d\"\r\n\r\n\r\n" * 300_000 + b"--x--\r\n"
    ),
    "60 MB of header lines": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 10_000_000 + b"\r\n",
    "60 MB of one header": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\na: " + b"b" * 60_000_000 + b"\r\n\r\n",
    "20 MB of trailers": lambda: CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 3_300_000 + b"\r\n",
    "body of a million chunks of a byte": lambda: CHUNKED + b"1\r\nx\r\n" * 10**6 + b"0\r\n\r\n",
    "JPEG 2000 of 7000x7000 in 800 bytes": lambda: raw(saved(Image.new("RGB", (7000, 7000)), "JPEG2000")),
    "PNG of 15,000 texts of a megabyte": lambda: raw(png_texts(15_000)),
    "GIF of 4,900 frames with palettes": lambda: raw(gif_palettes(4900)),
    "animated WebP, 60 frames of 2000x2000": lambda: raw(animation("WEBP", 60, 2000)),
    "animated AVIF, 20 frames of 1000x1000": lambda: raw(animation("AVIF", 20, 1000)),
    "pipelined pictures, forms and pages": lambda: (
        raw(photograph()) + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + form(b"--x--\r\n")
    ) * 10,
    "70,000 pipelined requests in 2 MB": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 70_000,
    "uploads of 20 MB": lambda: raw(b"\xff\xd8\xff" + bytes(20 * 2**20 - 100)),
}  # fmt: skip
