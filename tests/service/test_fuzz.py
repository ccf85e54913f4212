"""Ten thousand mutated pictures and bodies, always the same: no 5xx but 503 and 504, no crash, no leak."""

import asyncio
import io
import random
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

import mutations
from service_process import serving

SEED = 2017
BOUNDARY = b"fuzz"


def seeds(pictures: dict[str, bytes]) -> list[bytes]:
    """Small pictures of every format that is taken, and things that only look like one."""
    made = [pictures["red"][:6000]]
    picture = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    for format, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("ICO", {}),
        ("PPM", {}),
        ("TGA", {}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, format, **options)
        made.append(buffer.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.convert("CMYK").save(buffer, "JPEG", exif=exif)
    return [*made, buffer.getvalue(), b"<svg/>", b"", b"\xff\xd8\xff\xe0"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Cut, flipped, doubled, shuffled or overwritten in a few places."""
    body = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if not body:
            break
        at = rng.randrange(len(body))
        match rng.randrange(6):
            case 0:
                del body[at:]
            case 1:
                body[at] ^= 1 << rng.randrange(8)
            case 2:
                body[at : at + 4] = rng.randbytes(4)
            case 3:
                body[at:at] = body[at : at + rng.randint(1, 200)]
            case 4:
                del body[at : at + rng.randint(1, 50)]
            case 5:
                body[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    return bytes(body)


def request(picture: bytes, rng: random.Random) -> bytes:
    """A well-formed HTTP request around a body that may be anything."""
    path = rng.choice([b"/predict"] * 6 + [b"/explain", b"/predict/batch", b"/feedback"])
    kind, body = b"application/octet-stream", picture
    if path != b"/feedback" and rng.random() < 0.4:
        kind = b"multipart/form-data; boundary=" + BOUNDARY
        name = rng.choice([b"image", b"image", b"images", b"picture", rng.randbytes(5).hex().encode()])
        part = b'Content-Disposition: form-data; name="%s"; filename="x.jpg"\r\n\r\n' % name
        body = b"--%s\r\n%s%s\r\n--%s--\r\n" % (BOUNDARY, part, picture, BOUNDARY)
        if rng.random() < 0.3:
            body = mutate(body, rng)
    elif path == b"/feedback":
        kind, body = b"application/json", mutate(b'{"id": "0123456789abcdef", "label": "red"}', rng)
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (path, kind, len(body)) + body


async def send_all(port: int, requests: list[bytes], connections: int = 8) -> list[int]:
    """The status of every request, sent over a few connections."""
    turns = iter(requests)
    statuses: list[int] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for data in turns:
            writer.write(data)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            statuses.append(int(head[9:12]))
            if b"connection: close" in head.lower():
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return statuses


def fuzz(toy_model: Path, pictures: dict[str, bytes], folder: Path, count: int, rest: float = 0) -> None:
    """The second half may take no more memory than the first; BentoML lets go of a request `rest` seconds later."""
    rng = random.Random(SEED)
    material = seeds(pictures)
    structured = mutations.picture_seeds()
    requests = [
        mutations.request(structured, rng) if number % 2 else request(mutate(rng.choice(material), rng), rng)
        for number in range(count)
    ]
    env = {"PAWPRINT_MODEL": str(toy_model), "PAWPRINT_TRAFFIC": str(folder / "traffic")}
    with serving(folder / "log", env) as (url, process):
        port = int(url.rpartition(":")[2])
        (worker,) = [c for c in psutil.Process(process.pid).children(True) if "worker" in " ".join(c.cmdline())]
        statuses = asyncio.run(send_all(port, requests[: count // 2]))
        time.sleep(rest)
        before = worker.memory_info().rss
        statuses += asyncio.run(send_all(port, requests[count // 2 :]))
        time.sleep(rest)
        assert worker.is_running() and worker.memory_info().rss < 1.1 * before
    assert len(statuses) == count
    assert [status for status in statuses if status >= 500 and status not in (503, 504)] == []
    assert {200, 400, 415, 422} <= set(statuses)


def test_a_thousand_mutations(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(toy_model, pictures, tmp_path, 1_000)


@pytest.mark.slow
def test_ten_thousand_mutations(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(toy_model, pictures, tmp_path, 10_000, rest=31)
