"""The client against a real service, and against one that is busy or gone."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pawprint.errors import PawprintError
from pawprint.serving.client import predict


@pytest.fixture
def files(tmp_path: Path, pictures: dict[str, bytes]) -> list[Path]:
    contents = [pictures["red"], b"no photograph", pictures["blue"], pictures["green"]] * 5
    paths = [tmp_path / f"{number:02}.jpg" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return [*paths, tmp_path / "gone.jpg"]


def test_a_folder_is_answered_in_order(service: str, files: list[Path]) -> None:
    results = list(predict(service, files))
    assert [result.path for result in results] == files
    assert [result.classification and result.classification.label for result in results] == [
        "red",
        None,
        "blue",
        "unknown",
    ] * 5 + [None]
    assert "not a photograph" in results[1].error
    assert "cannot be read" in results[-1].error


def pawprint(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "predict", *words]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_the_same_with_and_without_a_service(service: str, toy_model: Path, files: list[Path]) -> None:
    asked = pawprint("--json", "--url", service, *map(str, files))
    alone = pawprint("--json", "--model", str(toy_model), *map(str, files))
    assert (asked.returncode, asked.stderr) == (alone.returncode, alone.stderr) == (1, "")
    output, known = ([json.loads(line) for line in done.stdout.splitlines()] for done in (asked, alone))
    assert [answer["path"] for answer in output] == [str(path) for path in files]
    assert output == known
    refused = output[3]
    assert (
        refused["refusal"] == "unlike" and refused["label"] == "unknown" and "training photographs" in refused["reason"]
    )
    assert refused["typicality"] < output[0]["typicality"]
    assert output[0]["model"] == json.loads((toy_model / "model.json").read_bytes())["model_digest"]


def test_a_folder_is_asked_for_in_words(service: str, files: list[Path]) -> None:
    done = pawprint("--url", service, "--concurrency", "2", str(files[0].parent))
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 15
    assert done.stdout.startswith(f"{files[0]}: red (red 9")  # the most probable first
    assert done.stderr.splitlines()[0].startswith(f"{files[1]}: error: the file is not a photograph")


def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="No service answers at"):
        list(predict("http://127.0.0.1:9", [tmp_path]))
    for address in ("http://[", "localhost:3000", "http://a..b"):
        with pytest.raises(PawprintError, match=r"is not an address|No service answers at"):
            list(predict(address, [tmp_path]))


def test_another_server_is_one_sentence(service: str, tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match=r"is not this service .*404"):
        list(predict(f"{service}/page.css", [tmp_path]))


def test_who_stops_early_does_not_wait_for_the_rest(service: str, files: list[Path]) -> None:
    answers = predict(service, files * 500, concurrency=2)
    assert next(answers).classification
    started = time.monotonic()
    answers.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 2


@pytest.fixture
def busy() -> Iterator[tuple[str, list[int]]]:
    """(url, statuses given) of a server that is busy twice, hangs up once, then talks of something else."""
    given: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            given.append(503 if len(given) < 2 else 0 if len(given) == 2 else 200)
            if given[-1]:
                self.send_response(given[-1])
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", given
    server.shutdown()
    server.server_close()


def test_it_asks_again(busy: tuple[str, list[int]], files: list[Path]) -> None:
    url, given = busy
    (result,) = predict(url, files[:1])
    assert given == [503, 503, 0, 200]
    assert "not one of this service" in result.error


def test_it_gives_up(busy: tuple[str, list[int]], files: list[Path]) -> None:
    url, given = busy
    (result,) = predict(url, files[:1], tries=2)
    assert given == [503, 503] and result.classification is None
