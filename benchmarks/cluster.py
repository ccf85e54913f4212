"""One node of a local Ray cluster against two, and what a task costs beside its work.

    python benchmarks/cluster.py data --model champion [--photographs 600] [--rounds 3]

Each node has one core, so two nodes can be no more than twice as fast, where two cores are free: nothing else may run.
Three tables, also in benchmarks/results/: `cluster_prepare` and `cluster_batch`, whose ratio of one node to two is the
speed-up, and `cluster_overhead`, 1,500 empty tasks of 64 photographs as tasks and by a pool of actors.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import report
from pawprint import batch, parallel
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.inference.classifier import Classifier

TASKS, OF_A_TASK = 1_500, 64
NODES = {1: "one node", 2: "two nodes"}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def by_actors(items: list[list[str]]) -> Iterator[Any]:
    """The same items by a pool of actors, one a core."""
    import ray

    class Counter:
        def count(self, item: list[str]) -> int:
            return len(item)

    actors = [ray.remote(num_cpus=1)(Counter).remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
    pool = ray.util.ActorPool(actors)
    yield from pool.map(lambda actor, item: actor.count.remote(item), items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder with a folder of photographs a class")
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--photographs", type=int, default=600, help="of `batch`; all of them are prepared")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    found, classifier = ingest.dataset(options.data), Classifier(options.model)
    batch.CHUNK = 50  # so that both nodes have work to the end
    items = [[f"data/cat/{number}.jpg" for number in range(OF_A_TASK)]] * TASKS
    ways: dict[str, Callable[[], object]] = {
        "tasks": lambda: sum(parallel.map(lambda: len, items)),
        "actors": lambda: sum(by_actors(items)),
    }
    prepared: dict[str, list[float]] = {name: [] for name in NODES.values()}
    predicted: dict[str, list[float]] = {name: [] for name in NODES.values()}
    overhead: dict[str, list[float]] = {name: [] for name in ways}
    parallel.make_token()
    os.environ["PAWPRINT_ENGINE"] = "ray"
    for _ in range(options.rounds):
        for nodes, name in NODES.items():
            with tempfile.TemporaryDirectory() as scratch, parallel.local_cluster(nodes) as cluster:
                os.environ["RAY_ADDRESS"] = cluster.address

                def predict(count: int, out: Path) -> None:
                    batch.run(str(options.data), str(out), classifier, limit=count)

                predict(2 * batch.CHUNK * nodes, Path(scratch, "first"))  # every process has its modules and model
                predicted[name].append(seconds(lambda: predict(options.photographs, Path(scratch, "out"))))
                prepared[name].append(seconds(lambda: prepare(found, options.data, Path(scratch, "set"), params)))
                if nodes == 2:
                    for way, work in ways.items():
                        overhead[way].append(1000 * seconds(work) / (TASKS * OF_A_TASK / 256))
    report("cluster_prepare", "seconds", prepared, base="two nodes")
    report("cluster_batch", "seconds", predicted, base="two nodes")
    report("cluster_overhead", "ms per 256 photographs", overhead, base="tasks")


if __name__ == "__main__":
    main()
