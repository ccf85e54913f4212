"""A new champion under load; a broken one leaves the old one serving."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from pawprint.inference import selftest
from pawprint.inference.classifier import ModelInfo
from pawprint.serving import traffic
from service_process import checkout, serving
from toy import build_toy_model

ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture
def folder(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    """A model folder of one's own, with a self-test."""
    folder = build_toy_model(tmp_path / "served")
    known = {f"{name}.jpg": data for name, data in pictures.items()}
    selftest.write(folder, {"bad.jpg": b"no photograph", **known})
    return folder


@pytest.fixture
def url(folder: Path, tmp_path: Path) -> Iterator[str]:
    home = tmp_path / "checkout"
    home.mkdir()
    env = checkout(home, tokens={"read": [], "feedback": [], "admin": [hashlib.sha256(b"admin").hexdigest()]})
    with serving(tmp_path / "log", {**env, "PAWPRINT_MODEL": str(folder)}, cwd=home) as (url, _):
        yield url


def version(url: str) -> str:
    return str(httpx.get(f"{url}/model").json()["model"]["version"])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_new_champion_is_taken_over_with_no_failed_request(
    url: str, folder: Path, tmp_path: Path, pictures: dict[str, bytes]
) -> None:
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                response = client.post(f"{url}/predict", content=pictures["red"])
                seen.append((response.status_code, response.json().get("model", {}).get("version", "")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(seen) > 10)
    shutil.rmtree(folder)
    shutil.move(build_toy_model(tmp_path / "fresh", version="4", scale=40), folder)
    response = httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30)
    assert (response.status_code, response.json()["version"]) == (200, "4")
    wait_for(lambda: seen[-1][1] == "4")
    stop.set()
    for thread in threads:
        thread.join(30)
    assert {status for status, _ in seen} == {200}
    assert {served for _, served in seen} == {"3", "4"}
    text = httpx.get(f"{url}/metrics").text
    assert [line[-3:] for line in text.splitlines() if line.startswith("pawprint_model_info{")] == ["0.0", "1.0"]


def test_another_data_set_s_champion_has_its_own_traffic_log(
    url: str, folder: Path, tmp_path: Path, pictures: dict[str, bytes]
) -> None:
    def ask() -> str:
        return str(httpx.post(f"{url}/predict", content=pictures["red"]).json()["id"])

    def right(id: str) -> int:
        return httpx.post(f"{url}/feedback", json={"id": id, "label": "blue"}).status_code

    first = ask()
    champion = folder / "champion.json"
    champion.write_text(champion.read_text().replace("pawprint-colours", "pawprint-shades"))
    assert httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30).status_code == 200
    second = ask()
    assert [right(first), right(second), right("0" * 32)] == [200, 200, 404]
    logs = tmp_path / "checkout" / "traffic"
    for name, id in (("colours", first), ("shades", second)):
        rows, _ = traffic.read(logs / f"pawprint-{name}.db", ModelInfo.read(folder).model_digest, 0)
        assert [(row["id"], row["right_label"]) for row in rows] == [(id, "blue")]


def test_a_broken_champion_is_not_taken_over(url: str, folder: Path, pictures: dict[str, bytes]) -> None:
    answers = folder / "selftest/answers.json"
    known = json.loads(answers.read_text())
    model = folder / "model.json"
    described = json.loads(model.read_text())
    swapped = {"classes": ["red", "blue"]}
    more = {"classes": ["blue", "red", "yellow"]}
    bank = folder / "ood.safetensors"
    whole = bank.read_bytes()
    other = save({"embeddings": np.ones((4, 5), np.float32), "k": np.array([1])})
    nan = save({"embeddings": np.full((4, 3), np.nan, np.float32), "k": np.array([1])})
    for damaged, content in (
        (answers, json.dumps(known | {"red.jpg": known["blue.jpg"]}).encode()),
        (answers, b"[1"), (answers, b'{"gone.jpg": {}}'),
        (model, json.dumps(described | swapped).encode()), (model, json.dumps(described | more).encode()),
        (bank, other), (bank, nan), (bank, b"x"), (folder / "selftest/red.jpg", b"no photograph"),
    ):  # fmt: skip
        before = damaged.read_bytes()
        damaged.write_bytes(content)
        response = httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30)
        assert (response.status_code, response.json()["reason"]) == (409, "not_reloaded"), (damaged, content[:50])
        damaged.write_bytes(before)
    assert bank.read_bytes() == whole
    assert httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30).status_code == 200
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30).status_code == 409
    assert version(url) == "3"
    assert httpx.post(f"{url}/predict", content=pictures["red"]).json()["label"] == "red"


def test_a_model_that_fails_its_selftest_ends_the_service_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    answers = folder / "selftest/answers.json"
    known = json.loads(answers.read_text())
    answers.write_text(json.dumps(known | {"red.jpg": known["blue.jpg"]}))
    with (
        pytest.raises(AssertionError, match="the service ended"),
        serving(tmp_path / "log", {"PAWPRINT_MODEL": str(folder), "PAWPRINT_TRAFFIC": str(tmp_path / "traffic")}),
    ):
        pass
    log = (tmp_path / "log").read_text()
    assert log.count("The self-test failed: red.jpg should give") == 1 and "Traceback" not in log


def test_wrong_tokens_are_paced_and_the_right_one_goes_on(url: str) -> None:
    assert httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30).status_code == 200
    seen = [
        httpx.post(f"{url}/admin/reload", headers={"Authorization": f"Bearer guess{number}"}).status_code
        for number in range(60)
    ]
    assert set(seen) == {401, 429} and seen[-1] == 429
    started = time.monotonic()  # from here on a guess is given back every two seconds
    assert httpx.post(f"{url}/admin/reload", headers=ADMIN, timeout=30).status_code == 200
    # X-Forwarded-For of a caller that is no trusted proxy makes no new address
    guess = {"Authorization": "Bearer guess"}
    others = [{**guess, "X-Forwarded-For": f"1.2.3.{number}"} for number in range(60)]
    heard = [httpx.post(f"{url}/admin/reload", headers=headers).status_code for headers in others]
    assert heard.count(401) <= 1 + (time.monotonic() - started) / 2


def test_only_the_admin_may(url: str, service: str) -> None:
    assert httpx.post(f"{url}/admin/reload").status_code == 401
    assert httpx.post(f"{service}/admin/reload", headers=ADMIN).status_code == 404  # no admin token is set there
