"""How much of the bare model's speed a person gets over HTTP, and what the alternatives give.

    python benchmarks/serving.py --pictures PATH [--model champion] [--also models/int8] [--seconds 6] [--rounds 2]
    python benchmarks/serving.py --pictures PATH --challenger FOLDER --rounds 20      # what the shadow costs a client

One run, one machine, one set of pictures. The bound is decoding and the model in one process with no HTTP. Every server
is started once and loaded in turns by a process of its own, so that other work on the machine meets all of them. CPU
time a picture (of the server's processes and of the client) stands beside the speed; where the machine has other work
it is the figure to go by. Prints Markdown and writes benchmarks/results/serving.json.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pawprint.evaluation.summary import machine

HERE = Path(__file__).parent
Run = dict[str, Any]  # figures of a time under load; `statuses` counts them
OTHERS = ("BentoML's own endpoint", "LitServe", "FastAPI + torch", "mlflow models serve")


@dataclass
class Server:
    """One that is running, and what was seen of it."""

    name: str
    path: str
    body: str
    port: int
    process: subprocess.Popen[bytes]
    ready: float  # seconds from start to the first good answer of its health
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self) -> float:
        times = [each.cpu_times() for each in self.processes()]
        return sum(each.user + each.system for each in times)

    def memory(self) -> float:
        """Resident MB of all its processes."""
        return sum(each.memory_info().rss for each in self.processes()) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    name: str, command: list[str], health: str, path: str, body: str, port: int, cwd: Path, **env: str
) -> Iterator[Server]:
    """A Server in a process group of its own, which is ended by its id."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=cwd, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=2)
                break
            except OSError:
                if process.poll() is not None or time.perf_counter() - started > 120:
                    raise SystemExit(f"{name} did not start: {' '.join(command)}") from None
                time.sleep(0.02)
        yield Server(name, path, body, port, process, time.perf_counter() - started)
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(15)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def ours(name: str, model: Path, folder: Path, body: str = "raw", **env: str) -> AbstractContextManager[Server]:
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    env = {
        "PAWPRINT_MODEL": str(model.resolve()),
        "PAWPRINT_TRAFFIC": str(folder / name),
        "BENTOML_HOME": str(folder / f"{name}-bentoml"),
    } | env
    return running(name, command, "/readyz", "/predict", body, port, HERE.parent, **env)


def other(name: str, model: Path, folder: Path) -> AbstractContextManager[Server]:
    """One of benchmarks/others: the same model folder, the same decoder, as many processes or threads as cores.

    MLflow's protocol takes numbers only, so there the client has decoded the pictures before the clock starts.
    """
    port = free_port()
    python, cores = sys.executable, str(len(os.sched_getaffinity(0)))
    uvicorn = ["-m", "uvicorn", "--workers", cores, "--port", str(port), "--no-access-log", "fastapi_app:app"]
    command, health, path, body = {
        "BentoML's own endpoint": (["-m", "bentoml", "serve", "bentoml_app:Stock", "--port", str(port),
                                    "--host", "127.0.0.1"], "/readyz", "/predict", "form"),
        "LitServe": (["litserve_app.py", str(port)], "/health", "/predict", "form"),
        "FastAPI + torch": (uvicorn, "/openapi.json", "/predict", "form"),
        "mlflow models serve": (["mlflow_serve.py", str(port)], "/ping", "/invocations", "json"),
    }[name]  # fmt: skip
    env = {
        "BENCHMARK_MODEL": str(model.resolve()),
        "BENTOML_HOME": str(folder / "stock-bentoml"),
        "PYTHONPATH": os.pathsep.join([str(HERE / "others"), str(HERE.parent / "src")]),
    }
    return running(name, [python, *command], health, path, body, port, HERE / "others", **env)


def bound(model: Path, pictures: Path, seconds: float) -> Run:
    """Pictures a second of `Classifier.files` in a process of its own, one picture alone, p99 at half that rate."""
    code = f"""
import json, os, random, statistics, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pawprint.inference.classifier import Classifier
paths = sorted(Path({str(pictures)!r}).iterdir())
classifier = Classifier(Path({str(model)!r}))
list(classifier.classify_files(paths[:32]))
alone = []
for path in paths[:60]:
    data = path.read_bytes()
    started = time.perf_counter()
    classifier.classify(data)
    alone.append(time.perf_counter() - started)
done, started, cpu = 0, time.perf_counter(), time.process_time()
while time.perf_counter() - started < {seconds}:
    done += sum(1 for _ in classifier.classify_files(paths[done % 300:][:100]))
took, cpu = time.perf_counter() - started, time.process_time() - cpu
rng, waits = random.Random(2017), []
def answer(data, due):
    classifier.classify(data)
    waits.append(time.perf_counter() - due)
with ThreadPoolExecutor(classifier.streams) as pool:
    first = due = time.perf_counter()
    while (due := due + rng.expovariate(done / took / 2)) < first + 2 * {seconds}:
        time.sleep(max(0, due - time.perf_counter()))
        pool.submit(answer, paths[len(waits) % len(paths)].read_bytes(), due)
print(json.dumps({{"rate": done / took, "cpu": cpu / done, "alone": statistics.median(alone),
                   "half": sorted(waits)[int(0.99 * len(waits))], "precision": classifier.precision}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: Run = json.loads(done.stdout)
    return found


def load(server: Server, pictures: Path, seconds: float, clients: int = 0, rate: float = 0) -> Run:
    """What a client process saw of `server`; kept with it too."""
    asked = {"port": server.port, "path": server.path, "body": server.body, "pictures": str(pictures),
             "seconds": seconds, "clients": clients, "rate": rate}  # fmt: skip
    before = server.cpu_seconds()
    done = subprocess.run(
        [sys.executable, str(HERE / "serving_load.py")],
        input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=seconds + 120,
    )  # fmt: skip
    output = json.loads(done.stdout)
    good = sorted(took for status, took in output["seen"] if status == 200)
    statuses: dict[str, int] = {}
    for status, _ in output["seen"]:
        statuses[str(status)] = statuses.get(str(status), 0) + 1
    if not good:
        raise RuntimeError(f"{server.name} answered nothing good: {statuses}")
    return {
        "rate": len(good) / output["took"],
        "cpu": (server.cpu_seconds() - before) / len(output["seen"]),
        "client": output["cpu"] / len(output["seen"]),
        "p50": good[len(good) // 2],
        "p99": good[int(len(good) * 0.99)],
        "statuses": statuses,
    }


def middle(runs: list[Run], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--challenger", type=Path, help="a model folder: measure the shadow's cost, and nothing else")
    parser.add_argument("--share", type=float, default=0.1, help="of the photographs that the shadow answers")
    parser.add_argument("--also", type=Path, help="another model folder, an int8 one say")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--without", nargs="*", default=[], metavar="SERVER", help=", ".join(OTHERS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        pictures = folder / "pictures"
        pictures.mkdir()
        found = sorted(file for file in options.pictures.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[:400]
        for number, file in enumerate(found):
            (pictures / f"{number:03}.jpg").write_bytes(file.read_bytes())
        model, start = options.model, stack.enter_context
        if options.challenger:
            shadow(options, folder, pictures, start)
            return
        servers = [start(ours("pawprint", model, folder)), start(ours("pawprint, as a form", model, folder, "form"))]
        if options.also:
            servers.append(start(ours(f"pawprint, {options.also.name}", options.also, folder)))
        servers += [start(other(name, model, folder)) for name in OTHERS if name not in options.without]
        content = measure(servers, options, pictures)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "serving.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def shadow(
    options: argparse.Namespace, folder: Path, pictures: Path, start: Callable[[AbstractContextManager[Server]], Server]
) -> None:
    """The champion alone and with a challenger in the shadow, at half the capacity, in turns: ratios of each pair."""
    beside = {
        "PAWPRINT_CHALLENGER": str(options.challenger.resolve()), "PAWPRINT_CHALLENGER_MODE": "shadow",
        "PAWPRINT_CHALLENGER_SHARE": str(options.share),
    }  # fmt: skip
    alone = start(ours("alone", options.model, folder))
    both = start(ours("with a shadow", options.model, folder, **beside))
    for server in (alone, both):
        load(server, pictures, 3, clients=4)
    rate = load(alone, pictures, options.seconds, clients=8)["rate"] / 2
    pairs = []
    for turn in range(options.rounds):
        order = (alone, both) if turn % 2 else (both, alone)
        runs = {server.name: load(server, pictures, options.seconds, rate=rate) for server in order}
        pairs.append([runs[server.name] for server in (alone, both)])
    print(f"{machine()}; {options.rounds} pairs of {options.seconds:g} s at {rate:.0f}/s, half of what the champion "
          f"alone answers; the shadow answers {options.share:.0%}\n")  # fmt: skip
    print("| | alone, ms | with a shadow, ms | ratio: median [90 % of medians by resampling] |\n|---|---|---|---|")
    rng = random.Random(2017)
    for key in ("p50", "p99"):
        ratios = [second[key] / first[key] for first, second in pairs]
        drawn = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
        shown = [1000 * statistics.median(pair[which][key] for pair in pairs) for which in (0, 1)]
        print(f"| {key} | {shown[0]:.1f} | {shown[1]:.1f} | {statistics.median(ratios):.3f} "
              f"[{drawn[100]:.3f}, {drawn[-100]:.3f}] |", flush=True)  # fmt: skip


def measure(servers: list[Server], options: argparse.Namespace, pictures: Path) -> dict[str, Any]:
    """Every server at every number of clients, in turns; then all at one rate; then ours at half and at twice."""
    seconds, first = options.seconds, servers[0]
    for server in list(servers):  # warm
        try:
            load(server, pictures, 2, clients=4)
        except RuntimeError as error:
            if server is first:
                raise
            print(f"LEFT OUT: {error}\n", flush=True)
            servers.remove(server)
    bounds: dict[str, list[Run]] = {"bound": [], "also": []}
    for _ in range(options.rounds):
        bounds["bound"].append(bound(options.model, pictures, seconds))
        if options.also:
            bounds["also"].append(bound(options.also, pictures, seconds))
        for clients in options.clients:
            for server in servers:
                if server.body == "json" and clients != options.clients[0]:
                    continue  # it needs a second a picture; more clients only wait longer
                server.runs.setdefault(str(clients), []).append(load(server, pictures, seconds, clients=clients))
    free = {key: middle(bounds["bound"], key) for key in ("rate", "cpu", "alone", "half")}
    print(f"{machine()}; {bounds['bound'][0]['precision']}; {len(list(pictures.iterdir()))} photographs; "
          f"medians of {options.rounds} turns of {seconds:g} s; "
          f"one photograph alone {1000 * free['alone']:.1f} ms\n")  # fmt: skip
    print("`share`: of the bound's photographs a second. `CPU share`: the bound's CPU time a photograph by the")
    print("server's and the client's together.\n")
    print("| server | clients | photographs/s | share | CPU ms | client's | CPU share | p50 ms | p99 ms | answers |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(f"| no HTTP | | {free['rate']:.0f} | 1.00 | {1000 * free['cpu']:.1f} | | 1.00 | | | |")
    if options.also:
        rate, cpu = middle(bounds["also"], "rate"), middle(bounds["also"], "cpu")
        print(f"| no HTTP, {options.also.name} | | {rate:.0f} | {rate / free['rate']:.2f} | {1000 * cpu:.1f} | | "
              f"{free['cpu'] / cpu:.2f} | | | |")  # fmt: skip
    for server in servers:
        for clients, runs in server.runs.items():
            print(row(server.name, clients, runs, free))
    slowest = min(middle(server.runs[str(options.clients[0])], "rate") for server in servers if server.body != "json")
    same = 0.6 * slowest
    capacity = middle(first.runs[str(options.clients[0])], "rate")
    print(
        f"\nAll at {same:.0f} pictures/s, at random moments:\n\n| server | p50 ms | p99 ms | answers |\n"
        "|---|---|---|---|"
    )
    for server in servers:
        if server.body != "json":  # MLflow's would only queue
            run = load(server, pictures, seconds, rate=same)
            server.runs["same rate"] = [run]
            print(f"| {server.name} | {1000 * run['p50']:.0f} | {1000 * run['p99']:.0f} | {run['statuses']} |")
    half = load(first, pictures, 2 * seconds, rate=capacity / 2)
    twice = load(first, pictures, 2 * seconds, rate=2 * capacity)
    first.runs |= {"half": [half], "twice": [twice]}
    normal = middle(first.runs[str(options.clients[-1])], "p99")
    print(f"\n{first.name} at half its load ({capacity / 2:.0f}/s): p99 {1000 * half['p99']:.0f} ms, "
          f"{half['p99'] / free['alone']:.1f} times one photograph alone; with no HTTP, at half its own rate, "
          f"{free['half'] / free['alone']:.1f} times.")  # fmt: skip
    print(f"At twice its load: {twice['statuses']}; accepted p99 {1000 * twice['p99']:.0f} ms, "
          f"{twice['p99'] / normal:.1f} times that of {options.clients[-1]} clients.\n")  # fmt: skip
    print("| server | start to ready, s | resident MB |\n|---|---|---|")
    for server in servers:
        print(f"| {server.name} | {server.ready:.1f} | {server.memory():.0f} |", flush=True)
    seen = {server.name: {"ready": server.ready, "memory": server.memory(), **server.runs} for server in servers}
    return {"machine": machine(), "bounds": bounds, "servers": seen}


def row(name: str, clients: str, runs: list[Run], free: dict[str, float]) -> str:
    rate, cpu, client = (middle(runs, key) for key in ("rate", "cpu", "client"))
    statuses: dict[str, int] = {}
    for run in runs:
        for status, count in run["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return (
        f"| {name} | {clients} | {rate:.0f} | {rate / free['rate']:.2f} | {1000 * cpu:.1f} | {1000 * client:.1f} "
        f"| {free['cpu'] / (cpu + client):.2f} | {1000 * middle(runs, 'p50'):.0f} | {1000 * middle(runs, 'p99'):.0f} "
        f"| {statuses} |"
    )


if __name__ == "__main__":
    main()
