"""What a person sees who serves too early, or serves something broken."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from service_process import ROOT, checkout, free_port


def refused(cwd: Path, **env: str) -> str:
    """The last words of a `bentoml serve` that must not start."""
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "--port", str(free_port())],
        cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_without_a_champion_it_says_what_to_run(tmp_path: Path) -> None:
    assert "Run `make run` first" in refused(tmp_path, **checkout(tmp_path))


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert "PAWPRINT_MODEL" in refused(ROOT, PAWPRINT_MODEL=str(tmp_path / "gone"))


def test_a_changed_model_is_refused(toy_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_model, tmp_path / "model"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert "is not the file that model.json describes" in refused(ROOT, PAWPRINT_MODEL=str(copy))


def test_a_wrong_key_in_params_is_named(toy_model: Path, tmp_path: Path) -> None:
    env = checkout(tmp_path, max_bodymb=20)
    words = refused(tmp_path, **env, PAWPRINT_MODEL=str(toy_model))
    assert "max_bodymb" in words and "unknown key" in words


@pytest.mark.slow
@pytest.mark.parametrize("host", [None, "127.0.0.2"])
def test_it_listens_where_it_is_told_and_nowhere_else(toy_model: Path, tmp_path: Path, host: str | None) -> None:
    """Without a word on this machine only; BENTOML_HOST, as in a container, names another address."""
    port = free_port()
    env = {
        "PAWPRINT_MODEL": str(toy_model),
        "PAWPRINT_TRAFFIC": str(tmp_path),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "BENTOML_PORT": str(port),
        **({"BENTOML_HOST": host} if host else {}),
    }
    command = [sys.executable, "-m", "bentoml", "serve"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"http://{host or '127.0.0.1'}:{port}/readyz").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{'127.0.0.1' if host else '127.0.0.2'}:{port}/readyz")
    finally:
        process.terminate()
        process.wait(30)


def test_a_signal_that_comes_while_the_workers_are_started_is_not_lost(toy_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(free_port())]
    env = {**os.environ, "PAWPRINT_MODEL": str(toy_model), "PAWPRINT_TRAFFIC": str(tmp_path / "traffic")}
    process = subprocess.Popen(command, cwd=ROOT, env=env | {"BENTOML_HOME": str(tmp_path / "bentoml")})
    try:
        while not any("worker.service" in " ".join(one.cmdline()) for one in psutil.Process(process.pid).children()):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
