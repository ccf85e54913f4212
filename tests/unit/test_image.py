"""image.py: any bytes become upright RGB at 300x300, or a BadImage that says why; one decoder for all splits."""

import io
import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from odd_pictures import (
    BLUE,
    RED,
    animation,
    heic,
    jpeg_claiming,
    photograph,
    png16,
    png_bomb,
    saved,
    scene,
    two_colours,
    with_exif,
)
from pawprint import image
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.dataset import PreparedDataset

ROOT = Path(__file__).parents[2]
SHAPE = (image.SIZE, image.SIZE, 3)


def close(pixel: np.ndarray, colour: tuple[int, ...], by: int = 8) -> bool:
    return bool(np.abs(pixel.astype(int) - np.array(colour)).max() <= by)


def red_above_blue(pixels: np.ndarray) -> bool:
    """By the mean of two patches: a palette dithers."""
    return close(pixels[20:60, 100:200].mean((0, 1)), RED) and close(pixels[240:280, 100:200].mean((0, 1)), BLUE)


SHOWN = {
    "jpeg": lambda: saved(two_colours()),
    "progressive": lambda: saved(two_colours(), progressive=True),
    "png": lambda: saved(two_colours(), "PNG"),
    "webp": lambda: saved(two_colours(), "WEBP", lossless=True),
    "bmp": lambda: saved(two_colours(), "BMP"),
    "tiff": lambda: saved(two_colours(), "TIFF"),
    "avif": lambda: saved(two_colours(), "AVIF"),
    "heic, on its side in the file": heic,
    "palette": lambda: saved(two_colours(mode="P"), "PNG"),
    "cmyk": lambda: saved(two_colours(mode="CMYK")),
    "upside down in the file": lambda: with_exif(3),
    "on its right split in the file": lambda: with_exif(6),
    "on its left split in the file": lambda: with_exif(8),
    "animated": animation,
    "opaque alpha": lambda: saved(two_colours(mode="RGBA"), "PNG"),
    "huge": lambda: saved(two_colours(3000, 2400)),
    "tiny": lambda: saved(two_colours(20, 20), "PNG"),
    "a strip": lambda: saved(two_colours(2, 900), "PNG"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_whatever_the_file_it_comes_out_upright_and_in_its_colours(name: str) -> None:
    pixels = image.load(SHOWN[name]())
    assert (pixels.shape, pixels.dtype) == (SHAPE, np.uint8)
    assert red_above_blue(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_agree_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(scene(9), quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(image.decode(data).astype(int) - expected).mean() < 1


def profile(primaries: tuple[int, ...], gamma: float) -> bytes:
    """A colour profile of an RGB space: red, green and blue in XYZ (D50) in 1/65536, and a gamma."""
    xyz = [b"XYZ \0\0\0\0" + struct.pack(">3i", *primaries[start : start + 3]) for start in (0, 3, 6)]
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    names = (b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt", b"rTRC", b"gTRC", b"bTRC")
    blocks, table, place = [*xyz, white, curve, curve, curve], struct.pack(">I", 7), 128 + 4 + 12 * 7
    for name, block in zip(names, blocks, strict=True):
        table += struct.pack(">4sII", name, place, len(block))
        place += len(block)
    head = struct.pack(">I4sI4s4s4s12s4s", place, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"\0" * 12, b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + b"".join(blocks)


ADOBE = profile((39965, 20397, 1275, 13449, 41044, 3994, 9776, 4095, 48792), 2.19921875)
WIDE = {
    "jpeg": lambda icc: saved(scene(5), quality=95, icc_profile=icc),
    "a profile in parts": lambda icc: saved(scene(5), quality=95, icc_profile=icc + bytes(140_000)),
    "png": lambda icc: saved(scene(5), "PNG", icc_profile=icc),
    "webp": lambda icc: saved(scene(5), "WEBP", lossless=True, icc_profile=icc),
    "tall": lambda icc: saved(scene(5, 300, 700), "PNG", icc_profile=icc),
}


@pytest.mark.parametrize("name", WIDE)
def test_colours_of_another_profile_become_srgb(name: str) -> None:
    """As Pillow converts them; and a camera's sRGB, a damaged profile and one of grey change not a bit."""
    data = WIDE[name](ADOBE)
    opened = Image.open(io.BytesIO(data))
    srgb = ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(opened, ImageCms.getOpenProfile(io.BytesIO(ADOBE)), srgb)
    assert expected is not None
    pixels, plain = image.decode(data).astype(int), image.decode(WIDE[name](b"")).astype(int)
    assert np.abs(pixels - np.asarray(expected)).mean() < 1.5
    assert np.abs(pixels - plain).mean() > 4
    for harmless in (
        ImageCms.ImageCmsProfile(srgb).tobytes(),
        ADOBE[:200],
        b"x" * 3000,
        ADOBE.replace(b"RGB ", b"GRAY"),
    ):
        assert np.array_equal(image.decode(WIDE[name](harmless)), plain)


def test_transparent_parts_lie_on_white() -> None:
    picture = Image.new("RGBA", (400, 400), (0, 0, 255, 0))
    picture.paste((*RED, 255), (0, 0, 400, 200))
    pixels = image.load(saved(picture, "PNG"))
    assert close(pixels[60, 150], RED)
    assert close(pixels[240, 150], (255, 255, 255))


def test_grey_keeps_its_level_in_8_and_16_bits() -> None:
    grey = image.load(saved(Image.new("L", (400, 300), 120)))
    deep = image.load(png16(np.full((300, 400), 120 * 257, np.uint16)))
    for pixels in (grey, deep):
        assert np.ptp(pixels, axis=2).max() == 0
        assert close(pixels[150, 150], (120, 120, 120), by=1)


def deep(top: int, format: str, dtype: type[np.generic], channels: int = 1, low: float = 0) -> bytes:
    """A ramp from `low` to `top` down the picture, in the other channels its half."""
    ramp = np.linspace(low, top, 200)[:, None].repeat(300, 1)
    levels = np.stack([ramp, *[ramp / 2] * (channels - 1)], -1).astype(dtype)
    if channels == 1:
        return saved(Image.fromarray(levels[..., 0]), format)
    done, encoded = cv2.imencode(f".{format.lower()}", levels[..., ::-1])
    assert done
    return encoded.tobytes()


DEEP = {
    **{f"{bits} bits in a PNG of 16": (deep(2**bits - 1, "PNG", np.uint16), bits) for bits in (8, 10, 12, 14, 16)},
    "12 bits in a TIFF of 16": (deep(4095, "TIFF", np.uint16), 12),
    "12 bits of three channels in a PNG": (deep(4095, "PNG", np.uint16, 3), 12),
    "16 bits of three channels in a TIFF": (deep(65535, "TIFF", np.uint16, 3), 16),
    "8 bits in a TIFF of 32": (deep(255, "TIFF", np.int32), 8),
    "more than 16 bits in a TIFF of 32": (deep(2**24, "TIFF", np.int32), 32),
    "floating point up to 1": (deep(1, "TIFF", np.float32), 8),
    "floating point up to 4000": (deep(4000, "TIFF", np.float32), 12),
    "floating point from -1 to 1": (deep(1, "TIFF", np.float32, low=-1), 8),
    "degrees of a cold day": (deep(-5, "TIFF", np.float32, low=-30), 8),
    "Hounsfield units in a TIFF of 32": (deep(3071, "TIFF", np.int32, low=-1024), 12),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_pictures_are_scaled_by_the_bits_that_they_use(name: str) -> None:
    data, bits = DEEP[name]
    pixels = image.decode(data)
    assert image.inspect(data).deep
    assert image.bits_used(data) == bits
    assert (pixels[0, 150, 0], int(pixels[-1, 150, 0]) >= 248) == (0, True)
    assert abs(int(pixels[100, 150, 0]) - 127) <= 4
    if "three" in name:
        assert abs(int(pixels[-1, 150, 2]) - 127) <= 2


def test_what_a_map_has_no_data_for_is_black_and_leaves_the_rest_its_range() -> None:
    levels = np.full((300, 400), 1000, np.float32)
    levels[:10], levels[10:20] = np.finfo(np.float32).min, np.nan
    pixels = image.decode(saved(Image.fromarray(levels), "TIFF"))
    assert (pixels[5, 0, 0], pixels[15, 0, 0], pixels[50, 0, 0]) == (0, 0, 249)


def test_a_16_bit_file_of_5_bits_a_colour_is_not_deep() -> None:
    """BMP's 16 bits are those of a whole pixel."""
    header = struct.pack("<2sIHHI", b"BM", 54 + 16 * 16 * 2, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 16, 0, 512, 0, 0, 0, 0)
    assert not image.inspect(header + b"\x00\x7c" * 256).deep


def test_one_pixel_fills_the_picture() -> None:
    assert close(image.load(saved(Image.new("RGB", (1, 1), RED), "PNG"))[150, 150], RED)


def test_each_fit_keeps_what_it_says() -> None:
    picture = Image.new("RGB", (900, 300), BLUE)
    picture.paste(RED, (300, 0, 600, 300))
    data = saved(picture, "PNG")
    squash, crop, letterbox = (image.load(data, fit) for fit in ("squash", "crop", "letterbox"))
    assert close(squash[150, 20], BLUE)
    assert close(squash[150, 150], RED)
    assert close(crop[150, 20], RED)
    assert close(crop[150, 280], RED)
    assert close(letterbox[20, 150], (127, 127, 127))
    assert close(letterbox[150, 150], RED)
    assert close(letterbox[150, 20], BLUE)
    assert {squash.shape, crop.shape, letterbox.shape} == {SHAPE}


def test_shrinking_is_antialiased() -> None:
    """Black and white columns of one pixel become grey; plain sampling would keep black or white."""
    columns = np.zeros((1200, 1200, 3), np.uint8)
    columns[:, ::2] = 255
    pixels = image.load(saved(Image.fromarray(columns), "PNG"))
    assert abs(float(pixels.mean()) - 127.5) < 3
    assert pixels.std() < 6
    narrow = image.load(saved(Image.fromarray(columns[:100]), "PNG"))  # shrinks across, grows down
    assert narrow.std() < 6


def grating(length: int, frequency: float) -> np.ndarray:
    """Columns whose grey swings `frequency` times a pixel, uint8 [length, length, 3]."""
    wave = 127.5 + 120 * np.cos(2 * np.pi * frequency * np.arange(length) + 0.3)
    return np.repeat(np.repeat(wave[None, :, None], length, 0), 3, 2).round().astype(np.uint8)


@pytest.mark.parametrize("length", [375, 400, 420, 450, 500, 570, 599, 700, 1200])
def test_what_is_too_fine_for_300_pixels_fades_as_it_does_by_area(length: int) -> None:
    """Gratings beyond the new Nyquist frequency: what is left of them is false, and no more than 1.5 times as much
    as with OpenCV's INTER_AREA; across and down alike."""
    left, reference = [], []
    for frequency in np.linspace(0.55 * image.SIZE / length, 0.5, 8):
        fine = grating(length, frequency)
        by_area = cv2.resize(fine, (image.SIZE, image.SIZE), interpolation=cv2.INTER_AREA)
        across, down = image.resize(fine), image.resize(fine.swapaxes(0, 1)).swapaxes(0, 1)
        assert np.abs(across.astype(int) - down).max() <= 1
        left.append(across[150, 20:-20, 0].std())
        reference.append(by_area[150, 20:-20, 0].std())
    assert np.mean(left) <= 1.5 * np.mean(reference) + 1


@pytest.mark.parametrize(("width", "height"), [(450, 375), (500, 375), (500, 500), (599, 301), (900, 320), (320, 900)])
def test_scaling_differs_little_from_pillow_s_antialiased_one(width: int, height: int) -> None:
    pixels = np.asarray(scene(11, width, height))
    expected = Image.fromarray(pixels).resize((image.SIZE, image.SIZE), Image.Resampling.BILINEAR)
    assert np.abs(image.resize(pixels).astype(int) - np.asarray(expected)).mean() < 1.5


def test_scaling_leaves_its_input_and_earlier_results_alone() -> None:
    first, second = (np.asarray(scene(seed, 520, 470)) for seed in (1, 2))
    before = first.copy()
    one = image.resize(first)
    kept = one.copy()
    image.resize(second)
    assert np.array_equal(first, before)
    assert np.array_equal(one, kept)
    assert np.array_equal(image.resize(first), kept)


EXIF_BEHIND = {
    "first": lambda exif: saved(scene(9), exif=exif),
    "behind a colour profile": lambda exif: saved(scene(9), exif=exif, icc_profile=b"x" * 70_000),
    "behind a comment": lambda exif: saved(scene(9), exif=exif, comment=b"Exif"),
    "behind another program's comment": lambda exif: behind(saved(scene(9), exif=exif), b"\xff\xfe\0\6made"),
    "behind a table and a fill byte": lambda exif: behind(
        saved(scene(9), exif=exif), b"\xff\xdb\0\x43\0" + b"\1" * 64 + b"\xff"
    ),
}


def behind(jpeg: bytes, segment: bytes) -> bytes:
    """The JPEG with `segment` before all others."""
    return jpeg[:2] + segment + jpeg[2:]


@pytest.mark.parametrize("name", EXIF_BEHIND)
def test_a_header_says_what_pillow_says_wherever_exif_stands(name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = EXIF_BEHIND[name](exif)
    assert image.inspect(data).orientation == 6
    assert image.decode(data).shape == (480, 360, 3)


def test_a_header_s_mode_and_size_are_pillow_s() -> None:
    for mode in ("RGB", "L", "CMYK"):
        data = saved(scene(9, 70, 50).convert(mode))
        assert image.inspect(data) == image.Header("JPEG", 70, 50, mode)


def test_other_formats_are_refused_by_the_same_sentence_and_no_reader_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's reader of EPS would start Ghostscript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    Image.init()
    for data in (saved(two_colours(), "EPS"), saved(two_colours(), "PPM"), saved(two_colours(), "JPEG2000")):
        with pytest.raises(image.BadImage, match=r"known format .*AVIF and HEIC") as caught:
            image.load(data)
        assert caught.value.reason == "not_an_image"


def test_the_limit_on_pixels_may_lie_above_pillow_s_own() -> None:
    data = saved(Image.new("1", (20_000, 10_000)), "PNG")  # 200 million; Pillow alone refuses above 179 million
    assert image.load(data, max_pixels=200_000_000).shape == SHAPE


NO_PICTURE = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"<html>404</html>", "not_an_image"),
    "a truncated jpeg": (lambda: photograph(1)[:9000], "truncated"),
    "a jpeg's first bytes": (lambda: photograph(1)[:3], "not_an_image"),
    "a jpeg's first line": (lambda: photograph(1)[:60], "truncated"),
    "a truncated png": (lambda: saved(scene(1), "PNG")[:9000], "truncated"),
    "a truncated jpeg with exif": (lambda: with_exif(6)[:2500], "truncated"),
    "a bomb": (png_bomb, "too_large"),
    "a jpeg that claims a bomb": (lambda: jpeg_claiming(65_000, 65_000), "too_large"),
}


@pytest.mark.parametrize("name", NO_PICTURE)
def test_what_is_no_picture_says_why(name: str) -> None:
    make, reason = NO_PICTURE[name]
    with pytest.raises(image.BadImage) as caught:
        image.load(make())
    assert caught.value.reason == reason
    assert len(str(caught.value)) > 10


def test_the_limit_on_pixels_is_the_caller_s() -> None:
    data = saved(two_colours(), "PNG")
    assert image.load(data, max_pixels=480 * 360).shape == SHAPE
    with pytest.raises(image.BadImage, match="480x360"):
        image.load(data, max_pixels=480 * 360 - 1)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_bad_image_and_nothing_else(data: st.DataObject) -> None:
    original = bytearray(data.draw(st.sampled_from(DAMAGED)))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(original[: data.draw(st.integers(0, len(original)))])
    try:
        assert image.load(cut, max_pixels=1_000_000).shape == SHAPE
    except image.BadImage as error:
        assert error.reason in {"empty", "not_an_image", "truncated", "too_large"}


DAMAGED = (
    saved(two_colours(60, 40)),
    saved(two_colours(60, 40), "PNG"),
    saved(two_colours(60, 40), "WEBP"),
    saved(two_colours(60, 40), "GIF"),
    saved(two_colours(60, 40), "TIFF"),
)


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_training_and_serving_see_the_same_tensor_bit_for_bit(tmp_path: Path, fit: image.Fit) -> None:
    """Through a real shard on one split, through image.load on the other."""
    originals = {
        "plain.jpg": photograph(1),
        "wide.png": saved(scene(2, 900, 250), "PNG"),
        "cmyk.jpg": saved(scene(3).convert("CMYK")),
        "grey.jpg": saved(scene(4).convert("L")),
        "turned.jpg": with_exif(6),
        "large.jpg": photograph(5, width=1600, height=1200),
        "small.png": saved(scene(6, 90, 70), "PNG"),
        "deep.png": png16(np.asarray(scene(7).convert("L"), np.uint16) * 257),
    }
    for kind, names in (("a", list(originals)[:4]), ("b", list(originals)[4:])):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for name in names:
            (tmp_path / "data" / kind / name).write_bytes(originals[name])
    params = load_params(ROOT / "params.yaml")
    params = params.model_copy(update={"preprocess": params.preprocess.model_copy(update={"fit": fit})})
    prepare(ingest.dataset(tmp_path / "data"), tmp_path / "data", tmp_path / "prepared", params)
    seen = 0
    for split in (PreparedDataset.open(tmp_path / "prepared").split(name) for name in ("train", "validation", "test")):
        for origin, pixels in zip(split.origins, split.images(range(len(split))), strict=True):
            served = image.load(originals[Path(origin).name], fit, params.preprocess.quality)
            assert np.array_equal(pixels, served), origin
            seen += 1
    assert seen == len(originals)


@pytest.mark.parametrize("fit", ["squash", "letterbox", "crop"])
def test_another_size(fit: image.Fit) -> None:
    large = photograph(1, width=1300, height=900)
    assert image.decode(large).shape == (338, 488, 3)
    assert image.decode(large, size=224).shape == (225, 325, 3)
    assert image.load(large, fit, size=224).shape == (224, 224, 3)
    assert image.load(photograph(1, width=120, height=90), fit, size=512).shape == (512, 512, 3)
