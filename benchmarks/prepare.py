"""The preprocess stage against decoding alone and against the plain loop, in the same run and on the same threads.

    python benchmarks/prepare.py data
    python benchmarks/prepare.py data --repeats 5

Each repeat measures every variant in turn, so that a noisy neighbour hits all of them. Prints photographs/s (median
and range), the ratios, what 1 % of new photographs costs, and the peak resident memory.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import simplejpeg

from pawprint.params import load_params
from pawprint.photos import sources
from pawprint.prepared.write import prepare

ROOT = Path(__file__).parents[1]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(values: list[float], count: int) -> str:
    speeds = [count / value for value in values]
    return f"{statistics.median(speeds):6.0f} photographs/s ({min(speeds):.0f}-{max(speeds):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder with a folder of JPEGs a class")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    data = arguments.data
    params = load_params(ROOT / "params.yaml")
    everything = sources.dataset(data)
    files = [path for _, path in everything.photographs if path.suffix == ".jpg"]
    fewer = sources.Dataset(
        everything.name,
        everything.drawn,
        everything.classes,
        tuple(one for index, one in enumerate(everything.photographs) if index % 100),
    )
    names = ("decode alone, all threads", "plain loop, one thread", "whole stage", "whole stage, 1 % is new")
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for repeat in range(arguments.repeats):
            out, grown = Path(folder) / f"full{repeat}", Path(folder) / f"grown{repeat}"
            prepare(fewer, data, grown, params)
            works: tuple[Callable[[], object], ...] = (
                lambda: sum(1 for _ in pool.map(lambda path: simplejpeg.decode_jpeg(path.read_bytes()).size, files)),
                lambda: sum(cv2.resize(cv2.imread(str(path)), (300, 300)).size for path in files),
                lambda out=out: prepare(everything, data, out, params),  # type: ignore[misc]
                lambda grown=grown: prepare(everything, data, grown, params),  # type: ignore[misc]
            )
            for name, work in zip(names, works, strict=True):
                times[name].append(seconds(work))
    print(f"{len(files):,} photographs, {os.cpu_count()} threads, n = {arguments.repeats}, OpenCV {cv2.__version__}")
    for name in names:
        print(f"{name:26} {spread(times[name], len(files))}")
    decode, plain, whole, grown_time = (statistics.median(times[name]) for name in names)
    print(f"whole stage / decode alone: {decode / whole:.2f} (bar 0.45)")
    print(f"whole stage / plain loop:   {plain / whole:.2f} (bar 1)")
    print(f"1 % new / whole stage:      {grown_time / whole:.1%} (bar 5 %, plus start-up)")
    print(
        f"peak resident memory:       {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB (bar 1,024)"
    )


if __name__ == "__main__":
    main()
