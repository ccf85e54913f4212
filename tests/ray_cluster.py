"""A Ray cluster of processes of this machine, by `pawprint cluster up`."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import pytest

PAWPRINT = Path(sys.executable).with_name("pawprint")


@cache
def _home() -> Path:
    """A home with one token for all clusters of this process: Ray reads the token once."""
    home = Path(tempfile.mkdtemp(prefix="ray-home-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def killed_when(happened: Callable[[], bool], victim: psutil.Process) -> threading.Thread:
    """Kills a process when something has happened."""

    def wait() -> None:
        while not happened():
            time.sleep(0.002)
        victim.kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@contextmanager
def cluster(nodes: int) -> Iterator[list[psutil.Process]]:
    """`pawprint cluster up`, and this process on it; the process of each node."""
    home = _home()
    command = [str(PAWPRINT), "cluster", "up", "--local", str(nodes)]
    environment = {**os.environ, "HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            address = [started.stdout.readline() for _ in range(2)][1].strip().partition("RAY_ADDRESS=")[2]
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {
                    "PAWPRINT_ENGINE": "ray",
                    "RAY_ADDRESS": address,
                    "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token"),
                }.items():
                    patch.setenv(name, value)
                family = psutil.Process(started.pid).children(recursive=True)
                yield sorted((one for one in family if one.name() == "raylet"), key=psutil.Process.create_time)
        finally:
            if "ray" in sys.modules:  # this process was on it
                sys.modules["ray"].shutdown()
            started.send_signal(signal.SIGINT)
            assert started.wait(60) == 0
