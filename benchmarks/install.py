"""What an installation costs: requirements.lock and torch's CPU build into an empty environment, by pip and by uv.

    pip download --no-deps --require-hashes -d wheels -r requirements.lock -r locks/torch-cpu.lock
    pip download --no-deps -d wheels wheel        # with which pip builds the one package that has no wheel
    python benchmarks/install.py wheels

Behind docs/decisions/dependencies.md. From a folder of wheels, so that no network is measured; uv with an empty cache
and with the one that a first installation leaves.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 1


def seconds(words: list[str], environment: dict[str, str]) -> float:
    """How long a command takes."""
    began = time.perf_counter()
    subprocess.run(words, check=True, env=os.environ | environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Install in turn, each into an environment of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheels", type=Path, help="a folder with a wheel of every package")
    wheels, base = parser.parse_args().wheels.resolve(), f"{sys.base_prefix}/bin/python3"
    chosen = ["--no-index", "--find-links", str(wheels), "--no-deps", "--require-hashes"]
    chosen += ["-r", str(ROOT / "requirements.lock"), "-r", str(ROOT / "locks/torch-cpu.lock")]
    measured: dict[str, list[float]] = {"pip": [], "uv, empty cache": [], "uv, warm cache": []}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            environment = {"UV_CACHE_DIR": f"{folder}/cache", "PIP_NO_CACHE_DIR": "1"}
            for variant in measured:
                place = Path(folder, variant.replace(" ", "-"))
                subprocess.run([base, "-m", "venv", place], check=True)
                environment["VIRTUAL_ENV"] = str(place)
                pip = [f"{place}/bin/python", "-m", "pip"] if variant == "pip" else ["uv", "pip"]
                measured[variant].append(seconds([*pip, "install", "--quiet", *chosen], environment))
    report("install", "seconds", measured, base="pip")


if __name__ == "__main__":
    main()
