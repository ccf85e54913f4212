"""The client against a real service, and against one that is busy or gone."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pawprint.errors import PawprintError
from pawprint.serving.client import ask


@pytest.fixture
def files(tmp_path: Path, pictures: dict[str, bytes]) -> list[Path]:
    contents = [pictures["red"], b"no picture", pictures["blue"], pictures["green"]] * 5
    paths = [tmp_path / f"{number:02}.jpg" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return [*paths, tmp_path / "gone.jpg"]


def test_a_folder_is_answered_in_order(service: str, files: list[Path]) -> None:
    results = list(ask(service, files))
    assert [result.path for result in results] == files
    assert [result.answer and result.answer.label for result in results] == ["red", None, "blue", "neither"] * 5 + [
        None
    ]
    assert "not a picture" in results[1].error
    assert "cannot be read" in results[-1].error


def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="No service answers at"):
        list(ask("http://127.0.0.1:9", [tmp_path]))


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
    (result,) = ask(url, files[:1])
    assert given == [503, 503, 0, 200]
    assert "not its own" in result.error


def test_it_gives_up(busy: tuple[str, list[int]], files: list[Path]) -> None:
    url, given = busy
    (result,) = ask(url, files[:1], tries=2)
    assert given == [503, 503] and result.answer is None
