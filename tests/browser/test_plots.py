"""`dvc plots show` in a browser that has no network: every picture of an evaluation is there, nothing is fetched."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Request, expect, sync_playwright

from pawprint.evaluation import curves, plots
from pawprint.evaluation.metrics import Scores, measure

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")


@pytest.fixture
def page_of_plots(tmp_path: Path) -> Path:
    """What the project's own dvc.yaml makes of a workspace with one evaluated candidate."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    labels = np.arange(40) % 2
    probabilities = np.where(np.eye(2)[labels] > 0, 0.9, 0.1)
    names = tuple(map(str, range(40)))
    scores = Scores(names, names, labels, probabilities, ("cat", "dog"), np.ones(40))
    pictures = tmp_path / "reports" / "plots" / "article_cnn"
    pictures.mkdir(parents=True)
    plots.confusion(measure(scores), scores.classes, pictures / "confusion.png")
    plots.reliability(scores, pictures / "reliability.png")
    curves.write(tmp_path / "reports" / "curves", "article_cnn", {"validation_loss": [(1, 0.6), (2, 0.3)]}, scores)
    plots.learning_curves(
        {"article_cnn": {"train_loss": [(1, 0.6), (2, 0.3)]}}, pictures.parent / "learning_curves.png"
    )
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=tmp_path, check=True)
    for name in ("config", "plots.html"):
        shutil.copy(PROJECT / ".dvc" / name, tmp_path / ".dvc")
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "-o", "shown"], cwd=tmp_path, check=True)
    return tmp_path / "shown" / "index.html"


def test_the_page_of_plots_needs_no_network(page_of_plots: Path) -> None:
    failed: list[str] = []
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.on("request", note)
        page.on("requestfailed", lambda request: failed.append(request.url))
        page.goto(page_of_plots.as_uri(), wait_until="load")
        widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
        expect(page.locator(".vega-embed .marks")).to_have_count(3, timeout=30_000)  # loss, ROC and confusion, drawn
        browser.close()
    assert len(widths) == 3
    assert min(widths) > 100
    assert failed == []
    assert {url.partition(":")[0] for url in asked} == {"file"}
