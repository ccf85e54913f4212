"""Bytes -> upright RGB uint8 at 300x300, or another size: one decoder for training and for serving.

    pixels = image.load(Path("cat.jpg").read_bytes())        # uint8 [300, 300, 3]

`pack` turns any picture into a JPEG of 300x300 (or `size`), `unpack` turns that into pixels, and `load` does both.
Shards hold the output of `pack`, so a photograph gives the model the same tensor, bit for bit, from a shard or from a
request.
"""

import functools
import io
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SIZE = 300  # pixels a side, where `preprocess.size` is not another
MAX_PIXELS = 100_000_000
QUALITY = 95
# The formats that import, prediction and service accept, by Pillow's names, with their suffixes. No other reader of
# Pillow is asked (its reader of EPS starts Ghostscript).
SUFFIXES_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "MPO": (".jpg", ".jpeg", ".mpo"), "PNG": (".png", ".apng"),
    "GIF": (".gif",), "WEBP": (".webp",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff"), "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}  # fmt: skip
IMAGE_SUFFIXES = frozenset(suffix for of_one in SUFFIXES_BY_FORMAT.values() for suffix in of_one)
FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC"  # in a sentence
Fit = Literal["squash", "letterbox", "crop"]
Pixels = NDArray[np.uint8]

_JPEG = b"\xff\xd8\xff"
_MAGIC = (_JPEG, b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_SEGMENTS = 1000  # of a JPEG's header that are looked through for EXIF and a colour profile
_NOT_FILL = re.compile(rb"[^\xff]")
_LARGEST_PROFILE = 2**20  # bytes; a larger one is ignored
_STRIP = 256  # rows whose colours are converted at a time
_LARGEST = (255, 1023, 4095, 16383, 65535)  # level of 8, 10, 12, 14 and 16 bits

cv2.setNumThreads(0)  # the callers run one photograph a thread; OpenCV's own pool would only contend
Image.MAX_IMAGE_PIXELS = None  # `max_pixels` is the limit, checked before a pixel is decoded


class BadImage(ValueError):
    """These bytes give no picture. `reason` is a short code, the message a sentence for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """A picture's properties, known before a pixel is decoded."""

    format: str  # Pillow's name: JPEG, PNG, ...
    width: int
    height: int
    mode: str  # Pillow's mode: RGB, L, CMYK, I;16, ...
    frames: int = 1
    orientation: int = 1  # EXIF 1..8, 1 is upright
    deep: bool = False  # more than 8 bits a channel, or floating point


def is_picture(head: bytes) -> bool:
    """Whether a file's first 12 bytes are those of an accepted format (see SUFFIXES_BY_FORMAT)."""
    return head.startswith(_MAGIC) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:8] == b"ftyp"


def inspect(data: bytes) -> Header:
    """Read the header only; BadImage `empty`, `not_an_image` or `truncated`."""
    if not data:
        raise BadImage("empty", "the file is empty")
    if data[:3] == _JPEG and not _has_exif(data):
        try:  # ten times faster than Pillow, whose errors are clearer
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            return Header("JPEG", width, height, {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colorspace, "RGB"))
        except Exception:  # simplejpeg lets KeyError through too
            pass
    try:
        with _open(data) as picture:
            return Header(
                format=picture.format or "",
                width=picture.width,
                height=picture.height,
                mode=picture.mode,
                frames=getattr(picture, "n_frames", 1),
                orientation=Image.Image.getexif(picture).get(0x0112, 1),  # PNG's own decodes the picture
                deep=_is_deep(picture),
            )
    except BadImage:
        raise
    except Exception as error:  # Pillow's readers raise whatever a hostile header leads them to
        raise BadImage("truncated", f"the photograph's header is damaged ({error})") from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS, size: int = SIZE) -> Pixels:
    """Any picture as upright RGB, uint8 [height, width, 3].

    A large JPEG is scaled down by 2, 4 or 8 while it is decoded, never below `size` pixels a side. The first
    frame of an animation is taken; alpha lies on white; CMYK, grayscale and other colour profiles are converted.
    More than 8 bits are scaled by the bits that the picture uses (`bits_used`).

    Raises:
        BadImage: `empty`, `not_an_image`, `truncated` or `too_large` (decided from the header).
    """
    if data[:3] == _JPEG:
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            _refuse_bomb(width, height, max_pixels)
            if colorspace != "CMYK":
                smallest = size if min(height, width) >= 2 * size else 0
                # Colours are stored at half the size and need no interpolation where the picture shrinks anyway.
                plain = min(height, width) > size
                pixels: Pixels = simplejpeg.decode_jpeg(
                    data, "RGB", fastupsample=plain, min_height=smallest, min_width=smallest, min_factor=2
                )
                if not any(marker in (0xE1, 0xE2) for marker, *_ in segments(data)):  # no EXIF, no colour profile
                    return pixels
                return _upright(_to_srgb(pixels, _profile(data)), _orientation(data))
        except BadImage:
            raise
        except Exception:  # damaged or unusual (simplejpeg lets KeyError through too): Pillow reports which
            pass
    return _decode_with_pillow(data, max_pixels, size)


def resize(pixels: Pixels, fit: Fit = "squash", size: int = SIZE) -> Pixels:
    """RGB uint8 [height, width, 3] -> [size, size, 3], antialiased where it shrinks, linear where it grows.

    `squash` ignores the aspect ratio, as the 2017 baseline does; `letterbox` keeps all of the picture on
    grey; `crop` keeps the middle square.
    """
    height, width = pixels.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _scale(pixels[top : top + side, left : left + side], size, size)
    if fit == "letterbox":
        ratio = size / max(height, width)
        inner_height, inner_width = max(1, round(height * ratio)), max(1, round(width * ratio))
        canvas = np.full((size, size, 3), 127, np.uint8)
        top, left = (size - inner_height) // 2, (size - inner_width) // 2
        canvas[top : top + inner_height, left : left + inner_width] = _scale(pixels, inner_height, inner_width)
        return canvas
    return _scale(pixels, size, size)


def encode(pixels: Pixels, quality: int = QUALITY) -> bytes:
    """RGB uint8 [height, width, 3] -> JPEG, 4:2:0 (measured in docs/decisions/prepared-set.md)."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )
    return encoded


def pack(
    data: bytes, fit: Fit = "squash", quality: int = QUALITY, max_pixels: int = MAX_PIXELS, size: int = SIZE
) -> bytes:
    """Any picture's bytes -> a JPEG of `size` x `size`, as the shards hold it. Raises BadImage."""
    return encode(resize(decode(data, max_pixels, size), fit, size), quality)


def unpack(packed: bytes) -> Pixels:
    """A packed photograph -> RGB uint8 [size, size, 3]."""
    pixels: Pixels = simplejpeg.decode_jpeg(packed, "RGB")
    return pixels


def load(
    data: bytes, fit: Fit = "squash", quality: int = QUALITY, max_pixels: int = MAX_PIXELS, size: int = SIZE
) -> Pixels:
    """Any picture's bytes -> RGB uint8 [size, size, 3] as the model sees it. Raises BadImage."""
    return unpack(pack(data, fit, quality, max_pixels, size))


def _orientation(data: bytes) -> int:
    """EXIF's 1..8; 1 (upright) where a JPEG has no EXIF, which is found without Pillow."""
    return inspect(data).orientation if _has_exif(data) else 1


def _has_exif(data: bytes) -> bool:
    """Whether a JPEG has EXIF."""
    return any(marker == 0xE1 and data.startswith(b"Exif\0\0", start) for marker, start, _ in segments(data))


def _profile(data: bytes) -> bytes:
    """A JPEG's colour profile, which may lie in parts; b"" where there is none."""
    parts = {
        data[start + 12]: data[start + 14 : end]
        for marker, start, end in segments(data)
        if marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", start) and end > start + 14
    }
    return b"".join(parts[number] for number in sorted(parts))


def segments(data: bytes, most: int = _SEGMENTS, place: int = 2) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte, end) of at most `most` segments of a JPEG, up to the next scan, whose header is the last.

    They begin at `place`. One by one, for a search of the whole costs as much as its hash.
    """
    for _ in range(most):
        if data[place : place + 2] == b"\xff\xff":  # fill bytes
            found = _NOT_FILL.search(data, place)
            place = found.start() - 1 if found else len(data)
        if len(data) < place + 4 or data[place] != 0xFF or data[place + 1] == 0xD9:
            return
        marker, end = data[place + 1], place + 2 + (data[place + 2] << 8 | data[place + 3])
        yield marker, place + 4, end
        if marker == 0xDA or end < place + 4:
            return
        place = end


def _to_srgb(pixels: Pixels, profile: bytes) -> Pixels:
    """Colours of another profile (Adobe RGB, a telephone's Display P3) as sRGB, which is what models learn."""
    transform = _transform(profile) if 0 < len(profile) <= _LARGEST_PROFILE else None
    if transform is None:
        return pixels
    converted = np.empty_like(pixels)
    for start in range(0, len(pixels), _STRIP):  # whole, it would take three copies
        strip = Image.fromarray(pixels[start : start + _STRIP])
        converted[start : start + _STRIP] = np.asarray(ImageCms.applyTransform(strip, transform))
    return converted


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """From RGB of this profile to sRGB; None where that changes nothing, or the profile is damaged or not of RGB."""
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), "RGB", "RGB")
        levels = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), -1).reshape(1, -1, 3).astype(np.uint8)
        same = np.asarray(ImageCms.applyTransform(Image.fromarray(levels), transform), np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if np.abs(same - levels).max() <= 2 else transform


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo what the camera's position did; the eight cases of EXIF's tag 0x0112."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _refuse_bomb(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage("too_large", f"the photograph is {width}x{height}; at most {max_pixels:,} pixels are accepted")


def _open(data: bytes) -> Image.Image:
    readers = [name for name in SUFFIXES_BY_FORMAT if name not in ("MPO", "HEIF")]  # JPEG's reader reads MPO
    if data[4:8] == b"ftyp":
        _read_heif()
        readers = ["AVIF", "HEIF"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=readers)
    except UnidentifiedImageError:
        raise BadImage("not_an_image", f"the file is not a photograph in a known format ({FORMATS})") from None


@functools.cache
def _read_heif() -> None:
    """Give Pillow a reader of HEIC, at the first file that may be one."""
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False)
    pi_heif.options.DECODE_THREADS = 1


def bits_used(data: bytes) -> int:
    """Bits a channel of a deep picture: the fewest of 8, 10, 12, 14 and 16 that hold its largest level; 32 for more.

    A camera of 12 bits writes files of 16, whose levels fill a sixteenth of the range. For what `decode` can read.
    """
    with _open(data) as picture:
        peak = float(_levels(picture, data).max(initial=0))
    return next((bits for bits, top in zip((8, 10, 12, 14, 16), _LARGEST, strict=True) if peak <= top), 32)


def _decode_with_pillow(data: bytes, max_pixels: int, size: int) -> Pixels:
    if not data:
        raise BadImage("empty", "the file is empty")
    try:
        with _open(data) as picture:
            _refuse_bomb(picture.width, picture.height, max_pixels)
            if _is_deep(picture):
                largest = (1, *_LARGEST) if picture.mode == "F" else _LARGEST
                return _upright(_from_levels(_levels(picture, data), largest), picture.getexif().get(0x0112, 1))
            picture.draft("RGB", (2 * size, 2 * size))
            ImageOps.exif_transpose(picture, in_place=True)  # which copies nothing that is upright
            return _to_srgb(_rgb(picture), picture.info.get("icc_profile") or b"")
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise whatever damaged data leads them to
        raise BadImage("truncated", f"the photograph is damaged or cut off ({error})") from None


def _is_deep(picture: Image.Image) -> bool:
    """Whether an open picture, not yet decoded, has more than 8 bits a channel."""
    tiles = getattr(picture, "tile", ())
    coded = any(re.search(r"\b(RGB[AX]?|LA);16", str(tile[3])) for tile in tiles)
    return coded or picture.mode.startswith("I") or picture.mode == "F"


def _levels(picture: Image.Image, data: bytes) -> NDArray[np.float32]:
    """Levels [height, width] or [height, width, 3 or 4] of a deep picture, the lowest one at 0 where some are below."""
    levels: NDArray[np.float32] | None
    if picture.mode.startswith("I") or picture.mode == "F":
        levels = np.nan_to_num(np.asarray(picture, np.float32), posinf=0.0, neginf=0.0)
        levels[levels < -1e30] = 0  # where a map has no data
        if (low := float(levels.min(initial=0))) < 0:  # degrees, Hounsfield units
            levels -= low
            if picture.mode == "F":
                levels /= float(levels.max()) or 1.0
        return levels
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # Pillow reads 8 of the 16 bits
    if decoded is None:
        raise ValueError("its 16-bit data cannot be read")
    order = cv2.COLOR_BGRA2RGBA if decoded.shape[-1] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(decoded, order), np.float32)


def _from_levels(levels: NDArray[np.float32], largest: tuple[int, ...]) -> Pixels:
    """RGB uint8 [height, width, 3]: levels divided by the first of `largest` that holds all, else by their maximum."""
    peak = float(levels.max(initial=0))
    top = next((top for top in largest if peak <= top), peak)
    scaled = np.clip(levels * (255 / top) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2) if scaled.ndim == 2 else _rgb(Image.fromarray(scaled))


def _rgb(picture: Image.Image) -> Pixels:
    if picture.has_transparency_data:
        layered = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, layered)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"), np.uint8)


def _scale(pixels: Pixels, height: int, width: int) -> Pixels:
    """Each axis by itself: the mean of what a new pixel covers where it shrinks to a half or less; else linear,
    which is as antialiased as that mean down to 3/4, and softened by (1, 2, 1) / 4 below.

    INTER_AREA for all takes four times as long; docs/decisions/prepared-set.md compares what comes out.
    """
    high, wide = pixels.shape[:2]
    halved = (height if high >= 2 * height else high, width if wide >= 2 * width else wide)
    if halved != (high, wide):
        pixels = cv2.resize(pixels, halved[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        high, wide = halved
    across, down = 3 * wide > 4 * width, 3 * high > 4 * height
    if across:
        pixels = cv2.GaussianBlur(pixels, (3, 1), 0, dst=_scratch(pixels.shape, 0)).astype(np.uint8, copy=False)
    if down:  # by itself: both at once take longer
        pixels = cv2.GaussianBlur(pixels, (1, 3), 0, dst=_scratch(pixels.shape, 1)).astype(np.uint8, copy=False)
    if (high, wide) != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return np.ascontiguousarray(pixels)


def _scratch(shape: tuple[int, ...], number: int) -> Pixels:
    """Memory for a step in between, the thread's own: fresh memory for each photograph takes longer than the blur."""
    buffers: dict[int, Pixels] = _SCRATCH.__dict__.setdefault("buffers", {})
    size = int(np.prod(shape))
    if number not in buffers or buffers[number].size < size:
        buffers[number] = np.empty(size, np.uint8)
    return buffers[number][:size].reshape(shape)


_SCRATCH = threading.local()
