"""What a training took: CodeCarbon's estimate, offline, by a method that is named."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pawprint.training.energy import Meter

# Fails where something asks the network or opens a file to write, but for Python's own compiled modules.
WATCHED = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{event} {args}")
    if event == "open" and isinstance(args[0], str) and "__pycache__" not in args[0] and set("wa+") & set(str(args[1])):
        raise SystemExit(f"opens {args}")
import torch
from pawprint.training.energy import Meter
sys.addaudithook(watch)
with Meter(torch.device("cpu")) as meter:
    sum(range(10_000_000))
print(meter.used.sentence())
"""


def test_energy_grows_with_what_is_computed_and_the_method_is_named() -> None:
    with Meter(torch.device("cpu")) as idle:
        time.sleep(0.3)
    with Meter(torch.device("cpu")) as busy:
        end = time.process_time() + 3
        while time.process_time() < end:
            pass
    assert busy.used.cpu_seconds >= 2.9 > 10 * idle.used.cpu_seconds
    assert busy.used.kwh > idle.used.kwh > 0
    assert "kWh (CodeCarbon 3." in busy.used.sentence() and "offline: " in busy.used.sentence()
    assert "CPU(" in busy.used.method
    assert busy.used.metrics() == {"cpu_seconds": busy.used.cpu_seconds, "energy_kwh": busy.used.kwh}


def test_nothing_is_sent_and_no_file_is_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "CodeCarbon" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == [] and "codecarbon" not in done.stderr


def test_an_error_of_its_own_stops_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("no such processor")

    monkeypatch.setattr("codecarbon.emissions_tracker.BaseEmissionsTracker._ensure_hardware_ready", broken)
    with Meter(torch.device("cpu")) as meter:
        pass
    assert meter.used.kwh == 0 and meter.used.method == "CodeCarbon failed"
