"""Pictures, forms and headers that are changed in their structure: chunks, segments, directories, frames, parts.

A flipped byte mostly ends at a checksum; these keep checksums and lengths right, or wrong on purpose.
"""

import io
import random
import struct
import zlib
from typing import Any

from PIL import Image

WEIRD = (0, 1, 2, 7, 8, 255, 256, 299, 300, 4096, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
BOUNDARY = b"fuzz"


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def shuffle(parts: list[bytes], rng: random.Random) -> list[bytes]:
    """Some dropped, doubled, many times over or in another order."""
    parts = list(parts)
    for _ in range(rng.randint(1, 3)):
        if not parts:
            break
        at = rng.randrange(len(parts))
        match rng.randrange(5):
            case 0:
                del parts[at]
            case 1:
                parts.insert(rng.randrange(len(parts) + 1), parts[at])
            case 2:
                parts[at:at] = [parts[at]] * rng.choice((5, 300, 20_000 if len(parts[at]) < 100 else 50))
            case 3:
                rng.shuffle(parts)
            case 4:
                parts[at] = edit(parts[at], rng)
    return parts


def edit(data: bytes, rng: random.Random) -> bytes:
    """A number in it becomes a weird one."""
    if not data:
        return data
    size = rng.choice((1, 2, 4))
    at, order = rng.randrange(len(data)), rng.choice(("big", "little"))
    value = (rng.choice(WEIRD) % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
    return data[:at] + value + data[at + size :]


def png(seed: bytes, rng: random.Random) -> bytes:
    place, chunks = 8, []
    while place + 8 <= len(seed):
        size = int.from_bytes(seed[place : place + 4], "big")
        chunks.append(seed[place + 4 : place + 8 + size])
        place += 12 + size
    extra = [
        b"tEXtk\0" + b"v" * 50,
        b"iTXtXML:com.adobe.xmp\0\0\0\0\0<x/>",
        b"gAMA\0\0\0\0",
        b"acTL\xff\xff\xff\xff\0\0\0\0",
        b"PLTE" + bytes(768),
        b"tRNS" + bytes(256),
        b"eXIf" + b"MM\0*\0\0\0\x08\xff\xff" + bytes(40),
        b"iCCPn\0\0" + zlib.compress(bytes(200_000)),
    ]
    if rng.random() < 0.5:
        chunks.insert(1, rng.choice(extra))
    if rng.random() < 0.4:
        width, height = rng.choice(WEIRD), rng.choice(WEIRD)
        head = struct.pack(">IIBBB", width, height, rng.choice((1, 2, 4, 8, 16, 3)), rng.randrange(8), 0)
        chunks[0] = b"IHDR" + head + bytes([0, rng.randrange(3)])
    packed = b"".join(
        struct.pack(">I", len(each[4:])) + each + struct.pack(">I", zlib.crc32(each)) for each in shuffle(chunks, rng)
    )
    return seed[:8] + packed


def jpeg(seed: bytes, rng: random.Random) -> bytes:
    place, segments = 2, []
    while place + 4 <= len(seed) and seed[place] == 0xFF and seed[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(seed[place + 2 : place + 4], "big")
        segments.append(seed[place:end])
        place = end
    scans = [b"\xff\xda" + each for each in seed[place:-2].split(b"\xff\xda")[1:]]
    if rng.random() < 0.4:
        segments = [
            each[:5] + struct.pack(">HH", rng.choice(WEIRD) % 65536, rng.choice(WEIRD) % 65536) + each[9:]
            if each[1] in (0xC0, 0xC1, 0xC2)
            else each
            for each in segments
        ]
    if rng.random() < 0.3:
        exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", rng.choice(WEIRD) % 65536) + rng.randbytes(60)
        segments.insert(0, b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    return b"\xff\xd8" + b"".join(shuffle(segments, rng)) + b"".join(shuffle(scans, rng)) + b"\xff\xd9"


def webp(seed: bytes, rng: random.Random) -> bytes:
    place, chunks = 12, []
    while place + 8 <= len(seed):
        size = int.from_bytes(seed[place + 4 : place + 8], "little")
        chunks.append(seed[place : place + 8 + size + size % 2])
        place += 8 + size + size % 2
    if rng.random() < 0.4:
        size24 = (rng.choice(WEIRD) % 2**24).to_bytes(3, "little")
        chunks.insert(0, b"VP8X" + struct.pack("<I", 10) + bytes([rng.randrange(256), 0, 0, 0]) + size24 * 2)
    body = b"WEBP" + b"".join(shuffle(chunks, rng))
    return b"RIFF" + struct.pack("<I", len(body) if rng.random() < 0.8 else rng.choice(WEIRD)) + body


def tiff(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    for _ in range(rng.randint(1, 3)):
        entry = start + 2 + 12 * rng.randrange(count)
        match rng.randrange(5):
            case 0:
                struct.pack_into(
                    "<H", data, entry, rng.choice((254, 256, 257, 258, 259, 262, 273, 277, 322, 330, 34665))
                )
            case 1:
                struct.pack_into("<H", data, entry + 2, rng.randrange(20))
            case 2:
                struct.pack_into("<I", data, entry + 4, rng.choice(WEIRD))
            case 3:
                struct.pack_into("<I", data, entry + 8, rng.choice((*WEIRD, start, len(data) - 1)))
            case 4:  # the next directory: itself, nothing or anywhere
                struct.pack_into("<I", data, start + 2 + 12 * count, rng.choice((start, 4, len(data), *WEIRD)))
    return bytes(data)


def gif(seed: bytes, rng: random.Random) -> bytes:
    head, frames = seed[:13], seed[13:-1]
    at = frames.find(b"\x2c")
    before, frame = frames[:at], frames[at:]
    width, height = struct.pack("<H", rng.choice(WEIRD) % 65536), struct.pack("<H", rng.choice(WEIRD) % 65536)
    if rng.random() < 0.4:
        head = head[:6] + width + height + head[10:]
    if rng.random() < 0.4:
        frame = frame[:5] + width + height + frame[9:]
    extra = [b"\x21\xff\x0bNETSCAPE2.0\3\1\xff\xff\0", b"\x21\xf9\4\x0d\0\0\0\0", b"\x21\xfe\xff" + bytes(255) + b"\0"]
    return head + before + b"".join(shuffle([*rng.sample(extra, 2), frame], rng)) + b";"


def picture_seeds() -> list[tuple[Any, bytes]]:
    """(mutator, small picture) of each format."""
    picture = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    animated = {"save_all": True, "append_images": [Image.new("RGB", (64, 48), "red")]}
    return [
        (png, saved(picture, "PNG")),
        (png, saved(picture.convert("P"), "PNG")),
        (png, saved(picture.convert("RGBA"), "PNG")),
        (png, saved(picture, "PNG", **animated)),
        (jpeg, saved(picture, "JPEG")),
        (jpeg, saved(picture, "JPEG", progressive=True)),
        (jpeg, saved(picture.convert("CMYK"), "JPEG")),
        (webp, saved(picture, "WEBP")),
        (webp, saved(picture, "WEBP", lossless=True)),
        (webp, saved(picture, "WEBP", **animated)),
        (tiff, saved(picture, "TIFF")),
        (tiff, saved(picture, "TIFF", compression="tiff_lzw")),
        (tiff, saved(picture, "TIFF", compression="tiff_adobe_deflate")),
        (gif, saved(picture, "GIF")),
        (gif, saved(picture, "GIF", **animated)),
    ]


def form(picture: bytes, rng: random.Random) -> bytes:
    disposition = rng.choice(
        (
            b'form-data; name="image"; filename="x.jpg"',
            b'form-data; name="image"',
            b"form-data",
            b'form-data; name="' + b"n" * 5000,
            b"attachment; name*=utf-8''image; filename*=x",
            b'form-data; name="images"; filename="\xff\0"',
        )
    )
    part = b"--%s\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (BOUNDARY, disposition, picture)
    other = b'--%s\r\nContent-Disposition: form-data; name="n"\r\n\r\nv\r\n' % BOUNDARY
    return b"".join(shuffle([part, other, b"--%s\r\n\r\n\r\n" % BOUNDARY], rng)) + b"--%s--\r\n" % BOUNDARY


def headers(rng: random.Random) -> bytes:
    """Lines of headers, odd ones among them."""
    lines = [
        b"X-Request-Id: " + rng.randbytes(8).hex().encode(),
        b"Accept: image/png",
        b"Authorization: Bearer " + b"x" * 2000,
        b"Origin: http://127.0.0.1",
        b"X-Forwarded-For: 1.2.3.4, " + b"9" * 200,
        b"Cookie: " + b"a=b; " * 500,
        b"Expect: 100-continue",
        b"Content-Type: text/plain",
        b"Sec-Fetch-Site: cross-site",
        b"Accept: \xff\xfe",
        b"Upgrade: websocket",
        b"Range: bytes=0-",
    ]
    return b"".join(line + b"\r\n" for line in rng.sample(lines, rng.randint(0, 4)))


def request(seeds: list[tuple[Any, bytes]], rng: random.Random) -> bytes:
    """A well-formed request around a picture, a form or headers that may be anything."""
    mutator, seed = rng.choice(seeds)
    body = mutator(seed, rng)
    path = rng.choice([b"/predict"] * 6 + [b"/explain", b"/predict/batch"])
    kind = b"application/octet-stream"
    if rng.random() < 0.3:
        kind, body = b"multipart/form-data; boundary=" + BOUNDARY, form(body[:50_000], rng)
    odd = headers(rng) if rng.random() < 0.3 else b""
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (path, odd.replace(b"Expect: 100-continue\r\n", b""), kind, len(body)) + body
