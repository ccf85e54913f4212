"""A real `bentoml serve` as a process on a free port, ended by its process id."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    log: Path, env: Mapping[str, str], target: str = ".", python: str = sys.executable, cwd: Path = ROOT
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(url, process) of a service that is ready; its output is in `log`."""
    port = free_port()
    command = [python, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    # A store of its own: BentoML keeps the figures of all services of one store in one folder.
    settings = {**os.environ, "BENTOML_HOME": str(log.parent / "bentoml"), **env}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=settings, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(url, process, log)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the service ended with {process.returncode}:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"the service was not ready within 60 s:\n{log.read_text()}")


def checkout(folder: Path, **serving_params: object) -> dict[str, str]:
    """A clone in `folder` with other `serving` numbers; the environment that makes Python take its code."""
    shutil.copy(ROOT / "bentofile.yaml", folder)
    shutil.copytree(ROOT / "src/pawprint", folder / "src/pawprint", ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["serving"].update(serving_params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return {"PYTHONPATH": str(folder / "src"), "PAWPRINT_TRAFFIC": str(folder / "traffic")}


def processes(url: str) -> list[psutil.Process]:
    """The service at `url`: the process that was started, then all below it."""
    port = url.rpartition(":")[2]
    parent = next(p for p in psutil.process_iter(["cmdline"]) if {"serve", port} <= set(p.info["cmdline"] or ()))
    return [parent, *parent.children(True)]


def resident(url: str) -> float:
    """MB of all processes of the service; what they share counts once (proportional set size)."""
    total = 0
    for process in processes(url):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def line_of(log: Path, request_id: str) -> dict:
    """The line of a request; it may be written a moment after the answer."""
    deadline = time.monotonic() + 5
    while True:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        found = [line for line in lines if line["request_id"] == request_id]
        if found:
            return found[0]
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)
