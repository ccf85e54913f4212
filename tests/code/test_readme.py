"""README's own commands, typed in a clone. What a reader is told to type is read from the README itself."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from service_process import free_port
from workspace import PROJECT, Workspace

ELSEWHERE = {"make test", "make serve"}  # `make test` is what runs this; the server has a test of its own below
SERVED = ("curl ", "pawprint predict --url", "pawprint traffic")  # what wants that server


def commands() -> list[str]:
    """Every indented command of the README, without its comment."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (?! )(.+)$", text, re.MULTILINE)
    return [line.split("  #")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def ready(workspace: Workspace) -> Workspace:
    """The clone with the files that the README's examples speak of, and a finished `make run`."""
    workspace("make", "run")
    photos = sorted((workspace.root / "data").glob("*/*.jpg"))
    shutil.copy(photos[0], workspace.root / "cat.jpg")
    (workspace.root / "pictures").mkdir()
    for photo in photos[:3]:
        shutil.copy(photo, workspace.root / "pictures")
    with zipfile.ZipFile(workspace.root / "train.zip", "w") as archive:
        for number, photo in enumerate(photos):
            archive.write(photo, f"train/{'cat' if number % 2 else 'dog'}.{number}.jpg")
    return workspace


def test_the_readme_has_its_two_commands_first() -> None:
    assert commands()[:2] == ["make run", "make serve"]
    assert {"make run PHOTOS=train.zip", "make test", "make help"} <= set(commands())


@pytest.mark.parametrize(
    "command", [c for c in commands() if c not in ELSEWHERE and not c.startswith(SERVED) and "PHOTOS" not in c]
)
def test_a_command_of_the_readme_works(ready: Workspace, command: str) -> None:
    assert ready("bash", "-c", command)


def test_make_serve_answers_the_readme_s_curl(ready: Workspace, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["make", "serve", f"PORT={port}"],
            cwd=ready.root,
            env=ready.environment | {"PAWPRINT_TRAFFIC": str(tmp_path)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        (curl,) = [c for c in commands() if c.startswith("curl")]
        said = ready(*shlex.split(curl.replace(":3000", f":{port}")), "-s", "-S", "--fail")
        assert '"probabilities"' in said
        for command in (c for c in commands() if c.startswith(SERVED[1:])):
            assert ready("bash", "-c", command.replace(":3000", f":{port}"), PAWPRINT_TRAFFIC=str(tmp_path))
        second = ready("make", "serve", f"PORT={port}", fails=True)
        assert f"Port {port}" in second
        assert "Traceback" not in second
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_make_run_with_photos_as_the_readme_says(ready: Workspace) -> None:
    (command,) = [c for c in commands() if "PHOTOS" in c]
    said = ready("bash", "-c", command)
    assert "pawprint-dogs-cats" in said


def test_make_ui_opens_the_runs(ready: Workspace, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["make", "ui", f"UI_PORT={port}"],
            cwd=ready.root,
            env=ready.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        found: httpx.Response | None = None
        for _ in range(300):
            assert server.poll() is None, log.read_text()
            try:
                url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
                found = httpx.post(url, json={"max_results": 10}, timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.3)
        assert found is not None
        names = {experiment["name"] for experiment in found.json()["experiments"]}
        assert ready.json("champion.json")["dataset"] in names
        second = ready("make", "ui", f"UI_PORT={port}", fails=True)
        assert f"Port {port} on 127.0.0.1 cannot be used" in second
        assert "Traceback" not in second
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
