"""Shared fixtures: a model folder that is real but tiny, and pictures for it."""

import contextlib
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pytest

from pawprint import image
from pawprint.tracking import server
from service_process import serving
from toy import build_toy_model
from workspace import Workspace, clone

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

BENTOS = tempfile.TemporaryDirectory(prefix="bentos-")  # the account's own store is not for tests
os.environ["BENTOML_HOME"] = BENTOS.name  # BentoML reads it once, when it is imported

# Where the tests are started as a shell's background job, Ctrl-C is ignored, also by every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's folder, one a session; copy it before changing it."""
    return build_toy_model(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """A red, a blue and a green photograph (JPEG, 480x360, with some texture)."""
    rng = np.random.default_rng(2017)
    noise = rng.integers(-40, 40, (360, 480, 1))
    colours = {"red": (220, 40, 40), "blue": (40, 40, 220), "green": (40, 220, 40)}
    return {
        name: image.encode(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
        for name, colour in colours.items()
    }


@pytest.fixture(scope="session")
def empty_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mlflow.db with its tables and nothing in them, to be copied: MLflow takes seconds to make one."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        server.connect(root)
        mlflow.MlflowClient().search_experiments()
        del os.environ["MLFLOW_TRACKING_URI"]  # which MLflow has set, and `patch` would set again at its end
    database = root / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM experiments")  # its default one names a folder here
        connection.commit()
    return database


@pytest.fixture(scope="session")
def service(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a running service over the toy model, one a session (and xdist worker)."""
    folder = tmp_path_factory.mktemp("service")
    env = {
        "PAWPRINT_MODEL": str(toy_model),
        "PAWPRINT_TRAFFIC": str(folder / "traffic"),
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    with serving(folder / "log", env) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The browser of this machine; tests of pages are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    from playwright.sync_api import sync_playwright  # here: most runs of tests need none of it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One clone a file, whose tests change it in the order they stand in (`--dist loadfile`)."""
    root = tmp_path_factory.mktemp("clone") / "pawprint"
    root.mkdir()
    clone(root)
    return Workspace(root, tmp_path_factory.mktemp("homes"))


LONGEST = (
    "integration/test_pipeline.py", "stack/test_stack.py", "unit/training/test_checkpoint.py",
    "unit/training/test_distributed.py", "unit/training/test_step.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file, a whole pipeline run, and long ones of the end of the alphabet start first.

    So no worker is left alone with one of them at the end.
    """
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
