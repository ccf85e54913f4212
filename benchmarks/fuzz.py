"""Structured mutations of pictures, forms and headers against the service of this checkout.

    python benchmarks/fuzz.py [--count 10000] [--seed 1] [--model champion]

Prints the statuses, the slowest answers (after the last byte was sent) and the service's memory before and after. Exits
with 1 where a status is a 5xx other than 503 and 504, or an answer took more than five seconds.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import mutations
from attacks import ordinary
from pawprint.evaluation.summary import machine
from service_process import resident, serving

SLOW = 5  # seconds


async def send_all(port: int, requests: list[bytes], clients: int) -> list[tuple[float, int, int]]:
    """(seconds, status, number) of each; status 0 where the connection was closed with no answer."""
    turns, seen = iter(enumerate(requests)), list[tuple[float, int, int]]()

    async def client() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number, data in turns:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            reader, writer = connection
            writer.write(data)
            status, close = 0, True
            try:
                await writer.drain()
                started = time.perf_counter()
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                status, close = int(head[9:12]), b"connection: close" in head
            except (OSError, asyncio.IncompleteReadError):
                pass
            seen.append((time.perf_counter() - started, status, number))
            if close:
                writer.close()
                connection = None
        if connection:
            connection[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", type=Path, default=Path("champion"))
    options = parser.parse_args()
    rng, seeds = random.Random(options.seed), mutations.picture_seeds()
    requests = [mutations.request(seeds, rng) for _ in range(options.count)]
    with tempfile.TemporaryDirectory() as scratch:
        env = {"PAWPRINT_MODEL": str(options.model.resolve()), "PAWPRINT_TRAFFIC": scratch}
        with serving(Path(scratch) / "log", env) as (url, _):
            port = int(url.rpartition(":")[2])
            ordinary(url)
            time.sleep(20)
            before = resident(url)
            seen = asyncio.run(send_all(port, requests, options.clients))
            time.sleep(20)
            after = resident(url)
    statuses = Counter(status for _, status, _ in seen)
    slowest = sorted(seen, reverse=True)[:5]
    print(f"{machine()}; {len(seen):,} mutations, seed {options.seed}, {options.clients} clients")
    print(f"statuses: {dict(sorted(statuses.items()))}")
    print(
        f"slowest: {', '.join(f'{seconds:.2f} s ({status}, number {number})' for seconds, status, number in slowest)}"
    )
    print(f"memory: {before:.0f} MB before, {after:.0f} MB 20 s after")
    bad = [status for status in statuses if status >= 500 and status not in (503, 504)]
    if bad or slowest[0][0] > SLOW:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
