"""Pictures that the service keeps: without what a camera writes beside the pixels, bounded in time and size."""

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odd_pictures import photograph
from pawprint import image
from pawprint.serving.kept import PictureStore, clean

SECRET = b"52.5200 N 13.4050 E"
SEEN = np.full((300, 300, 3), 90, np.uint8)


def jpeg(orientation: int = 1, progressive: bool = False, profile: bytes | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = SECRET.decode(), orientation
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(photograph(3, width=200, height=120)))
    picture.save(out, "JPEG", exif=exif, comment=SECRET, progressive=progressive, icc_profile=profile)
    return out.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_keeps_its_pixels_and_nothing_else(orientation: int, progressive: bool) -> None:
    whole = jpeg(orientation, progressive) + SECRET + jpeg()  # a preview or a film behind its end
    kept = clean(whole, SEEN)
    assert whole.count(SECRET) >= 5 and SECRET not in kept and len(kept) < len(whole)
    assert np.array_equal(image.decode(kept), image.decode(whole))
    assert clean(kept, SEEN) == kept


def test_what_is_written_between_the_last_scan_and_the_end_goes_too() -> None:
    whole = jpeg(progressive=True)
    end = whole.rindex(b"\xff\xd9")
    comment = b"\xff\xfe" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
    assert clean(whole[:end] + comment + whole[end:], SEEN) == clean(whole, SEEN)


def test_a_profile_of_colours_stays() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert profile in clean(jpeg(profile=profile), SEEN)


@pytest.mark.parametrize("cut", range(2, 400, 37))
def test_a_damaged_jpeg_is_kept_as_the_model_saw_it(cut: int) -> None:
    whole = jpeg()
    assert clean(whole[:cut], SEEN) == image.encode(SEEN)


def test_other_formats_are_kept_as_the_model_saw_them() -> None:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    for kind in ("PNG", "WEBP", "TIFF"):
        out = io.BytesIO()
        Image.fromarray(SEEN).save(out, kind, exif=exif)
        assert clean(out.getvalue(), SEEN) == image.encode(SEEN)


def test_what_is_old_goes_and_then_the_oldest_until_the_others_fit(tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "pictures", days=10, mb=0.3)
    old, *others = (store.keep(bytes([number]) * 100_000) for number in range(4))
    for age, digest in ((11, old), (3, others[0]), (2, others[1]), (1, others[2])):
        path = tmp_path / "pictures" / digest[:2] / digest
        if path.exists():
            os.utime(path, (time.time() - age * 86_400,) * 2)
    store.trim()
    assert store.read(old) is None
    assert store.keep(b"\1" * 100_000) == others[0]  # it came again: it is the newest now
    store.keep(bytes([9]) * 100_000)
    assert [store.read(digest) is not None for digest in others] == [True, False, True]
    assert store.remove(others[0]) and not store.remove(others[0])


def test_what_is_old_goes_within_the_hour_also_where_few_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("pawprint.serving.kept.time.monotonic", lambda: clock[0])
    store = PictureStore(tmp_path, days=10, mb=1000)
    old, again = store.keep(b"old"), store.keep(b"again")
    os.utime(tmp_path / old[:2] / old, (time.time() - 11 * 86_400,) * 2)
    store.keep(b"again")
    assert store.read(old)  # it was looked at with the first one
    clock[0] = 3601
    assert store.keep(b"again") == again
    assert store.read(old) is None and store.read(again)


def test_a_picture_that_was_changed_on_disk_is_not_given_out(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, days=1, mb=1)
    digest = store.keep(b"a picture")
    (tmp_path / digest[:2] / digest).write_bytes(b"another")
    assert store.read(digest) is None
