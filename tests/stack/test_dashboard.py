"""Grafana's dashboard over a running service with a challenger: Prometheus has an answer to every panel's question."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from pawprint import image
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import sha256
from service_process import ROOT, checkout, free_port, serving
from toy import build_toy_model

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/service.json").read_text())
pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="not installed: prometheus (Debian's package)")


@contextmanager
def prometheus(folder: Path, service: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Prometheus with the rules of deploy/ over the service; what it answers to a query."""
    folder.mkdir()
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(PROMETHEUS / "alerts.yml")]
    config["scrape_configs"] = [
        one | {"static_configs": [{"targets": [service.removeprefix("http://")]}]}
        for one in config["scrape_configs"]
        if one["job_name"] == "service"
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait(lambda: httpx.get(f"http://{address}/-/ready").status_code == 200, folder / "log")

        def ask(query: str) -> list[dict[str, Any]]:
            found = httpx.get(f"http://{address}/api/v1/query", params={"query": query}, timeout=30).json()
            assert found["status"] == "success", (query, found)
            result: list[dict[str, Any]] = found["data"]["result"]
            return result

        yield ask
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait(until: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if until():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def pictures(count: int) -> list[bytes]:
    """Red, blue, and every fifth green, which neither model knows."""
    rng = np.random.default_rng(2017)
    shades = [(220, 40, 40), (40, 40, 220), (210, 50, 50), (50, 50, 210), (40, 220, 40)]
    return [
        image.encode((np.array(shades[n % 5]) + rng.integers(-40, 35, (60, 80, 1))).clip(0, 255).astype(np.uint8))
        for n in range(count)
    ]


def champion(folder: Path) -> Path:
    """One that gave nine of ten held-out photographs the first class."""
    model = build_toy_model(folder)
    save_file(load_file(model / "ood.safetensors") | {"held_out_predicted": np.array([90, 10])}, model / "bank")
    (model / "bank").replace(model / "ood.safetensors")
    info = ModelInfo.read(model).model_copy(update={"ood_digest": sha256(model / "ood.safetensors")})
    (model / "model.json").write_text(info.model_dump_json())
    return model


def questions() -> dict[str, list[str]]:
    """Panel -> what it asks Prometheus."""
    asked = {
        one["title"]: [target["expr"] for target in one["targets"] if "expr" in target] for one in DASHBOARD["panels"]
    }
    return {
        title: [expr.replace("$__rate_interval", "10s").replace("$__range", "1h") for expr in exprs]
        for title, exprs in asked.items()
    }


def test_every_panel_shows_something_and_champion_and_challenger_stand_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    limits = {"mode": "shadow", "share": 1.0, "max_errors": 1.0, "max_slowdown": 1000.0}
    env = checkout(tmp_path / "clone", challenger=limits)
    models = champion(tmp_path / "champion"), build_toy_model(tmp_path / "challenger", version="4", scale=-50)
    env |= {"PAWPRINT_MODEL": str(models[0]), "PAWPRINT_CHALLENGER": str(models[1])}
    with (
        serving(tmp_path / "log", env, cwd=tmp_path / "clone") as (url, _),
        prometheus(tmp_path / "prometheus", url) as ask,
        httpx.Client(base_url=url, timeout=30) as client,
    ):

        def visit() -> None:
            for number, picture in enumerate(pictures(10)):
                answer = client.post("/predict", content=picture).json()
                said = answer["label"] if answer["label"] != "unknown" and number % 3 else "blue"
                assert client.post("/feedback", json={"id": answer["id"], "label": said}).status_code == 200
            files = [("image", (f"{n}.jpg", one)) for n, one in enumerate(pictures(3))]
            assert client.post("/predict/batch", files=files).status_code == 200
            assert client.post("/predict", content=b"no photograph").status_code == 415

        def empty() -> list[tuple[str, str]]:
            """(panel, question) that no number answers yet."""
            visit()  # a rate needs a change between two readings
            numbers = {
                (title, expr): [float(one["value"][1]) for one in ask(expr)]
                for title, exprs in questions().items()
                for expr in exprs
            }
            return [question for question, found in numbers.items() if not any(one == one for one in found)]

        left: list[tuple[str, str]] = []
        deadline = time.monotonic() + 90
        while left := empty():
            assert time.monotonic() < deadline, left
        for title, exprs in questions().items():
            if title.startswith("Champion beside challenger"):
                for expr in exprs:
                    assert {one["metric"]["role"] for one in ask(expr)} == {"champion", "shadow"}, expr
        # nine of ten were blue when it was tested, and half of what is answered is red
        ((shift,),) = [[float(one["value"][1]) for one in ask("pawprint:label_shift")]]
        assert 0.3 < shift < 0.5
        assert re.fullmatch(
            r"0\.\d+", str(ask(questions()["Challenger: share that agrees with the champion"][0])[0]["value"][1])
        )
