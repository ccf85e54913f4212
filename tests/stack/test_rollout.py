"""A canary of the gateway's manifests in front of real service processes (benchmarks/rollout.py)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "rollout.py"
MISSING = [name for name in ("haproxy", "prometheus") if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian's packages)"),
]


def rollout(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_good_version_fails_no_request_and_gets_its_shares() -> None:
    found = rollout("good", "--requests", "3000", "--pause-speed", "20")
    assert "taken_back" not in found["good"], found
    assert found["good"]["statuses"].keys() == {"200"}
    assert abs(found["share_of_10"] - 0.1) <= 0.01
    for weight, share in found["good"]["shares"].items():
        assert abs(share - int(weight) / 100) <= 0.02


@pytest.mark.parametrize("fault", ["slow", "errors", "refusals"])
def test_a_faulty_version_is_taken_back(fault: str) -> None:
    found = rollout(fault, "--speed", "2", "--pause-speed", "2")[fault]
    metric = {"slow": "latency"}.get(fault, fault)
    assert found["taken_back"].startswith(f"{metric}: failure")
    assert found["measured"] <= 3  # intervals in which there were enough requests to say something
