"""A challenger beside the champion, in a real service: for the log alone in the shadow, for clients as a canary."""

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from pawprint import image
from pawprint.evaluation import live
from pawprint.inference.classifier import ModelInfo
from pawprint.serving import traffic
from service_process import checkout, serving
from toy import build_toy_model


def pictures(count: int) -> list[bytes]:
    """Red pictures, each another one."""
    rng = np.random.default_rng(2017)
    red = np.array((220, 40, 40))
    return [
        image.encode((red + rng.integers(-40, 35, (60, 80, 1))).clip(0, 255).astype(np.uint8)) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A champion, and a challenger that says blue of whatever is red."""
    folder = tmp_path_factory.mktemp("models")
    return build_toy_model(folder / "champion"), build_toy_model(folder / "challenger", version="4", scale=-50)


@contextmanager
def service(folder: Path, models: tuple[Path, Path], **challenger: object) -> Iterator[tuple[str, Path]]:
    """(url, traffic log)."""
    limits = {"share": 1.0, "max_errors": 0.05, "max_slowdown": 1000.0}
    env = checkout(folder, challenger=limits | challenger)
    env |= {"PAWPRINT_MODEL": str(models[0]), "PAWPRINT_CHALLENGER": str(models[1])}
    with serving(folder / "log", env, cwd=folder) as (url, _):
        yield url, folder / "traffic" / "pawprint-colours.db"


def rows(log: Path, count: int) -> list[tuple[str, str, str, str | None]]:
    """(id, label, version, shadow_of) of the first `count` rows or more, when they are there."""
    deadline = time.monotonic() + 30
    while True:
        with closing(sqlite3.connect(log)) as connection:
            found = connection.execute("SELECT id, label, model_version, shadow_of FROM predictions").fetchall()
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def compare(log: Path, champion: Path) -> live.Beside:
    """The one challenger that answered beside it."""
    digest = ModelInfo.read(champion).model_digest
    (one,) = live.compare(*traffic.beside(log, digest), traffic.read(log, digest, 0)[0])
    return one


def metric(url: str, name: str) -> float:
    found = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(name)]
    return float(found[0].split()[-1])


def test_in_the_shadow_the_champion_answers_and_the_log_has_both(tmp_path: Path, models: tuple[Path, Path]) -> None:
    with service(tmp_path, models, mode="shadow") as (url, log):
        answers = [httpx.post(f"{url}/predict", content=picture).json() for picture in pictures(12)]
        files = [("image", (f"{n}.jpg", one)) for n, one in enumerate(pictures(14)[12:])]
        batch = httpx.post(f"{url}/predict/batch", files=files).json()["answers"]
        assert {one["model"]["version"] for one in answers} == {"3"} and {one["label"] for one in answers} == {"red"}
        ids = [one["id"] for one in answers] + [one["prediction"]["id"] for one in batch]
        found = rows(log, 28)
        assert httpx.post(f"{url}/feedback", json={"id": ids[0], "label": "red"}).status_code == 200
        assert metric(url, 'pawprint_challenger_shadow_answers_total{agrees="false"}') == 14
    shadow = [row for row in found if row[3]]
    assert sorted(row[3] for row in shadow) == sorted(ids)
    assert {row[1:3] for row in shadow} == {("blue", "4")}
    one = compare(log, models[0])
    assert (one.mode, one.answers, one.agreement, one.judged, one.right) == ("shadow", 14, 0.0, (1, 1), (0, 1))
    assert "right 0 of 1 (champion 1 of 1), paired p = 1.000" in one.sentence()


def test_a_canary_answers_its_share_and_the_same_picture_gets_the_same_model(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    with service(tmp_path, models, mode="canary", share=0.4) as (url, log):
        seen = []
        for picture in pictures(40):
            first, again = (httpx.post(f"{url}/predict", content=picture) for _ in range(2))
            assert first.json()["model"] == again.json()["model"]
            assert first.headers["X-Pawprint-Model"].split()[1] == first.json()["model"]["digest"]
            in_share = int(hashlib.sha256(picture).hexdigest()[:8], 16) < 0.4 * 2**32
            assert (first.json()["model"]["version"], first.json()["label"]) == (
                ("4", "blue") if in_share else ("3", "red")
            )
            seen.append(in_share)
            judged = httpx.post(f"{url}/feedback", json={"id": first.json()["id"], "label": "red"})
            assert judged.status_code == 200
        rows(log, 80)
    one = compare(log, models[0])
    count = sum(seen)
    assert 8 <= count <= 24
    assert (one.mode, one.answers, one.agreement, one.judged, one.right) == (
        "canary", 2 * count, None, (count, 40 - count), (0, 40 - count)
    )  # fmt: skip
    assert one.p is not None and one.p < 0.001


def test_a_challenger_past_its_limit_is_switched_off_with_an_alert(tmp_path: Path, models: tuple[Path, Path]) -> None:
    with service(tmp_path, models, mode="canary", share=0.5, max_slowdown=0.0001) as (url, _):
        before = metric(url, "pawprint_challenger_up{")
        answers = [httpx.post(f"{url}/predict", content=picture) for picture in pictures(100)]
        assert {answer.status_code for answer in answers} == {200}
        versions = [answer.json()["model"]["version"] for answer in answers]
        assert "4" in versions[:60] and set(versions[-30:]) == {"3"}
        assert (before, metric(url, "pawprint_challenger_up{")) == (1.0, 0.0)
    assert "is switched off: it takes" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_challenger_that_fails_is_never_the_client_s_error_and_is_switched_off(
    tmp_path: Path, models: tuple[Path, Path], mode: str
) -> None:
    failing = build_toy_model(tmp_path / "failing", version="6", scale=45, fails_on_red=True)
    with service(tmp_path, (models[0], failing), mode=mode) as (url, _):
        before = metric(url, "pawprint_challenger_up{")
        answers = [httpx.post(f"{url}/predict", content=picture) for picture in pictures(40)]
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json()["model"]["version"] for answer in answers[-15:]] == ["3"] * 15
        deadline = time.monotonic() + 30
        while metric(url, "pawprint_challenger_up{") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (before, metric(url, "pawprint_challenger_up{")) == (1.0, 0.0)
        errors = metric(url, "pawprint_challenger_errors_total")
        served = [answer for answer in answers if answer.json()["model"]["version"] == "3"]
        assert errors >= 2 and len(served) >= (errors if mode == "canary" else 40)  # the champion answered instead
        assert metric(url, 'pawprint_model_answers_total{label="red",role="champion"}') == len(served)
    assert re.search(r"is switched off: \d+% of its last 2\d answers were errors", (tmp_path / "log").read_text())


def test_a_challenger_that_cannot_serve_stops_no_service(tmp_path: Path, models: tuple[Path, Path]) -> None:
    broken = build_toy_model(tmp_path / "broken", version="5", scale=40)
    (broken / "model.onnx").write_bytes(b"no model")
    with service(tmp_path, (models[0], broken), mode="shadow") as (url, _):
        assert httpx.post(f"{url}/predict", content=pictures(1)[0]).json()["label"] == "red"
    assert "the challenger is not loaded" in (tmp_path / "log").read_text()
