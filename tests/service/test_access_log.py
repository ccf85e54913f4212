"""What a person who runs the service sees of it: log lines and figures."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service_process import line_of, serving

PICTURE_NAME = "my-secret-cat.jpg"


@pytest.fixture(scope="module")
def logged(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(url, log) of a service of one's own."""
    folder = tmp_path_factory.mktemp("watch")
    env = {"PAWPRINT_MODEL": str(toy_model), "PAWPRINT_TRAFFIC": str(folder / "traffic")}
    with serving(folder / "log", env) as (url, _):
        yield url, folder / "log"


def figures(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("pawprint_"))
    return {name: float(value) for name, value in pairs}


def test_a_request_has_one_id_in_the_answer_and_in_the_log(logged: tuple[str, Path], pictures) -> None:
    url, log = logged
    files = {"image": (PICTURE_NAME, pictures["red"], "image/jpeg")}
    response = httpx.post(f"{url}/predict", files=files, headers={"X-Request-Id": "order-66", "Authorization": "x y"})
    assert response.headers["X-Request-Id"] == "order-66"
    line = line_of(log, "order-66")
    assert (line["logger"], line["message"], line["status"]) == ("pawprint.access", "POST /predict", 200)
    assert line["level"] == "INFO" and 0 < line["ms"] < 60_000 and line["client"] == "127.0.0.1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert PICTURE_NAME not in log.read_text()


def test_what_is_no_id_is_replaced(logged: tuple[str, Path]) -> None:
    url, log = logged
    ids = set()
    for given in ({}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 65}, {"X-Request-Id": '"}{'}):
        response = httpx.post(f"{url}/predict", content=b"no photograph", headers=given)
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])
        assert line_of(log, response.headers["X-Request-Id"])["status"] == 415
        ids.add(response.headers["X-Request-Id"])
    assert len(ids) == 4


def test_refusals_before_the_routes_have_ids_and_counts_too(logged: tuple[str, Path]) -> None:
    url, log = logged
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: big\r\nContent-Length: 300000000\r\n\r\n"
        connection.sendall(head.encode())
        assert b"x-request-id: big" in connection.recv(4096).lower()
    assert line_of(log, "big")["status"] == 413
    assert figures(url)['pawprint_refusals_total{reason="body_too_large"}'] == 1


def test_every_line_of_the_worker_is_json(logged: tuple[str, Path]) -> None:
    _, log = logged
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{") and "worker" in line.lower()] == []
    assert any(json.loads(line)["logger"] == "bentoml.serve" for line in lines if line.startswith("{"))


def test_the_figures(logged: tuple[str, Path], pictures: dict[str, bytes]) -> None:
    url, _ = logged
    before = figures(url)
    httpx.post(f"{url}/predict", content=pictures["red"])
    httpx.post(f"{url}/predict", content=pictures["green"])
    httpx.post(f"{url}/predict", content=b"no photograph")
    files = [("image", ("a", pictures["blue"])), ("image", ("b", b"")), ("image", ("c", pictures["blue"]))]
    httpx.post(f"{url}/predict/batch", files=files)
    httpx.get(f"{url}/no/such/place")
    after = figures(url)
    risen = {name: value - before.get(name, 0) for name, value in after.items()}
    expected = {
        'pawprint_requests_total{method="POST",path="/predict",status="200"}': 2,
        'pawprint_requests_total{method="POST",path="/predict",status="415"}': 1,
        'pawprint_requests_total{method="POST",path="/predict/batch",status="200"}': 1,
        'pawprint_requests_total{method="GET",path="other",status="404"}': 1,
        'pawprint_request_seconds_count{path="/predict"}': 3,
        'pawprint_answers_total{label="red"}': 1,
        'pawprint_answers_total{label="blue"}': 2,
        'pawprint_answers_total{label="unknown"}': 1,
        'pawprint_refusals_total{reason="not_an_image"}': 1,
        'pawprint_refusals_total{reason="empty"}': 1,
        'pawprint_part_seconds_count{part="decode"}': 4,
        'pawprint_part_seconds_count{part="wait"}': 4,
        'pawprint_part_seconds_count{part="inference"}': 4,
        "pawprint_confidence_count": 4,
        "pawprint_batch_pictures_sum": 3,
        "pawprint_batch_pictures_count": 1,
    }
    assert {name: risen.get(name) for name in expected} == expected
    assert after["pawprint_in_flight"] == after["pawprint_queue"] == 0
    (model,) = [value for name, value in after.items() if name.startswith("pawprint_model_info{")]
    assert model == 1
