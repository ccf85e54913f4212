"""The exported page, opened from the disk: no server, the same answers, and pixels prepared by the same rules."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from odd_pictures import saved, scene
from pawprint import image
from pawprint.inference import portable
from pawprint.inference.classifier import Classifier


def turned(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture, quality=90, exif=exif)


def transparent() -> Image.Image:
    picture = scene(2017, 500, 400).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((500, 400)))
    return picture


def grain(seed: int, width: int, height: int) -> bytes:
    """With the noise and the edges of a photograph: what an encoder's rounding changes most."""
    rng = np.random.default_rng(seed)
    cells = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12), np.uint8)).resize((width, height), 0)
    noisy = np.asarray(Image.blend(cells.convert("RGB"), scene(seed, width, height), 0.7)) + rng.normal(
        0, 9, (height, width, 1)
    )
    return saved(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), quality=92)


PICTURES = {
    "a little larger": saved(scene(2017, 450, 375), quality=90),
    "smaller": saved(scene(2017, 120, 90), quality=90),
    "larger by half": saved(scene(2017, 640, 480), quality=90),
    "reduced to three eighths": saved(scene(2017, 1213, 907), quality=90),
    "a telephone's": saved(scene(2017, 4032, 3024), quality=85),
    "on its side": turned(scene(2017, 1200, 904), 6),
    "mirrored": turned(scene(2017, 450, 375), 2),
    "grey": saved(scene(2017, 450, 375).convert("L"), quality=90),
    "PNG": saved(scene(2017, 1000, 700), "PNG"),
    "transparent PNG": saved(transparent(), "PNG"),
    "WebP": saved(scene(2017, 500, 400), "WEBP", lossless=True),
    "grain": grain(1, 500, 374),
    "grain, reduced to a half": grain(2, 1000, 700),
    "grain, reduced to three eighths": grain(3, 1200, 900),
    "grain, smaller": grain(4, 280, 210),
    "a strip": saved(scene(2017, 900, 40), quality=90),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(toy_model: Path, pictures: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("no npm here (apt-get install npm)")
    out = tmp_path_factory.mktemp("export") / "page"
    report = portable.export(toy_model, "web", out, {f"{name}.jpg": data for name, data in pictures.items()})
    assert report is not None  # Chromium has run the page's own check
    assert (report.pictures, report.different) == (3, ())
    assert report.difference <= portable.TOLERANCE
    return out


@pytest.fixture(scope="module")
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """The page, open; at the end it has asked nobody for anything but its own files."""
    page = browser.new_page()
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda one: problems.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    expect(page.locator("#status")).to_have_text("Choose photographs.", timeout=60_000)
    yield page
    inside = (folder.as_uri(), "data:", "blob:")
    assert [url[:80] for url in asked if not url.startswith(inside)] == []
    assert [text for text in problems if "could not be decoded" not in text] == []
    page.close()


def test_photographs_chosen_by_a_person(
    page: Page, toy_model: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in {**pictures, "notes": b"no photograph"}.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    page.set_input_files("#files", [tmp_path / f"{name}.jpg" for name in ("red", "blue", "green", "notes")])
    expect(page.locator("#status")).to_have_text("All photographs are classified.")
    labels = page.locator(".label").all_text_contents()
    assert labels[:2] == ["red", "blue"]
    assert labels[2].startswith("unknown: it is unlike the training photographs")
    assert labels[3] == "No prediction"
    page.get_by_text("About the model").click()
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#status")).to_contain_text("3 pictures: 0 with another label")


@pytest.mark.parametrize(
    ("name", "fit"),
    [(name, "squash") for name in PICTURES]
    + [(name, fit) for name in ("on its side", "a strip") for fit in ("letterbox", "crop")],
)
def test_pixels_are_prepared_by_the_same_rules(page: Page, name: str, fit: image.Fit) -> None:
    found = page.evaluate(
        """async ([data, fit, quality]) => {
            const blob = await (await fetch(`data:application/octet-stream;base64,${data}`)).blob();
            const pixels = await recode(resize(await decode(blob, about.size), about.size, fit), quality);
            return btoa(Array.from(pixels, value => String.fromCharCode(value)).join(""));
        }""",
        [base64.b64encode(PICTURES[name]).decode(), fit, 95],
    )
    theirs = np.frombuffer(base64.b64decode(found), np.uint8).astype(np.int16).reshape(image.SIZE, image.SIZE, 3)
    difference = np.abs(theirs - image.load(PICTURES[name], fit))
    # grey levels; a JPEG that libjpeg reduces while it decodes is rounded elsewhere, a PNG is not a JPEG's planes
    exact = name in ("a little larger", "larger by half", "smaller", "mirrored", "grain", "grain, smaller")
    assert difference.mean() < (0.1 if exact else 1.5), difference.mean()


def test_answers_are_the_models(page: Page, toy_model: Path) -> None:
    classifier = Classifier(toy_model, precision="f32")
    for name, data in PICTURES.items():
        about = {name: {"label": "", "probabilities": list(classifier(data).probabilities.values())}}
        page.evaluate(
            """async ([expected, shown]) => {
                about.expected = expected;
                Object.assign(pictures, shown);
                document.getElementById("check").click();
            }""",
            [about, {name: base64.b64encode(data).decode()}],
        )
        expect(page.locator("#status")).to_contain_text("1 pictures: ")
        text = page.locator("#status").text_content() or ""
        assert float(text.partition(" at most ")[2].partition(";")[0]) <= portable.TOLERANCE, name
