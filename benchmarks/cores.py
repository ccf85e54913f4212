"""One core against two, or more: a training step, features, and answers of the service, as ratios, in one call.

    python benchmarks/cores.py --model champion --pictures data [--cores 1 2 4] [--repeats 3]

Each measurement is a process that may use so many cores and no others: torch's threads, OpenVINO's streams and the
service's threads follow its affinity (Linux). All are measured in turn, several times over. The service's client may
use every core, so on a machine with no core beside those of the service it takes a part of them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import report
from pawprint.config import load_params
from pawprint.training import devices
from serving import load, ours

HERE = Path(__file__).parent


@contextmanager
def limited(cores: int) -> Iterator[None]:
    """What is started meanwhile may use the first `cores` of this process."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def alone(script: str, variant: str, cores: int) -> float:
    """What a benchmark prints of one variant."""
    command = [sys.executable, str(HERE / script), "--variant", variant]
    with limited(cores):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--pictures", type=Path, default=Path("data"), help="JPEGs, in folders or not")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of load on the service")
    options = parser.parse_args()
    if max(options.cores) > len(os.sched_getaffinity(0)):
        parser.error(f"this process may use {len(os.sched_getaffinity(0))} cores")
    native = devices.resolve_precision(load_params()).training.precision
    features = "openvino bf16" if native == "bfloat16" else "openvino f32"
    names = {cores: f"{cores} core{'s' if cores > 1 else ''}" for cores in options.cores}
    works = (f"training step, {native}", f"features, {features}", "service")
    found: dict[str, dict[str, list[float]]] = {work: {name: [] for name in names.values()} for work in works}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        pictures = Path(scratch, "pictures")
        pictures.mkdir()
        for number, file in enumerate(sorted(options.pictures.rglob("*.jpg"))[:400]):
            (pictures / f"{number:03}.jpg").write_bytes(file.read_bytes())
        servers = {}
        for cores, name in names.items():
            with limited(cores):
                servers[cores] = stack.enter_context(ours(name, options.model, Path(scratch)))
            load(servers[cores], pictures, 2, clients=4)  # warm
        for _ in range(options.repeats):
            for cores, name in names.items():
                found[works[0]][name].append(alone("train_step.py", native, cores))
                found[works[1]][name].append(alone("train_features.py", features, cores))
                found[works[2]][name].append(load(servers[cores], pictures, options.seconds, clients=16)["rate"])
    for work, speeds in found.items():
        report(f"cores, {work}", "images/s", speeds, base=names[options.cores[0]])


if __name__ == "__main__":
    main()
