"""What one client, or one local user, sends stops no answer for the others: one test a kind of attack."""

import contextlib
import io
import resource
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

import hostile
from service_process import checkout, metric, processes, resident, serving


def answer(url: str, request: bytes) -> bytes:
    """What comes back for a request written by hand."""
    address = urlsplit(url)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        with contextlib.suppress(OSError):  # the service has refused the rest
            connection.sendall(request)
        try:
            while piece := connection.recv(65536):
                received += piece
                if b"connection: close" not in received.lower() and received.endswith(b"}"):
                    break
        except OSError:
            pass
    return received


def test_no_port_is_open_but_the_services_own(service: str) -> None:
    """The supervisor under `bentoml serve` takes commands; on a TCP port any local user could give them."""
    ports = {
        each.laddr.port
        for process in processes(service)
        for each in process.net_connections()
        if each.status == "LISTEN"
    }
    assert ports == {int(service.rpartition(":")[2])}


def tiff_loop() -> bytes:
    """Directories that follow each other in a circle."""
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 256, 3, 1, 1)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8)


def webp_frames(count: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    data = buffer.getvalue()
    at = data.index(b"ANMF")
    frame = data[at : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]
    body = data[8:] + frame * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


HOSTILE = {
    "bytes by few": (hostile.webp_claim, 422, "too_large"),
    "16 bits of four channels": (lambda: hostile.png(5000, 5000, 16, 6, 8), 422, "too_large"),
    "scans": (lambda: hostile.jpeg_scans(2500, side=64), 422, "too_many_parts"),
    "empty segments": (lambda: hostile.jpeg_segments(500_000), 422, "too_many_parts"),
    "directories": (lambda: hostile.tiff_directories(16_000), 422, "too_many_parts"),
    "directories in a circle": (tiff_loop, 422, "too_many_parts"),
    "GIF frames": (lambda: hostile.gif_frames(100_000), 422, "too_many_parts"),
    "WebP frames": (lambda: webp_frames(20_000), 422, "too_many_parts"),
    "an end in the frame header": (lambda: b"\xff\xd8\xff\xc0\x00\x11\x08\x00", 422, "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_is_refused_by_what_it_costs(service: str, name: str) -> None:
    make, status, reason = HOSTILE[name]
    response = httpx.post(f"{service}/predict", content=make(), timeout=30)
    assert (response.status_code, response.json()["reason"]) == (status, reason), response.text


def test_what_takes_too_long_is_ended_and_the_next_is_answered(service: str, pictures: dict[str, bytes]) -> None:
    """A picture within every count that costs more than one of its size may: its process is replaced."""
    slow = hostile.jpeg_scans(60, side=6000)
    before, ended = (metric(service, name) for name in ("pawprint_bodies_bytes", "pawprint_decoders_ended_total"))
    seen: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: seen.append(httpx.post(f"{service}/predict", content=slow, timeout=60)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert httpx.post(f"{service}/predict", content=pictures["red"], timeout=60).json()["label"] == "red"
        waits.append(time.monotonic() - started)
    assert {response.status_code for response in seen} <= {200, 422, 504}
    for response in seen:
        assert response.headers["X-Request-Id"] and set(response.json()) >= {"reason"}
    assert max(waits) < max(response.elapsed.total_seconds() for response in seen)  # not behind them
    png = io.BytesIO()
    Image.new("RGB", (400, 300), (220, 40, 40)).save(png, "PNG")
    assert httpx.post(f"{service}/predict", content=png.getvalue(), timeout=30).json()["label"] == "red"
    assert metric(service, "pawprint_decoders_ended_total") >= ended
    for gauge in ("pawprint_queue", "pawprint_in_flight"):
        assert metric(service, gauge) == 0
    assert metric(service, "pawprint_bodies_bytes") == before == 0


@pytest.mark.skipif(sys.platform != "linux", reason="proportional set sizes are Linux's")
def test_memory_is_given_back(service: str) -> None:
    """Large bodies that no decoder can read, in its processes, and clients that ask for pages and go unread."""
    png, large = io.BytesIO(), b"BM" + bytes(18 * 2**20)
    Image.new("RGB", (400, 300), (220, 40, 40)).save(png, "PNG")

    def together(content: bytes) -> set[int]:
        with ThreadPoolExecutor(4) as pool:
            send = lambda _: httpx.post(f"{service}/predict", content=content, timeout=60).status_code  # noqa: E731
            return set(pool.map(send, range(8)))

    assert together(png.getvalue()) == {200}
    before = resident(service)
    assert 200 not in together(large)
    with contextlib.ExitStack() as unread:
        for _ in range(100):
            address = urlsplit(service)
            client = unread.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))
            client.sendall(b"GET /swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30)
        assert together(png.getvalue()) == {200}
    end = time.monotonic() + 60
    while (after := resident(service)) > 1.1 * before:
        assert time.monotonic() < end, (before, after)
        time.sleep(0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of its own on Linux")
def test_a_client_that_sends_many_slow_pictures_waits_for_itself(toy_model: Path, tmp_path: Path) -> None:
    """A PNG, which is decoded in the same processes, does not stand behind the six of another address."""
    slow, ended = hostile.jpeg_scans(30, side=3400), []
    png = io.BytesIO()
    Image.new("RGB", (400, 300), (220, 40, 40)).save(png, "PNG")

    def send(url: str) -> None:
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=120) as client:
            ended.append(client.post(f"{url}/predict", content=slow).status_code)

    env = {**checkout(tmp_path, answer_seconds=100), "PAWPRINT_MODEL": str(toy_model)}
    with serving(tmp_path / "log", env, cwd=tmp_path) as (url, _), ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(send, url) for _ in range(6)]
        while metric(url, "pawprint_in_flight") < 6 and not ended:
            time.sleep(0.01)
        before = len(ended)
        response = httpx.post(f"{url}/predict", content=png.getvalue(), timeout=120)
        assert response.json()["label"] == "red"
        assert len(ended) - before < 5  # two were being decoded, and two had their turn before
        for job in jobs:
            job.result()


@pytest.mark.parametrize(
    "part",
    [
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n\r\n',
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n\r\n',
    ],
)
def test_a_form_of_a_million_parts_is_refused_at_once(service: str, part: bytes) -> None:
    received = answer(service, hostile.form(part * 200_000 + b"--x--\r\n"))
    assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")) and len(received) < 2000


GET = b"GET /model HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"a: b\r\n" * 100_000,
        GET + b"a: b\r\n" * 101 + b"\r\n",
        GET + b"a: " + b"b" * 5_000_000,
        hostile.CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 100_000,
        hostile.CHUNKED + b"1;" + b"x" * 5_000_000,
    ],
)
def test_headers_and_trailers_have_a_size(service: str, request_: bytes) -> None:
    received = answer(service, request_)
    assert received.startswith(b"HTTP/1.1 431") or not received  # it was still being sent when the answer came
    if received:
        assert b"headers_too_large" in received and b"x-request-id" in received


def test_pipelined_requests_and_small_chunks_are_no_large_headers(service: str, pictures: dict[str, bytes]) -> None:
    port = int(service.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall((GET + b"\r\n") * 300)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") >= 1 and b"HTTP/1.1 4" not in received
    red = pictures["red"]
    small = (red[at : at + 32] for at in range(0, len(red), 32))
    assert httpx.post(f"{service}/predict", content=small, timeout=30).json()["label"] == "red"


def test_a_body_of_single_bytes_is_refused(service: str) -> None:
    """Each chunk is a call: a body of 20 MB would hold the event loop for 20 s."""
    chunks = b"1\r\nx\r\n" * 100_000
    received = answer(service, hostile.CHUNKED + chunks + b"0\r\n\r\n")
    assert (received.startswith(b"HTTP/1.1 400") and b"too_many_chunks" in received) or not received
    for size, count in ((512, 5000), (16_384, 300)):  # what real clients send
        body = (bytes(size) for _ in range(count))
        assert httpx.post(f"{service}/predict", content=body, timeout=30).status_code == 415


def test_connections_that_wait_make_room_for_another(service: str, pictures: dict[str, bytes]) -> None:
    """One client opens more than the service keeps, and sends half a header, a body or nothing on each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    starts = (b"", b"GET / HTTP/1.1\r\nHost: loc", hostile.raw(bytes(100))[:-10])
    refused = metric(service, "pawprint_refusals_total")
    with contextlib.ExitStack() as stack:
        for number in range(1300):
            with contextlib.suppress(ConnectionError):
                connection = stack.enter_context(
                    socket.create_connection(urlsplit(service).netloc.split(":"), timeout=5)
                )
                connection.sendall(starts[number % 3])
        assert httpx.post(f"{service}/predict", content=pictures["red"], timeout=30).json()["label"] == "red"
    assert metric(service, "pawprint_refusals_total") > refused


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:3000", "127.0.0.1.evil.example"])
def test_another_name_is_not_answered(service: str, host: str) -> None:
    """A page whose own name means this address would read the answers."""
    response = httpx.get(f"{service}/model", headers={"Host": host})
    assert (response.status_code, response.json()["reason"]) == (403, "unknown_host")
    for probe in ("/livez", "/readyz", "/metrics"):
        assert httpx.get(f"{service}{probe}", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:3000", "127.0.0.1", "10.1.2.3:80", "[::1]:3000"])
def test_an_address_is_answered(service: str, host: str) -> None:
    assert httpx.get(f"{service}/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/feedback"])
def test_another_sites_page_may_not_post(
    service: str, pictures: dict[str, bytes], path: str, headers: dict[str, str]
) -> None:
    response = httpx.post(f"{service}{path}", content=pictures["red"], headers=headers)
    assert (response.status_code, response.json()["reason"]) == (403, "cross_site")
    assert "access-control-allow-origin" not in response.headers


def test_the_services_own_page_may(service: str, pictures: dict[str, bytes]) -> None:
    headers = {"Origin": service, "Sec-Fetch-Site": "same-origin"}
    assert httpx.post(f"{service}/predict", content=pictures["red"], headers=headers).status_code == 200
    assert httpx.get(service, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page


def test_a_refused_body_is_counted_once(service: str) -> None:
    before = metric(service, "pawprint_refusals_total")
    with contextlib.closing(HTTPConnection(urlsplit(service).netloc, timeout=30)) as client:
        client.request("POST", "/predict", body=(bytes(2**20) for _ in range(21)), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        response = client.getresponse()
        assert response.status == 413 and response.headers["X-Request-Id"]
    assert metric(service, "pawprint_refusals_total") == before + 1
