"""What 1 % more photographs cost in preprocessing and features, of a full run of both; in processes of their own.

    python benchmarks/new_photographs.py data
    python benchmarks/new_photographs.py data --photographs 21600    # with variants of them (prepare.py)

Processor time of all threads: with start-up (the whole process: Python, imports, reading the weights) and without.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import report
from pawprint.data.build import prepare
from pawprint.data.class_folders import Dataset, dataset
from pawprint.data.dataset import PreparedDataset
from pawprint.data.splits import SPLITS
from prepare import params, variants

STEPS = ("preprocess", "features")


def step(name: str, data: Path, folder: Path, left_out: int) -> float:
    """Seconds of processor time of one step of the photographs without each `left_out`-th (0: all of them)."""
    everything = dataset(data)
    fewer = (one for index, one in enumerate(everything.photographs) if not left_out or index % left_out)
    photographs = Dataset(everything.name, everything.drawn, everything.classes, tuple(fewer))
    if name == "preprocess":
        started = time.process_time()
        prepare(photographs, data, folder / "prepared", params())
        return time.process_time() - started
    from pawprint.evaluation.label_audit import features_of  # imports torch

    started = time.process_time()
    prepared = PreparedDataset.open(folder / "prepared")
    features_of([prepared.split(one) for one in SPLITS], params(), len(prepared.classes))
    return time.process_time() - started


def run(name: str, data: Path, folder: Path, left_out: int = 0) -> tuple[float, float]:
    """The same in a new process: (seconds of the work, of the whole process)."""
    chosen = ["--step", name, "--folder", str(folder), "--left-out", str(left_out)]
    command = [sys.executable, __file__, str(data), *chosen]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PAWPRINT_CACHE": str(folder / "cache")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(done.stdout.split()[-1]), whole


def compare(data: Path, repeats: int) -> None:
    works: dict[str, list[float]] = {}
    wholes: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        full, fewer, grown = (Path(temporary) / name for name in ("full", "fewer", "grown"))
        for name in STEPS:
            run(name, data, fewer, left_out=100)
        for _ in range(repeats):
            for folder in (full, grown):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(fewer, grown)
            for what, folder in (("all", full), ("1 % new", grown)):
                measured = {name: run(name, data, folder) for name in STEPS}
                work, whole = (sum(one[place] for one in measured.values()) for place in (0, 1))
                measured["both"] = work, whole
                for name, (work, whole) in measured.items():
                    works.setdefault(f"{name}, {what}", []).append(work)
                    wholes.setdefault(f"{name}, {what}", []).append(whole)
    for name, seconds in (("new_photographs", works), ("new_photographs_with_start_up", wholes)):
        report(name, "s of processor time", dict(sorted(seconds.items())), base="both, all")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a folder with a folder of JPEGs a class")
    parser.add_argument("--photographs", type=int, help="so many, made of those in DATA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", choices=STEPS, help="run this one only and print its seconds")
    parser.add_argument("--folder", type=Path, help="of a step")
    parser.add_argument("--left-out", type=int, default=0, help="of a step: each so-many-th photograph")
    arguments = parser.parse_args()
    if arguments.step:
        print(step(arguments.step, arguments.data, arguments.folder, arguments.left_out))
        return
    with tempfile.TemporaryDirectory() as made:
        if arguments.photographs:
            variants(arguments.data, Path(made), arguments.photographs)
        compare(Path(made) if arguments.photographs else arguments.data, arguments.repeats)


if __name__ == "__main__":
    main()
