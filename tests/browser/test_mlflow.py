"""What a person sees in MLflow's own pages when comparing: a real server, a real browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import mlflow
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from pawprint.config import load_params
from pawprint.inference.classifier import ModelInfo
from pawprint.tracking.tracker import Tracker

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT = 60_000  # ms: the pages are large and the machine may be busy

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server over an empty database under tmp; ended by its own process group."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "kept")]
    with (folder / "log").open("w") as log:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # as `pawprint ui` starts it
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urlopen(f"{url}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
    yield url
    os.killpg(process.pid, 15)
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def compared(address: str, tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Iterator[list[str]]:
    """Two runs of the toy model as the stages leave them; their ids."""
    root = tmp_path_factory.mktemp("workspace")
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, root)
    params, info = load_params(PROJECT / "params.yaml"), ModelInfo.read(toy_model)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = address
    ids, tracker = [], Tracker(root)
    try:
        for candidate, loss in (("article_cnn", 0.66), ("efficientnet_lite0", 0.09)):
            with tracker.start_training(candidate, params, info.lineage, candidate, {"train": 7}) as training:
                training.model(toy_model)
            run = tracker.run(training.id)
            run.metrics({"test_log_loss": loss}, dataset=(info.lineage.dataset, info.lineage.data_hash))
            run.rename(f"{candidate} · 7 photos · 98.1 %")
            run.describe("98.1 % right")
            ids.append(run.id)
        registry = tracker.registry
        entry = registry.register("pawprint-colours", run, info)
        assert registry.promote(entry, "the first", over=None)
        registry.describe(entry, "**98.1 %** right", {"test_log_loss": "0.09"})
        yield ids
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        page.set_default_timeout(WAIT)
        yield page
        browser.close()


def experiment(address: str, run_id: str) -> str:
    return str(mlflow.MlflowClient(address).get_run(run_id).info.experiment_id)


def test_the_runs_are_known_by_what_they_are_and_how_good(page: Page, address: str, compared: list[str]) -> None:
    page.goto(f"{address}/#/experiments/{experiment(address, compared[0])}/runs")
    for name in ("article_cnn · 7 photos · 98.1 %", "efficientnet_lite0 · 7 photos · 98.1 %"):
        expect(page.get_by_text(name).first).to_be_visible(timeout=WAIT)


def test_the_comparison_shows_what_was_given_and_what_came_out(page: Page, address: str, compared: list[str]) -> None:
    chosen = f"runs={quote(json.dumps(compared))}&experiments={quote(json.dumps([experiment(address, compared[0])]))}"
    page.goto(f"{address}/#/compare-runs?{chosen}")
    for text in ("learning_rate", "test_log_loss", "0.66", "0.09"):
        expect(page.get_by_text(text, exact=True).first).to_be_attached(timeout=WAIT)


def test_a_run_s_page_says_how_good_it_is(page: Page, address: str, compared: list[str]) -> None:
    page.goto(f"{address}/#/experiments/{experiment(address, compared[0])}/runs/{compared[0]}")
    for text in ("98.1 % right", "test_log_loss"):
        expect(page.get_by_text(text).first).to_be_attached(timeout=WAIT)


def test_the_version_s_page_says_that_it_is_champion_and_why(page: Page, address: str, compared: list[str]) -> None:
    page.goto(f"{address}/#/models/pawprint-colours/versions/1")
    for text in ("98.1 %", "@ champion", "promoted_because"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=WAIT)
