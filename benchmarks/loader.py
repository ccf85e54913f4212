"""Photographs/s through the training loader, with and without augmentation, by the number of workers.

    python benchmarks/loader.py prepared
    python benchmarks/loader.py prepared --workers 1 2 --photographs 1024 --repeats 3

A worker is a process as a rank of a training is: it reads the training split in a seeded order, decodes on threads and
varies one by one. Each repeat measures every variant in turn. "unpack alone" is the decoder with nothing around it.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

from common import report
from pawprint import files, image
from pawprint.data.augment import augment
from pawprint.data.dataset import PreparedDataset
from pawprint.training import dataloader

KINDS = ("none", "flip", "standard", "strong")
BATCH = 128


def through(folder: Path, kind: str, count: int, worker: int) -> float:
    """Photographs/s of one worker."""
    split = PreparedDataset.open(folder).split("train")
    order = dataloader.order(len(split), seed=2017, epoch=worker)
    order = order[: min(count, len(order))]
    if kind == "unpack alone":
        places = split.places(order)
        packed = [files.read_range(split.shards / shard, offset, length) for shard, offset, length in places]
        started = time.perf_counter()
        for one in packed:
            image.unpack(one)
        return len(packed) / (time.perf_counter() - started)
    vary = augment(kind, seed=2017, epoch=0)  # type: ignore[arg-type]
    source = dataloader.photographs(split, vary)
    source(order[:8], 0)  # albumentations is imported, the files are open
    started = time.perf_counter()
    batches = dataloader.batches(split, source, dataloader.chunks(order, BATCH), alone=True)
    read = sum(len(batch.inputs) for batch in dataloader.prefetch(batches))
    return read / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--photographs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    measured: dict[str, list[float]] = {}
    for workers in dict.fromkeys(arguments.workers):
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in range(arguments.repeats):
                for kind in ("unpack alone", *KINDS):
                    asked = [(arguments.prepared, kind, arguments.photographs, worker) for worker in range(workers)]
                    speeds = pool.starmap(through, asked, chunksize=1)
                    measured.setdefault(f"{kind}, {workers} workers, each", []).append(sum(speeds) / workers)
    report("loader", "photographs/s", measured, base=f"none, {arguments.workers[0]} workers, each")


if __name__ == "__main__":
    main()
