"""One client attacks the service of this checkout: what becomes of its memory, and of the others' pictures?

    python benchmarks/attacks.py [--checkout ../baseline] [--model champion] [--only NAME] [--seconds 6]

One service meets all attacks, one after the other. Each is sent by eight clients at once, again and again, beside one
client that sends a good photograph. Prints Markdown: the answers to the attack, the memory of all processes of the
service at its peak and after a rest, the good client's longest wait, and the time after the attack until it waits no
longer than before; then the memory before the first attack, after ordinary load, and after the last. Writes
benchmarks/results/attacks.json.
"""

import argparse
import contextlib
import io
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hostile import ATTACKS, photograph, raw, saved
from pawprint.evaluation.summary import machine
from service_process import resident, serving

HERE = Path(__file__).resolve().parent
CLIENTS = 8
Sender = Callable[[int], str]  # of a port: attack once, and what came of it
Seen = dict[str, Any]


def send(port: int, data: bytes) -> str:
    """The status of the answer, or how the connection ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(OSError):  # it has been refused; the answer may still be there
            connection.sendall(data)
        try:
            return connection.recv(65536)[9:12].decode() or "closed"
        except OSError as error:
            return type(error).__name__


def hold(port: int, data: bytes, pause: float, connections: int = 1) -> str:
    """Connections that each send `data` and then a byte every `pause` seconds, and read nothing."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(connections):
            with contextlib.suppress(OSError):
                opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)))
                opened[-1].sendall(data)
        for _ in range(int(3 / pause)):
            time.sleep(pause)
            for connection in opened:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
    return "held"


UPLOAD = raw(b"\xff\xd8\xff" + bytes(20 * 2**20 - 100))
GET = b"GET /swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n"
SENDERS: dict[str, tuple[int, Sender]] = {  # clients, what each does
    "99 uploads of 20 MB at once": (99, lambda port: send(port, UPLOAD)),
    "400 clients that send a byte of a header a second": (8, lambda port: hold(port, GET[:30], 1, 50)),
    "400 clients that send a byte of a body a second": (8, lambda port: hold(port, raw(bytes(2000))[:-1500], 1, 50)),
    "400 clients that ask for 30 MB and never read": (8, lambda port: hold(port, (GET + b"\r\n") * 20, 3, 50)),
    "3,200 connections with half a header": (8, lambda port: hold(port, GET[:30], 3, 400)),
}


def ordinary(url: str) -> None:
    """400 good photographs of several formats and sizes, by 16 clients, and pages; the memory before is after it."""
    with Image.open(io.BytesIO(photograph())) as picture:
        shapes = ((640, "JPEG"), (1600, "JPEG"), (3000, "JPEG"), (1024, "PNG"), (1024, "WEBP"), (1024, "AVIF"))
        photographs = [saved(picture.resize((width, width * 3 // 4)), format) for width, format in shapes]
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: client.post(f"{url}/predict", content=photographs[number % 6]), range(400)))
        for path in ("/", "/docs", "/swagger-ui-bundle.js", "/metrics", "/model") * 4:
            client.get(url + path)


def attack(url: str, sender: Sender, good: bytes, seconds: float, rest: float, clients: int) -> Seen:
    port, answers, peak = int(url.rpartition(":")[2]), Counter[str](), 0.0
    with httpx.Client(timeout=120) as client:

        def wait() -> tuple[float, int]:
            started = time.perf_counter()
            status = client.post(f"{url}/predict", content=good).status_code
            return time.perf_counter() - started, status

        usual = max(wait()[0] for _ in range(20))
        before = resident(url)
        end = time.perf_counter() + seconds

        def attacker() -> None:
            while time.perf_counter() < end:
                answers[sender(port)] += 1

        threads = [threading.Thread(target=attacker) for _ in range(clients)]
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.is_set():
                peak = max(peak, resident(url))
                done.wait(0.1)

        watcher = threading.Thread(target=watch)
        for thread in (watcher, *threads):
            thread.start()
        waits: list[float] = []
        statuses: Counter[int] = Counter()
        while not waits or time.perf_counter() < end:
            took, status = wait()
            waits.append(took)
            statuses[status] += 1
            time.sleep(0.05)
        while wait()[0] > 2 * usual and time.perf_counter() < end + 120:
            pass
        recovered = time.perf_counter() - end
        for thread in threads:
            thread.join()
        done.set()
        watcher.join()
        time.sleep(rest)
        after = resident(url)
    return {
        "answers": dict(answers), "before": before, "peak": peak, "after": after, "longest": max(waits),
        "good": dict(statuses), "recovered": recovered, "usual": usual,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=HERE.parent, help="whose service is attacked; it has a .venv")
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--only", default="", help="attacks whose name holds this")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rest", type=float, default=10, help="seconds after each attack")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    options = parser.parse_args()
    checkout, good = options.checkout.resolve(), photograph()
    results: dict[str, Seen] = {}
    every: dict[str, tuple[int, Sender | None]] = {**dict.fromkeys(ATTACKS, (options.clients, None)), **SENDERS}
    print(f"{machine()}; {options.seconds:g} s each\n")
    print("| attack | clients | answers | good answers | MB, peak | MB after | longest wait, s | recovered in, s |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        env = {
            "PAWPRINT_MODEL": str(options.model.resolve()), "PAWPRINT_TRAFFIC": scratch,
            "PYTHONPATH": str(checkout / "src"),
            "PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        python = str(checkout / ".venv" / "bin" / "python")
        with serving(Path(scratch) / "log", env, python=python, cwd=checkout) as (url, _):
            ordinary(url)
            time.sleep(20)
            start = resident(url)
            for name, (clients, sender) in every.items():
                if options.only not in name:
                    continue
                work = sender or partial(send, data=ATTACKS[name]())
                seen = results[name] = attack(url, work, good, options.seconds, options.rest, clients)
                print(
                    f"| {name} | {clients} | {seen['answers']} | {seen['good']} | {seen['peak']:.0f} | "
                    f"{seen['after']:.0f} | {seen['longest']:.2f} | {seen['recovered']:.1f} |",
                    flush=True,
                )
            time.sleep(20)
            end = resident(url)
    print(f"\nmemory: {start:.0f} MB before, {end:.0f} MB after all ({end / start - 1:+.1%})")
    (HERE / "results").mkdir(exist_ok=True)
    content = {"machine": machine(), "before": start, "after": end, "results": results}
    (HERE / "results" / "attacks.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
