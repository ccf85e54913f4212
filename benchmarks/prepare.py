"""The preprocess stage against decoding alone and against the plain loop, in the same run.

    python benchmarks/prepare.py data
    python benchmarks/prepare.py data --threads 1 --repeats 5
    python benchmarks/prepare.py data --scale 2000 50000       # time a photograph and memory as the set grows
    python benchmarks/prepare.py data --alike 20000            # near-copies among as many that are all alike

Each repeat measures every variant in turn, so that a noisy neighbour hits all of them. Wall-clock time is what counts
on a quiet machine; processor time (of all threads) is what can be compared on a busy one, so both ratios are printed.
`--scale` writes variants of the photographs (a changed comment, so another content; a shifted part, so another
picture) into a temporary folder and prepares each size in a process of its own.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from pawprint.config import Params, load_params
from pawprint.data import class_folders, duplicates, quality
from pawprint.data.build import prepare
from pawprint.parallel import cores

ROOT = Path(__file__).parents[1]
Times = dict[str, list[tuple[float, float]]]  # (seconds of wall-clock time, seconds of processor time)


def params() -> Params:
    loaded = load_params(ROOT / "params.yaml")
    return loaded.model_copy(update={"preprocess": loaded.preprocess.model_copy(update={"max_bad_share": 1.0})})


def decode(path: Path) -> int:
    return int(simplejpeg.decode_jpeg(path.read_bytes()).size)


def plain(path: Path) -> int:
    return int(cv2.resize(cv2.imread(str(path)), (300, 300)).size)


def compare(data: Path, repeats: int, threads: int) -> None:
    everything = class_folders.dataset(data)
    files = [path for _, path in everything.photographs if path.suffix == ".jpg"]
    fewer = class_folders.Dataset(
        everything.name,
        everything.drawn,
        everything.classes,
        tuple(one for index, one in enumerate(everything.photographs) if index % 100),
    )
    times: Times = {}
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # the stage starts a thread a core
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        prepare(fewer, data, Path(folder) / "fewer", params())
        for repeat in range(repeats):
            full, grown = Path(folder) / f"full{repeat}", Path(folder) / "fewer"
            works: dict[str, Callable[[], object]] = {
                "decode alone": lambda: sum(pool.map(decode, files)),
                "plain loop": lambda: sum(pool.map(plain, files)),
                "plain loop, one thread": lambda: sum(map(plain, files)),
                "whole stage": lambda full=full: prepare(everything, data, full, params()),  # type: ignore[misc]
                "1 % is new": lambda grown=grown: prepare(everything, data, grown, params()),  # type: ignore[misc]
                "1 % is gone": lambda grown=grown: prepare(fewer, data, grown, params()),  # type: ignore[misc]
            }
            for name, work in works.items():
                wall, busy = time.perf_counter(), time.process_time()
                work()
                times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - busy))
    print(f"{len(files):,} photographs, {threads} threads, n = {repeats}, OpenCV {cv2.__version__}")
    for name, values in times.items():
        speeds = [len(files) / wall for wall, _ in values]
        busy = statistics.median(busy for _, busy in values) / len(files)
        print(
            f"{name:23}{statistics.median(speeds):6.0f} photographs/s ({min(speeds):.0f}-{max(speeds):.0f}), "
            f"{busy * 1e6:5.0f} us of processor time each"
        )
    say("decode alone / whole stage", ratios(times, "decode alone", "whole stage"), "bar 0.45")
    say("plain loop / whole stage", ratios(times, "plain loop", "whole stage"), "equal threads")
    say("plain loop on one / stage", ratios(times, "plain loop, one thread", "whole stage"), "bar 1")
    say("1 % new / whole stage", ratios(times, "1 % is new", "whole stage"), "bar 0.05, plus start-up")
    say("1 % gone / whole stage", ratios(times, "1 % is gone", "whole stage"), "bar 0.05, plus start-up")
    print(f"peak resident memory: {peak():.0f} MiB (bar 1,024)")


def ratios(times: Times, one: str, other: str) -> tuple[list[float], list[float]]:
    pairs = list(zip(times[one], times[other], strict=True))
    return [a[0] / b[0] for a, b in pairs], [a[1] / b[1] for a, b in pairs]


def say(name: str, both: tuple[list[float], list[float]], bar: str) -> None:
    wall, busy = both
    print(
        f"{name:27} {statistics.median(wall):.3f} of wall-clock time ({min(wall):.3f}-{max(wall):.3f}), "
        f"{statistics.median(busy):.3f} of processor time ({min(busy):.3f}-{max(busy):.3f}); {bar}"
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def variants(data: Path, folder: Path, count: int) -> None:
    """`count` photographs: those of `data`, again and again, each time cut and flipped another way."""
    every = [one for one in class_folders.dataset(data).photographs if one[1].suffix == ".jpg"]
    order = np.random.default_rng(2017).permutation(len(every))
    for number in range(count):
        kind, path = every[order[number % len(every)]]
        turn = number // len(every)
        content = path.read_bytes()
        if turn:
            pixels = simplejpeg.decode_jpeg(content, "RGB")
            cut = [len(pixels) * turn // 40, pixels.shape[1] * (turn * 7 % 20) // 40]
            part = np.ascontiguousarray(pixels[cut[0] :, cut[1] :][:, :: -1 if turn % 2 else 1])
            content = simplejpeg.encode_jpeg(part, quality=88, colorspace="RGB", colorsubsampling="420")
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{number}.jpg").write_bytes(content)


def one_size(data: Path, out: Path) -> tuple[float, float, float]:
    photographs = class_folders.dataset(data)
    wall, busy = time.perf_counter(), time.process_time()
    prepare(photographs, data, out, params())
    return time.perf_counter() - wall, time.process_time() - busy, peak()


def scale(data: Path, sizes: list[int], repeats: int) -> None:
    found: dict[int, list[tuple[float, float, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            variants(data, Path(folder) / f"data{size}", size)
        for repeat in range(repeats):
            for size in sizes:
                out = Path(folder) / f"out{size}-{repeat}"
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found[size].append(pool.apply(one_size, (Path(folder) / f"data{size}", out)))
    print("photographs  n  wall-clock us each  processor us each  peak MiB")
    for size, values in found.items():
        wall, busy, most = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{size:11,} {len(values):2} {wall / size * 1e6:19.0f} {busy / size * 1e6:18.0f} {most:9.0f}")
    first, last = (statistics.median(busy for _, busy, _ in found[size]) / size for size in (sizes[0], sizes[-1]))
    print(f"processor time a photograph, {sizes[-1]:,} to {sizes[0]:,}: {last / first:.2f} (bar 1.2)")


def few_bits_apart(rng: np.random.Generator, size: int) -> list[bytes]:
    """So many perceptual hashes, each with a few bits of one turned round."""
    bits = np.tile(rng.integers(0, 2, quality.BITS, np.uint8), (size, 1))
    bits[np.arange(size)[:, None], rng.integers(0, quality.BITS, (size, 3))] ^= 1
    return [one.tobytes() for one in np.packbits(bits, axis=1)]


def alike(count: int) -> None:
    """Near-copies among photographs that are all alike, whole and cut, so that all share words with all."""
    rng = np.random.default_rng(2017)
    for size in (count // 4, count // 2, count):
        whole, *cuts = (few_bits_apart(rng, size) for _ in range(1 + quality.CUTS))
        photographs = [
            quality.Photograph(f"{n:064x}", "cat", f"{n}", Path(f"{n}"), "train", "", "", phash.hex(), b"".join(cut))
            for n, (phash, *cut) in enumerate(zip(whole, *cuts, strict=True))
        ]
        busy = time.process_time()
        duplicates.near_copies(photographs, 8)
        print(f"{size:9,} alike: {(time.process_time() - busy) / size * 1e6:6.1f} us each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder with a folder of JPEGs a class")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores(), help="and cores, of which the first are used")
    parser.add_argument("--scale", type=int, nargs="+", metavar="PHOTOGRAPHS")
    parser.add_argument("--alike", type=int, metavar="PHOTOGRAPHS")
    arguments = parser.parse_args()
    if arguments.alike:
        alike(arguments.alike)
    elif arguments.scale:
        scale(arguments.data, arguments.scale, arguments.repeats)
    else:
        compare(arguments.data, arguments.repeats, arguments.threads)


if __name__ == "__main__":
    main()
