"""What a stage pays for Prefect: a flow of two tasks as a whole process, in four ways.

    python benchmarks/flow_start.py

Behind docs/decisions/prefect-and-dvc.md. The server of the second way is started once, before the clock.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from common import report

ROOT = Path(__file__).resolve().parents[1]
STEPS = """
@{step}
def one(): return 1
@{step}
def two(): return 2
@flow
def both(): one(); two()
"""
PREFECT = "from prefect import flow, task\n" + STEPS.format(step="task")
OURS = "from prefect import flow\nfrom flows.tasks import run, step\n" + STEPS.format(step="step()")
WAYS = {
    "plain (flows/tasks.py, no server)": (OURS + "run(both)", False),
    "a flow on a server that is there": (OURS + "run(both)", True),
    "a flow with no server": (PREFECT + "both()", False),
    "flow.fn() with no server": (PREFECT + "both.fn()", False),
}
PORT = 4399


def seconds(code: str, environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as home:
        environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PREFECT_HOME": home}
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(PORT)]
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
        address = f"http://127.0.0.1:{PORT}/api"
        try:
            for _ in range(120):
                try:
                    if httpx.get(f"{address}/health", timeout=2).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.5)
            measured: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way, (code, on_server) in WAYS.items():
                    measured[way].append(
                        seconds(code, environment | ({"PREFECT_API_URL": address} if on_server else {}))
                    )
        finally:
            server.terminate()
            server.wait(30)
    report("flow_start", "seconds, whole process", measured, base=next(iter(WAYS)))


if __name__ == "__main__":
    main()
