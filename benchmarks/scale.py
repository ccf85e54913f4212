"""A million photographs and more, without photographs: rows drawn from a counter, through what a set goes through.

    python benchmarks/scale.py                        # 1,000,000 rows: manifest, splits, near-copies
    python benchmarks/scale.py --rows 10000000
    python benchmarks/scale.py --rows 100000000 --parts 100 --only 3    # three of a hundred sets, divided by hash
    python benchmarks/scale.py --machines 50 --task-seconds 26 --hours 10    # a cluster whose machines are taken away
    python benchmarks/scale.py --real 2                                      # the same for a real run of two nodes here

Processor time, and peak memory; absolute times are of the machine that the table names. Each part is a set by itself:
near-copies of photographs of two parts are not looked for.
"""

import argparse
import heapq
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common import report
from pawprint import image, parallel
from pawprint.config import SplitShares
from pawprint.data import duplicates, manifest, shards
from pawprint.data.dataset import Split
from pawprint.data.manifest import ManifestRow
from pawprint.data.splits import SPLITS, split_of

CLASSES, BLOCK = 1000, 65_536
PLANNED = 1000  # photographs of a chunk that is given to a machine
BOOT = 180.0  # seconds until a machine that was taken away is replaced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=1, help="sets that the rows are divided into, by hash")
    parser.add_argument("--only", type=int, default=0, help="so many of the parts, evenly spread; all without it")
    parser.add_argument("--machines", type=int, default=0, help="simulate a cluster of so many instead")
    parser.add_argument("--cores", type=int, default=4, help="of a machine")
    parser.add_argument("--task-seconds", type=float, nargs="+", default=[26.0], help="measured, of one task")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--lost", type=float, default=0.05, help="share of the machines that is taken away in an hour")
    parser.add_argument("--real", type=int, default=0, help="nodes of this machine that work, against the simulation")
    parser.add_argument("--tasks", type=int, default=60, help="of the real run, 64 photographs each")
    options = parser.parse_args()
    if options.real:
        took, predicted = real(options.real, options.tasks)
        print(f"{options.real} nodes, {options.tasks} tasks: {took:.1f} s, by the simulation {predicted:.1f} s")
        print(f"real / predicted {took / predicted:.3f}")
        return
    if options.machines:
        busy, again, hours = simulate(
            options.machines, options.cores, options.task_seconds, options.hours * 3600, options.lost / 3600
        )
        print(f"{options.machines} machines of {options.cores} cores, {options.lost:.0%} lost an hour, {hours:.1f} h")
        print(f"busy with work that counts {busy:.1%}, done again {again:.2%}")
        return
    spent: dict[str, list[float]] = {}
    only = min(options.only or options.parts, options.parts)
    for part in (options.parts * number // only for number in range(only)):
        first, last = (options.rows * number // options.parts for number in (part, part + 1))
        for step, seconds in rows_through(options.rows, first, last).items():
            spent.setdefault(step, []).append(seconds)
    report("scale", f"s of processor time, {last - first:,} of {options.rows:,} rows", spent, "open")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def drawn(total: int, first: int = 0, last: int | None = None, seed: int = 2017) -> Iterator[ManifestRow]:
    """Rows `first` to `last` of `total`, sorted by hash; each is a function of its number."""
    bits = max(0, (total - 1) // shards.SHARD).bit_length()
    shares, last = SplitShares(), total if last is None else last
    for block in range(first - first % BLOCK, last, BLOCK):
        random = np.random.Generator(np.random.Philox(key=seed, counter=block))
        tails, phashes = random.bytes(BLOCK * 24), random.bytes(BLOCK * 18)
        lengths = random.integers(15_000, 40_000, BLOCK).tolist()
        for number in range(max(first, block), min(last, block + BLOCK)):
            row = number - block
            digest = f"{number * 2**64 // total:016x}{tails[24 * row : 24 * row + 24].hex()}"
            shard, label = f"{int(digest[:8], 16) >> (32 - bits):05}.tar", f"class {number % CLASSES}"
            split, offset = split_of(digest, seed, shares), 512 * (number % shards.SHARD)
            origin, phash = f"{label}/{number}.jpg", phashes[18 * row : 18 * row + 18].hex()
            yield ManifestRow(digest, label, split, shard, offset, lengths[row], f"{number:08x}", origin, "", phash)


def rows_through(total: int, first: int = 0, last: int | None = None) -> dict[str, float]:
    """Step -> seconds of processor time, of rows `first` to `last` of `total`."""
    spent: dict[str, float] = {}
    started = time.process_time()

    def done(step: str) -> None:
        nonlocal started
        spent[step] = time.process_time() - started
        started = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, manifest.FILE)
        manifest.write(path, drawn(total, first, last))
        done("draw and write")
        rows = manifest.read(path)
        parts = [rows.of_splits(name) for name in SPLITS]
        for part in parts:
            part.column("label", [0])
        done("open")
        manifest.digest(rows)
        done("digest")
        parts[0].hashes()
        done("hashes of train")
        train = Split("train", (), parts[0], Path())
        for start in range(0, len(train), PLANNED):
            train.places(range(start, min(start + PLANNED, len(train))))
        done("places of train, in chunks")
        starts = range(0, len(rows), BLOCK)
        blocks = (rows.column("phash", np.arange(len(rows))[start : start + BLOCK]) for start in starts)
        phashes = np.frombuffer(b"".join(b"".join(block.to_pylist()) for block in blocks), np.uint8)
        duplicates.near_groups(phashes.reshape(len(rows), -1), 8)
        done("near-copies")
    return spent


def real(nodes: int, tasks: int) -> tuple[float, float]:
    """(seconds that a local cluster takes for `tasks` tasks of packing, seconds that `simulate` gives for them).

    The simulation is given the seconds that each task took there, and no machine is lost.
    """
    parallel.make_token()
    with parallel.local_cluster(nodes) as cluster:
        os.environ |= {"PAWPRINT_ENGINE": "ray", "RAY_ADDRESS": cluster.address}
        random = np.random.default_rng(2017)
        jpeg = image.encode(random.integers(0, 255, (300, 300, 3), np.uint8), 95)
        list(parallel.map(_packing, [jpeg] * 4 * nodes))  # every process is there and has its modules
        started = time.monotonic()
        seconds = list(parallel.map(_packing, [jpeg] * tasks))
        took = time.monotonic() - started
    hours = simulate(nodes, 1, seconds, tasks * float(np.mean(seconds)) / nodes, 1e-12)[2]
    return took, hours * 3600


def _packing() -> Callable[[bytes], float]:
    # Defined here: a node has no folder benchmarks/ to import from.
    def pack(jpeg: bytes) -> float:
        import time

        from pawprint import image

        started = time.monotonic()
        for _ in range(64):
            image.pack(jpeg)
        return time.monotonic() - started

    return pack


def simulate(
    machines: int, cores: int, task_seconds: list[float], seconds: float, loss_rate: float, seed: int = 2017
) -> tuple[float, float, float]:
    """(share of the cores' time that is work which counts, share of the work that is done again, hours).

    Of so many tasks as would fill `seconds`, begun in order within `parallel.AHEAD` a core as by `parallel.map`, while
    machines are taken away at `loss_rate` each second and replaced after BOOT. Starting a task takes no time here.
    """
    random = np.random.default_rng(seed)
    slots, total = machines * cores, int(machines * cores * seconds / np.mean(task_seconds))
    window, taken, first, done = parallel.AHEAD * slots, 0, 0, set[int]()
    lost: deque[int] = deque()  # tasks whose machine died, first in line
    idle = [(machine, 0) for machine in range(machines) for _ in range(cores)]  # (machine, its generation)
    generation, running = [0] * machines, [dict[int, float]() for _ in range(machines)]
    events: list[tuple[float, int, int, int, int]] = []  # (time, kind, machine, generation, task)
    for machine in range(machines):
        heapq.heappush(events, (random.exponential(1 / loss_rate), 1, machine, 0, -1))
    now = useful = wasted = 0.0
    while len(done) < total:
        while idle and (lost or (taken < total and taken - first < window)):
            machine, of = idle.pop()
            if of != generation[machine]:
                continue
            task = lost.popleft() if lost else taken
            taken += task == taken
            running[machine][task] = now
            heapq.heappush(events, (now + random.choice(task_seconds), 0, machine, of, task))
        now, kind, machine, of, task = heapq.heappop(events)
        if kind == 0 and of == generation[machine]:
            useful += now - running[machine].pop(task)
            done.add(task)
            idle.append((machine, of))
            while first in done:
                first += 1
        elif kind == 1:  # taken away, with what it is at
            generation[machine] += 1
            wasted += sum(now - began for began in running[machine].values())
            lost.extend(sorted(running[machine]))
            running[machine].clear()
            heapq.heappush(events, (now + BOOT, 2, machine, generation[machine], -1))
        elif kind == 2:
            idle += [(machine, of)] * cores
            heapq.heappush(events, (now + random.exponential(1 / loss_rate), 1, machine, of, -1))
    return useful / (slots * now), wasted / (useful + wasted), now / 3600


if __name__ == "__main__":
    main()
