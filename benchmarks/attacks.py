"""One client attacks the service of this checkout: what becomes of its memory, and of the others' pictures?

    python benchmarks/attacks.py [--checkout ../baseline] [--model champion] [--only NAME] [--seconds 10]

Each attack is sent by eight clients at once, again and again, beside one client that sends a good photograph. Prints
Markdown: the answers to the attack, the memory of all processes of the service before, at its peak and 20 s after, the
good client's longest wait, and the time after the attack until it waits no longer than before. Writes
benchmarks/results/attacks.json.
"""

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hostile import ATTACKS, photograph
from pawprint.evaluation.summary import machine
from service_process import processes, serving

HERE = Path(__file__).resolve().parent
CLIENTS = 8


def send(port: int, data: bytes) -> str:
    """The status of the answer, or how the connection ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(OSError):  # it has been refused; the answer may still be there
            connection.sendall(data)
        try:
            return connection.recv(65536)[9:12].decode() or "closed"
        except OSError as error:
            return type(error).__name__


def resident(url: str) -> float:
    """MB of all processes of the service; what they share counts once (proportional set size)."""
    total = 0
    for process in processes(url):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20


def attack(url: str, request: bytes, good: bytes, seconds: float, clients: int) -> dict:
    port, answers, peak = int(url.rpartition(":")[2]), Counter(), 0.0
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
                answers[send(port, request)] += 1

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
        while time.perf_counter() < end:
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
        time.sleep(20)
        after = resident(url)
    return {
        "answers": dict(answers), "before": before, "peak": peak, "after": after, "longest": max(waits),
        "good": dict(statuses), "recovered": recovered,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=HERE.parent, help="whose service is attacked; it has a .venv")
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--only", default="", help="attacks whose name holds this")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    options = parser.parse_args()
    checkout, results = options.checkout.resolve(), {}
    print(f"{machine()}; {options.clients} clients for {options.seconds:g} s\n")
    print("| attack | bytes | answers | good answers | MB before | peak | after | longest wait, s | recovered in, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, make in ATTACKS.items():
        if options.only not in name:
            continue
        request, good = make(), photograph()
        with tempfile.TemporaryDirectory() as scratch:
            env = {
                "PAWPRINT_MODEL": str(options.model.resolve()), "PAWPRINT_TRAFFIC": scratch,
                "PYTHONPATH": str(checkout / "src"),
                "PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            }  # fmt: skip
            python = str(checkout / ".venv" / "bin" / "python")
            with serving(Path(scratch) / "log", env, python=python, cwd=checkout) as (url, _):
                seen = results[name] = attack(url, request, good, options.seconds, options.clients)
        print(
            f"| {name} | {len(request):,} | {seen['answers']} | {seen['good']} | {seen['before']:.0f} | "
            f"{seen['peak']:.0f} | {seen['after']:.0f} | {seen['longest']:.2f} | {seen['recovered']:.1f} |",
            flush=True,
        )
    (HERE / "results").mkdir(exist_ok=True)
    content = {"machine": machine(), "results": results}
    (HERE / "results" / "attacks.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
