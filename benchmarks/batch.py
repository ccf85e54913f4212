"""Does `pawprint batch` cost anything beside the classifier itself? Both predict the same files, in turns.

    python benchmarks/batch.py --pictures FOLDER [--model champion] [--pairs 5] [--count 400]
    python benchmarks/batch.py --pictures FOLDER --driver 10000000    # its memory and its planning, of so many keys

Prints a table and writes benchmarks/results/. With --driver all parts but the last two are there, of one content, and
it is the command that runs: its processor time to the plan, and its peak memory. PAWPRINT_ENGINE holds for it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from common import report
from pawprint import batch
from pawprint.evaluation.summary import machine
from pawprint.inference.classifier import Classifier, find_pictures

GROUP = 1_000_000  # rows of a row group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--driver", type=int, default=0, help="keys of an inventory, whose parts are there but for two")
    options = parser.parse_args()
    classifier = Classifier(options.model)
    files = find_pictures([options.pictures])[: options.count]
    with tempfile.TemporaryDirectory() as scratch:
        if options.driver:
            driver(Path(scratch), options.driver, classifier, files)
            return
        source = Path(scratch, "source")
        source.mkdir()
        for file in files:
            (source / file.name).write_bytes(file.read_bytes())
        files = find_pictures([source])
        alone, ours = [], []
        for pair in range(options.pairs + 1):  # the first is not counted: caches are cold
            started = time.perf_counter()
            for _ in classifier.classify_files(files):
                pass
            between = time.perf_counter()
            batch.run(str(source), str(Path(scratch, f"out{pair}")), classifier)
            if pair:
                alone.append(between - started)
                ours.append(time.perf_counter() - between)
    report("batch", "seconds", {"classifier alone": alone, "batch": ours}, base="classifier alone")


def driver(scratch: Path, rows: int, classifier: Classifier, files: list[Path]) -> None:
    """Print what the command's own process takes for an inventory of `rows` keys; the last two parts are predicted."""
    where, out, draw = scratch / "inventory.parquet", scratch / "out", random.Random(2017)
    with pq.ParquetWriter(where, pa.schema([("key", pa.string()), ("etag", pa.string())])) as writer:
        for first in range(0, rows, GROUP):
            numbers = range(first, min(first + GROUP, rows))
            keys = [str(files[number % len(files)].absolute()) for number in numbers]
            writer.write_table(pa.table({"key": keys, "etag": [draw.randbytes(16).hex() for _ in numbers]}))
    engine, one, data = os.environ.pop("PAWPRINT_ENGINE", "local"), classifier.classify(files[0].read_bytes()), b""

    def written(todo: Any, left: int, classifier: Classifier, version: str, reading: Any, store: Any) -> None:
        nonlocal data
        for name, chunk in todo:
            if len(chunk) < batch.CHUNK or not data:
                data = batch._part(chunk, [one] * len(chunk), classifier, version)
            store.write(name, data)

    batch._classify = written
    batch.run(str(where), str(out), classifier)
    for part in json.loads((out / batch.MANIFEST).read_bytes())["parts"][-2:]:
        (out / part).unlink()
    words = ["batch", str(where), str(out), "--model", str(classifier.folder)]
    command = [str(Path(sys.executable).with_name("pawprint")), *words]
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PAWPRINT_ENGINE": engine})
    for line in process.stdout:
        status = Path(f"/proc/{process.pid}/status").read_text()  # getrusage counts the fork of this process too
        peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
        if "predicted before" in line:
            spent = process.cpu_times()
            print(f"{line.strip()}: {spent.user + spent.system:.1f} s of processor time, with imports and the model")
    assert process.wait() == 0
    print(f"peak memory of the command {peak:.0f} MB, {engine}; {machine()}")


if __name__ == "__main__":
    main()
