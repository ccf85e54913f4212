"""Pictures of MLflow's pages for docs/images, out of a real server over this project's runs.

python scripts/screenshots.py        # after `make run`; needs chromium
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

from pawprint.tracking.tracker import Tracker

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "images"
WAIT = 60_000  # ms
PART = {"x": 198, "y": 0, "width": 752, "height": 900}  # without the menu and the assistant beside the page
LARGEST = 300_000  # bytes of a picture in git


def main() -> None:
    """Take them all; says what each weighs."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: there is no chromium here. On Debian or Ubuntu: apt install chromium")
    champion = json.loads((ROOT / "champion.json").read_text(encoding="utf-8"))
    with server() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(WAIT)
        with urlopen(f"{url}/api/2.0/mlflow/runs/get?run_id={champion['run_id']}") as answer:
            home = json.load(answer)["run"]["info"]["experiment_id"]
        version = f"{champion['model']}/versions/{champion['version']}"
        first = Tracker(ROOT).comparison_page(champion["dataset"])
        page.set_viewport_size({"width": 1620, "height": 620})
        take(page, f"{url}{first}", "test_log_loss", "mlflow-runs.png", {"x": 0, "y": 0, "width": 1199, "height": 620})
        page.set_viewport_size({"width": 1280, "height": 900})
        take(page, f"{url}/#/experiments/{home}/runs/{champion['run_id']}", "test_log_loss", "mlflow-run.png")
        take(page, f"{url}/#/models/{version}", "promoted_because", "mlflow-model.png")
        browser.close()


def take(page: Page, address: str, shows: str, name: str, part: dict[str, int] = PART) -> None:
    """A picture of `address`, once it shows the words `shows`."""
    page.goto(address)
    page.get_by_text(shows).first.wait_for(state="attached")
    page.wait_for_timeout(8000)  # what stands beside the words comes later
    path = OUT / name
    page.screenshot(path=path, clip=part)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
    if path.stat().st_size > LARGEST:
        sys.exit(f"error: {name} is larger than {LARGEST} bytes. Take a smaller part of the page.")


@contextmanager
def server() -> Iterator[str]:
    """The address of MLflow's UI over this project's runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [shutil.which("pawprint") or "pawprint", "ui", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


if __name__ == "__main__":
    main()
