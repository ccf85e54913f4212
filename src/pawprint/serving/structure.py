"""What decoding a picture costs, read from its bytes before a pixel is decoded.

    if is_quick(data): ...             # libjpeg-turbo decodes it in bounded time and memory: in a thread
    memory(data)                       # bytes that decoding takes otherwise, for the process that may be killed
    check(data)                        # BadImage where it has more parts than any photograph

A claim of 38 bytes may take gigabytes, and 400 kB of JPEG scans 40 seconds; the pixels alone say neither.
"""

import re
import struct
from collections.abc import Iterator

from pawprint.image import BadImage, segments

# What libjpeg-turbo decodes in a thread: at most some 0.5 s and 64 MB on one core of 2020.
_QUICK_PIXELS, _QUICK_BYTES = 25_000_000, 8 * 2**20
_QUICK_SCANS = 100_000_000  # pixels x scans, where the coefficients are kept for several scans
_QUICK_KEPT = 8_000_000  # pixels whose coefficients are kept
_QUICK_SEGMENTS = 200
_EXIF_ENTRIES = 200
# Parts that a picture may have. The richest of real ones: 64 (scans), some 300 (segments of an ICC profile), 40,000
# (chunks of a PNG of 20 MB, which libpng cuts at 8 kB, others at 512 bytes).
_MOST = {"scans": 100, "segments": 2000, "chunks": 50_000, "directories": 500, "frames": 5000}

_OPAQUE, _LAYERED, _COEFFICIENTS = 16, 24, 10  # bytes a pixel that Pillow takes, with its copies, or libjpeg


def is_quick(data: bytes) -> bool:
    """Whether this is a JPEG that libjpeg-turbo decodes within the bounds above, whatever its data are."""
    if not data.startswith(b"\xff\xd8\xff") or len(data) > _QUICK_BYTES:
        return False
    pixels = components = exif = 0
    several = False  # a progressive picture has several scans, and all its coefficients in memory
    for marker, place, end in segments(data, _QUICK_SEGMENTS):
        if marker == 0xE1 and data[place : place + 6] == b"Exif\0\0":
            exif += 1
            if exif > 1 or not _has_few_entries(data[place + 6 : end]):
                return False
        elif 0xC0 <= marker <= 0xC2 and not pixels and min(end, len(data)) >= place + 6:
            depth, height, width, components = struct.unpack_from(">BHHB", data, place)
            pixels, several = height * width, marker == 0xC2
            if depth != 8 or components not in (1, 3):
                return False
        elif marker == 0xDA and pixels and place < len(data):
            if not several and data[place] == components:  # one scan: libjpeg refuses a second one
                return pixels <= _QUICK_PIXELS
            scans = 1 + data.count(b"\xff\xda", place)
            return pixels <= _QUICK_KEPT and scans <= _MOST["scans"] and pixels * scans <= _QUICK_SCANS
        elif marker not in _PLAIN_MARKERS:
            return False
    return False


def memory(data: bytes) -> int:
    """Bytes that decoding takes at most, from the size that the picture claims; 0 where it is not known."""
    height: int
    width: int
    components: int
    if data.startswith(b"\xff\xd8\xff"):
        for marker, place, end in segments(data, _MOST["segments"]):
            if marker in _FRAMES and min(end, len(data)) >= place + 6:
                height, width, components = struct.unpack_from(">HHB", data, place + 1)
                return height * width * (_COEFFICIENTS if components < 4 else _COEFFICIENTS + _OPAQUE)
        return 0
    if data.startswith(b"\x89PNG") and len(data) > 26:
        width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
        return width * height * (_OPAQUE if colour in (0, 2) else _LAYERED) * (2 if depth == 16 else 1)
    if data.startswith(b"GIF8") and len(data) > 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return width * height * _LAYERED
    if data.startswith(b"BM") and len(data) > 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width * height) * _OPAQUE
    if data.startswith(b"RIFF") and len(data) > 30:
        return _webp_pixels(data) * (_OPAQUE if data[12:16] == b"VP8 " else _LAYERED)
    if data.startswith((b"II", b"MM")):
        return _tiff_pixels(data) * _LAYERED * 2  # its depth may be anything
    if data[4:8] == b"ftyp":
        found = (struct.unpack(">II", match[1]) for match in re.finditer(rb"ispe\0{4}(.{8})", data[:65536], re.DOTALL))
        return max((width * height for width, height in found), default=0) * _LAYERED
    return 0


def check(data: bytes) -> None:
    """BadImage `too_many_parts` where scans, segments, chunks, directories or frames are more than any picture's."""
    if data.startswith(b"\xff\xd8\xff"):
        _limit("segments", sum(1 for _ in segments(data, _MOST["segments"] + 1)))
        _limit("scans", data.count(b"\xff\xda"))
    elif data.startswith(b"\x89PNG"):
        _limit("chunks", sum(1 for _ in _chunks(data, 8, ">", _MOST["chunks"])))
    elif data.startswith(b"RIFF"):
        _limit("frames", sum(kind == b"ANMF" for kind in _chunks(data, 12, "<", _MOST["chunks"])))
    elif data.startswith((b"II", b"MM")):
        _limit("directories", sum(1 for _ in _directories(data)))
    elif data.startswith(b"GIF8"):
        _limit("frames", sum(1 for _ in _gif_frames(data)))


def _limit(parts: str, found: int) -> None:
    if found > _MOST[parts]:
        raise BadImage("too_many_parts", f"the photograph has more than {_MOST[parts]:,} {parts}")


_PLAIN_MARKERS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, restart interval, comment, APPn
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _has_few_entries(tiff: bytes) -> bool:
    """Whether EXIF's first directory has few entries: each may name the same 64 kB as its value."""
    order = ">" if tiff[:2] == b"MM" else "<"
    if len(tiff) < 8:
        return True
    start = struct.unpack_from(order + "I", tiff, 4)[0]
    return start + 2 > len(tiff) or int(struct.unpack_from(order + "H", tiff, start)[0]) <= _EXIF_ENTRIES


def _chunks(data: bytes, place: int, order: str, most: int) -> Iterator[bytes]:
    """Kinds of a PNG's (`>`) or a WebP's (`<`) chunks, one more than `most` at most."""
    for _ in range(most + 1):
        if len(data) < place + 8:
            return
        if order == ">":
            size, kind = struct.unpack_from(">I4s", data, place)
            place += 12 + size
        else:
            kind, size = struct.unpack_from("<4sI", data, place)
            place += 8 + size + size % 2
        yield kind


def _webp_pixels(data: bytes) -> int:
    kind = data[12:16]
    if kind == b"VP8X":
        return int((int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return int((width & 0x3FFF) * (height & 0x3FFF))


def _tiff_pixels(data: bytes) -> int:
    """Of the first directory; 0 where it has no size that can be read at once."""
    order, size = (">" if data.startswith(b"MM") else "<"), {256: 0, 257: 0}
    if data[2:4] not in (b"*\0", b"\0*"):
        return 0
    start = next(_directories(data), 0)
    entries = struct.unpack_from(order + "H", data, start)[0] if start else 0
    for place in range(start + 2, min(start + 2 + 12 * min(entries, _EXIF_ENTRIES), len(data) - 12), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHII", data, place)
        if tag in size:
            size[tag] = value if kind == 4 else struct.unpack_from(order + "H", data, place + 8)[0]
    return size[256] * size[257]


def _directories(data: bytes) -> Iterator[int]:
    """Places of a TIFF's directories, one more than allowed at most; a chain that ends in itself has no end."""
    order, big = (">" if data.startswith(b"MM") else "<"), data[2:4] in (b"+\0", b"\0+")
    count, entry, pointer, first = ("Q", 20, "Q", 8) if big else ("H", 12, "I", 4)
    place = first
    for _ in range(_MOST["directories"] + 1):
        if place + struct.calcsize(pointer) > len(data):
            return
        start = struct.unpack_from(order + pointer, data, place)[0]
        if not start or start + struct.calcsize(count) > len(data):
            return
        yield start
        entries = struct.unpack_from(order + count, data, start)[0]
        place = start + struct.calcsize(count) + entries * entry


def _gif_frames(data: bytes) -> Iterator[int]:
    """Places of a GIF's frames, one more than allowed at most."""
    if len(data) < 13:
        return
    place, frames = 13 + _palette(data[10]), 0
    while place + 2 < len(data) and frames <= _MOST["frames"]:
        kind = data[place]
        if kind == 0x2C and place + 10 < len(data):
            frames += 1
            yield place
            place += 11 + _palette(data[place + 9])
        elif kind == 0x21:
            place += 2
        else:
            return
        while place < len(data) and data[place]:  # blocks of up to 255 bytes, ended by an empty one
            place += 1 + data[place]
        place += 1


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
