"""How much of the bare model's speed a person gets over HTTP.

    python benchmarks/serving.py --pictures PATH [--model champion] [--seconds 8] [--clients 16 64]

One run, one machine, one set of pictures: the bound (decoding and the model in one process, no HTTP), then each road
of the service under a load that a second process sends over loopback. Prints a Markdown table of ratios. CPU time a
picture stands beside the speed, the client's own too, for it runs on the same cores; where the machine has other work
as well, it is the figure to go by.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil

BOUNDARY = "pawprint-benchmark"
ROADS = {"raw": ("/predict", "image/jpeg"), "form": ("/predict", f"multipart/form-data; boundary={BOUNDARY}")}


def bound(model: Path, pictures: list[bytes], seconds: float, folder: Path) -> dict:
    """Pictures a second of `Classifier.files`, which decodes the next batch while the model works on this one."""
    from pawprint.runtime import Classifier

    paths = []
    for number, data in enumerate(pictures):
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(data)
    classifier = Classifier(model)
    list(classifier.files(paths[:64]))  # warm
    alone = []
    for data in pictures[:50]:
        started = time.perf_counter()
        classifier.answer(data)
        alone.append(time.perf_counter() - started)
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        done += sum(1 for _ in classifier.files(paths))
    return {
        "rate": done / (time.perf_counter() - started),
        "cpu": (time.process_time() - cpu) / done,
        "alone": statistics.median(alone),
        "precision": classifier.precision,
    }


async def load(port: int, road: str, clients: int, seconds: float, pictures: list[bytes]) -> dict:
    """`clients` connections, each sending the next picture when the last is answered."""
    path, kind = ROADS[road]
    requests = [_request(path, kind, data) for data in pictures]
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number * 37
        while (started := time.perf_counter()) < end:
            writer.write(requests[turn % len(requests)])
            turn += 1
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            status = int(head[9:12])
            statuses[status] = statuses.get(status, 0) + 1
            latencies.append(time.perf_counter() - started)
        writer.close()

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(clients)))
    took = time.perf_counter() - started
    latencies.sort()
    return {
        "rate": statuses.get(200, 0) / took,
        "statuses": statuses,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[int(len(latencies) * 0.99)],
        "cpu": (time.process_time() - cpu) / len(latencies),
    }


def _request(path: str, kind: str, data: bytes) -> bytes:
    if kind.startswith("multipart"):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n'
        data = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@contextmanager
def service(model: Path, folder: Path):
    """(port, process id, seconds to ready) of `bentoml serve`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "PAWPRINT_MODEL": str(model.resolve()), "PAWPRINT_TRAFFIC": str(folder / "traffic")}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("the service did not start; `bentoml serve` says why") from None
                time.sleep(0.02)
        yield port, process.pid, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its children have taken."""
    parent = psutil.Process(pid)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def memory(pid: int) -> float:
    """Resident MB of a process and its children."""
    parent = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (parent, *parent.children(recursive=True))) / 2**20


def read_pictures(path: Path, most: int = 400) -> list[bytes]:
    """The first pictures below `path`."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[:most]
    if not files:
        raise SystemExit(f"{path} holds no JPEGs")
    return [file.read_bytes() for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--load", nargs=3, metavar=("PORT", "ROAD", "CLIENTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    pictures = read_pictures(options.pictures)
    if options.load:
        port, road, clients = int(options.load[0]), options.load[1], int(options.load[2])
        print(json.dumps(asyncio.run(load(port, road, clients, options.seconds, pictures))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        free = bound(options.model, pictures, options.seconds, folder)
        print(f"{len(pictures)} pictures, mean {statistics.mean(map(len, pictures)) / 1024:.0f} kB; "
              f"{os.cpu_count()} cores; {free['precision']}; one alone {1000 * free['alone']:.1f} ms\n")  # fmt: skip
        print("| road | clients | pictures/s | ratio | CPU ms | client | ratio | p50 ms | p99 ms | answers |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        print(f"| no HTTP | | {free['rate']:.0f} | 1.00 | {1000 * free['cpu']:.1f} | | 1.00 | | | |", flush=True)
        with service(options.model, folder) as (port, pid, ready):
            for road in ROADS:
                for clients in (1, *options.clients):
                    before = cpu_seconds(pid)
                    got = load_from_outside(options, port, road, clients)
                    cpu = (cpu_seconds(pid) - before) / sum(got["statuses"].values())
                    ratio, cpu_ratio = got["rate"] / free["rate"], free["cpu"] / (cpu + got["cpu"])
                    print(
                        f"| {road} | {clients} | {got['rate']:.0f} | {ratio:.2f} | {1000 * cpu:.1f} "
                        f"| {1000 * got['cpu']:.1f} | {cpu_ratio:.2f} | {1000 * got['p50']:.0f} "
                        f"| {1000 * got['p99']:.0f} | {got['statuses']} |",
                        flush=True,
                    )
            print(f"\nready after {ready:.1f} s; {memory(pid):.0f} MB resident at the end")


def load_from_outside(options: argparse.Namespace, port: int, road: str, clients: int) -> dict:
    """`load` in a process of its own."""
    command = [sys.executable, __file__, "--pictures", str(options.pictures), "--seconds", str(options.seconds)]
    command += ["--load", str(port), road, str(clients)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
