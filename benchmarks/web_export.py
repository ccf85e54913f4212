"""By how much the exported page's probabilities differ from the model's own, in Chromium.

    pawprint export champion page --to web
    python benchmarks/web_export.py champion page small/ large/ other_origin/ --enlarged 40

A line a folder of photographs; none that the model has learned from. `--enlarged 40`: the first 40 of all, two to six
times as large, too. Behind docs/export.md.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from pawprint.inference.classifier import Classifier, find_pictures
from pawprint.inference.portable import BROWSERS, TOLERANCE

KEPT = "() => { const own = decide; window.said = []; decide = (...all) => said[said.push(own(...all)) - 1]; }"


def enlarge(paths: list[Path], folder: Path) -> Path:
    """`folder` with these photographs, two to six times as large."""
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            sides = (2 + number % 5) * picture.width, (2 + number % 5) * picture.height
            picture.convert("RGB").resize(sides, Image.Resampling.BICUBIC).save(folder / path.name, quality=90)
    return folder


def main() -> None:
    """Give the page each folder's photographs, as a person chooses them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--enlarged", type=int, default=0)
    options = parser.parse_args()
    classifier = Classifier(options.model, precision="f32")
    with tempfile.TemporaryDirectory(prefix="enlarged-") as larger, sync_playwright() as playwright:
        browser = next(filter(None, map(shutil.which, BROWSERS)))
        page = playwright.chromium.launch(executable_path=browser, chromium_sandbox=False).new_page()
        page.goto((options.page.resolve() / "index.html").as_uri())
        status = page.locator("#status")
        expect(status).to_have_text("Choose photographs.", timeout=300_000)
        page.evaluate(KEPT)
        folders: list[Path] = options.folders
        if options.enlarged:
            folders.append(enlarge(find_pictures(folders)[: options.enlarged], Path(larger)))
        for folder in folders:
            worst, above, others = (0.0, ""), 0, 0
            paths = find_pictures([folder])
            for path in paths:
                page.set_input_files("#files", path)
                expect(page.locator("#answers li")).to_have_count(1, timeout=60_000)
                expect(status).to_have_text("All photographs are classified.", timeout=60_000)
                own, found = classifier.classify(path.read_bytes()), page.evaluate("said.pop()")
                page.evaluate("() => { answers.replaceChildren(); element('status').textContent = ''; }")
                pairs = zip(own.probabilities.values(), found["probabilities"], strict=True)
                difference = max(abs(one - other) for one, other in pairs)
                worst, above = max(worst, (difference, path.name)), above + (difference > TOLERANCE)
                others += found["label"] != own.label
            print(
                f"{folder}: {len(paths)} photographs, {others} with another label, {above} differ by more than "
                f"{TOLERANCE}, at most {worst[0]:.4f} ({worst[1]})"
            )


if __name__ == "__main__":
    main()
