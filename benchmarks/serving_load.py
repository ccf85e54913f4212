"""The client of benchmarks/serving.py, a process of its own: HTTP/1.1 by hand, so that it takes as little as it can.

It reads one JSON object on its standard input and writes what it saw as another.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path

BOUNDARY = "pawprint-benchmark"


def request(path: str, body: str, data: bytes) -> bytes:
    """One request, ready to send. `body`: raw, form, or json for MLflow's own protocol (decoded pixels)."""
    kind = "image/jpeg"
    if body == "form":
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n'
        data = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    elif body == "json":
        from pawprint import image

        kind, data = "application/json", json.dumps({"inputs": [image.load(data).tolist()]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


IDLE = 4  # seconds; the servers close a connection that is silent for five, and a request may meet that


class Connection:
    """One at a time; opened anew where the server closed it, or is about to."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None
        self.used = 0.0

    async def ask(self, data: bytes) -> int:
        """The status of the answer; 0 where there was none."""
        if time.perf_counter() - self.used > IDLE:
            self.close()
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writer.write(data)
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length:" in head:
                await self.reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
            else:
                while size := int(await self.reader.readline(), 16):  # chunked
                    await self.reader.readexactly(size + 2)
                await self.reader.readexactly(2)
            if b"connection: close" in head:
                self.close()
            self.used = time.perf_counter()
            return int(head[9:12])
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0

    def close(self) -> None:
        """Hang up."""
        if self.writer:
            self.writer.close()
            self.writer = None


async def closed_loop(port: int, requests: list[bytes], clients: int, seconds: float) -> list[tuple[int, float]]:
    """`clients` that each send the next picture when the last is answered: (status, seconds) of each."""
    seen: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection, turn = Connection(port), number * 37
        while (started := time.perf_counter()) < end:
            status = await connection.ask(requests[turn % len(requests)])
            seen.append((status, time.perf_counter() - started))
            turn += 1
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return seen


async def open_loop(port: int, requests: list[bytes], rate: float, seconds: float) -> list[tuple[int, float]]:
    """Requests at random moments (Poisson, a fixed seed), `rate` a second, whatever becomes of those before."""
    rng = random.Random(2017)
    idle: list[Connection] = []
    seen: list[tuple[int, float]] = []

    async def one(data: bytes, due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        status = await connection.ask(data)
        seen.append((status, time.perf_counter() - due))
        idle.append(connection)

    tasks: list[asyncio.Task[None]] = []
    started = due = time.perf_counter()
    while (due := due + rng.expovariate(rate)) < started + seconds:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(requests[len(tasks) % len(requests)], due)))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return seen


def main() -> None:
    asked = json.load(sys.stdin)
    files = sorted(Path(asked["pictures"]).iterdir())[: 24 if asked["body"] == "json" else 400]
    requests = [request(asked["path"], asked["body"], file.read_bytes()) for file in files]
    if asked.get("rate"):
        work = open_loop(asked["port"], requests, asked["rate"], asked["seconds"])
    else:
        work = closed_loop(asked["port"], requests, asked["clients"], asked["seconds"])
    started, cpu = time.perf_counter(), time.process_time()
    seen = asyncio.run(work)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"took": took, "cpu": cpu, "seen": seen}))


if __name__ == "__main__":
    main()
