"""A service with small limits: bodies too large or too slow, tokens, pace."""

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pawprint.errors import PawprintError
from pawprint.serving.client import predict
from service_process import checkout, line_of, metric, serving

READ, ADMIN = "read-token", "admin-token"
FRIEND = "https://friend.example"  # the page of another site that may use the service


@pytest.fixture(scope="module")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small") / "log"


@pytest.fixture(scope="module")
def small(toy_model: Path, small_log: Path) -> Iterator[str]:
    folder = small_log.parent
    env = checkout(
        folder,
        max_body_mb=0.25,
        max_bodies_mb=1,
        body_seconds=1.5,
        allowed_origins=[FRIEND],
        trusted_proxies=["127.0.0.1"],
    )
    with serving(small_log, {**env, "PAWPRINT_MODEL": str(toy_model)}, cwd=folder) as (url, _):
        yield url


@pytest.fixture(scope="module")
def closed(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("closed")
    tokens = {"read": [digest(READ)], "feedback": [], "admin": [digest(ADMIN)]}
    env = checkout(folder, tokens=tokens, requests_per_minute=30)
    with serving(folder / "log", {**env, "PAWPRINT_MODEL": str(toy_model)}, cwd=folder) as (url, _):
        yield url


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def talk(url: str, head: str, pieces: Iterator[bytes]) -> tuple[bytes, int]:
    """(what came back, bytes that could be sent) for a request written by hand."""
    address = urlsplit(url)
    sent = 0
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n\r\n".encode())
        try:
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass  # the service has hung up
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except OSError:
            pass
    return received, sent


def test_an_announced_large_body_is_refused_unread(small: str) -> None:
    received, _ = talk(small, "Content-Length: 300000000", iter([]))
    assert received.startswith(b"HTTP/1.1 413") and b"body_too_large" in received


@pytest.mark.parametrize("requests_before", [0, 1])
def test_slow_headers_are_cut_off(small: str, requests_before: int) -> None:
    """A byte of a header a moment, on a new connection or on one that was good before: 408 and closed."""
    with contextlib.closing(HTTPConnection(urlsplit(small).netloc, timeout=20)) as client:
        client.connect()
        for _ in range(requests_before):
            client.request("GET", "/livez")
            assert client.getresponse().read()
        connection = client.sock
        connection.settimeout(0.1)
        started, received = time.monotonic(), b""
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        while not received:
            assert time.monotonic() - started < 10
            with contextlib.suppress(TimeoutError):
                connection.sendall(b"x")
                received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 408")
    assert 1 < time.monotonic() - started < 5
    assert httpx.get(f"{small}/livez").status_code == 200


def test_a_chunked_large_body_is_cut_off(small: str) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    received, sent = talk(small, "Transfer-Encoding: chunked", (chunk for _ in range(4000)))
    assert sent < 200 * len(chunk)  # 250 MB were on offer
    assert not received or received.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_just_too_large_hears_why(small: str) -> None:
    response = httpx.post(f"{small}/predict", content=(b"x" * 65536 for _ in range(5)))
    assert (response.status_code, response.json()["reason"]) == (413, "body_too_large")
    assert "0.25 MB" in response.json()["error"]


def test_nonsense_as_a_length_is_refused(small: str) -> None:
    received, _ = talk(small, "Content-Length: many", iter([]))
    assert received.startswith(b"HTTP/1.1 4")


def test_a_byte_a_second_is_cut_off(small: str) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x"
            time.sleep(0.25)

    started = time.monotonic()
    received, _ = talk(small, "Content-Length: 1000", drip())
    assert time.monotonic() - started < 8
    assert not received or received.startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_reads_is_cut_off(small: str) -> None:
    """404 needs no body; the connection is not held while one drips in."""
    with socket.create_connection(("127.0.0.1", int(small.rpartition(":")[2])), timeout=0.2) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        started, received = time.monotonic(), b""
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 15:
                connection.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not (piece := connection.recv(65536)):
                        break
                    received += piece
    assert received.startswith(b"HTTP/1.1 404")
    assert 1 < time.monotonic() - started < 10


def test_a_client_that_never_reads_is_cut_off(small: str) -> None:
    pages = b"GET /swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(small.rpartition(":")[2])))
        connection.sendall(pages)
        time.sleep(4)  # body_seconds is 1.5
        connection.settimeout(5)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(2**20):
                received += len(piece)
    page = len(httpx.get(f"{small}/swagger-ui-bundle.js").content)
    assert 0 < received < 10 * page  # what lay in the system's buffers


def test_uploads_that_are_too_many_together_are_refused_and_small_pictures_pass(
    small: str, pictures: dict[str, bytes]
) -> None:
    """Twelve of 230 kB that stay a byte short of their end, where all bodies together may have 1 MB."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 230000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", int(small.rpartition(":")[2]))
        uploads = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(12)]
        for upload in uploads:
            with contextlib.suppress(ConnectionError):
                upload.sendall(head + bytes(229_999))
        response = httpx.post(f"{small}/predict", content=pictures["red"], timeout=10)
        assert response.json()["label"] == "red"
        assert 0 < metric(small, "pawprint_bodies_bytes") <= 1.5 * 2**20
        received = []
        for upload in uploads:
            with contextlib.suppress(ConnectionResetError):
                received.append(upload.recv(65536))
    assert any(each.startswith(b"HTTP/1.1 503") and b"overloaded" in each for each in received)
    assert {each[9:12] for each in received} <= {b"503", b"408"}
    assert metric(small, "pawprint_bodies_bytes") == 0


def test_a_page_that_is_allowed_may_ask_and_no_other(small: str, pictures: dict[str, bytes]) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = httpx.options(f"{small}/predict", headers={"Origin": FRIEND, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == FRIEND
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    sent = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}
    response = httpx.post(f"{small}/predict", content=pictures["red"], headers=sent)
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (200, FRIEND)
    refused = httpx.post(f"{small}/predict", content=b"no picture", headers=sent)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (415, FRIEND)  # it can read why
    for other in ("https://friend.example.evil.example", "http://friend.example", "null"):
        preflight = httpx.options(f"{small}/predict", headers={"Origin": other, **asked})
        assert preflight.status_code == 400 and "Access-Control-Allow-Origin" not in preflight.headers
        response = httpx.post(f"{small}/predict", content=pictures["red"], headers={"Origin": other})
        assert response.status_code == 403 and "Access-Control-Allow-Origin" not in response.headers


def test_a_trusted_proxy_names_the_client(small: str, small_log: Path) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Request-Id": "through-a-proxy"}
    httpx.get(f"{small}/model", headers=headers)
    assert line_of(small_log, "through-a-proxy")["client"] == "203.0.113.7"


def test_a_client_that_hangs_up_harms_nobody(small: str, pictures: dict[str, bytes]) -> None:
    address = urlsplit(small)
    for _ in range(20):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
    assert httpx.post(f"{small}/predict", content=pictures["red"]).json()["label"] == "red"


def test_bad_neighbours_in_a_batch_harm_nobody(small: str, pictures: dict[str, bytes]) -> None:
    labels: list[str] = []

    def good() -> None:
        labels.extend(httpx.post(f"{small}/predict", content=pictures["blue"]).json()["label"] for _ in range(15))

    def bad() -> None:
        for data in (b"", b"x", pictures["red"][:1500], b"\x89PNG\r\n\x1a\n") * 4:
            assert httpx.post(f"{small}/predict", content=data).status_code in (400, 415, 422)

    threads = [threading.Thread(target=work) for work in (good, bad, good, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels == ["blue"] * 30


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_tokens_open_their_part_only(closed: str) -> None:
    assert httpx.get(f"{closed}/model").status_code == 401
    assert httpx.get(f"{closed}/model").headers["WWW-Authenticate"] == "Bearer"
    assert httpx.get(f"{closed}/model", headers=bearer("guess")).status_code == 401
    assert httpx.get(f"{closed}/model", headers=bearer(ADMIN)).status_code == 403
    assert httpx.get(f"{closed}/model", headers=bearer(READ)).status_code == 200
    assert httpx.get(f"{closed}/livez").status_code == 200


def test_the_client_sends_its_token(closed: str, pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "red.jpg"
    path.write_bytes(pictures["red"])
    assert [each.classification and each.classification.label for each in predict(closed, [path], READ)] == ["red"]
    with pytest.raises(PawprintError, match=r"wants a token .*send `Authorization: Bearer TOKEN`.*PAWPRINT_TOKEN"):
        list(predict(closed, [path]))
    with pytest.raises(PawprintError, match="does not open the read part"):
        list(predict(closed, [path], ADMIN))


def test_one_token_has_one_pace(closed: str) -> None:
    started = time.monotonic()
    responses = [httpx.get(f"{closed}/model", headers=bearer(READ)) for _ in range(60)]
    refused = [response for response in responses if response.status_code == 429]
    assert len(responses) - len(refused) <= 31 + (time.monotonic() - started) / 2
    assert refused and all(1 <= int(response.headers["Retry-After"]) <= 60 for response in refused)
