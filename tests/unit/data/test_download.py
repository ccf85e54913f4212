"""Downloads from a real server on this machine: it breaks off, has moved on, ignores ranges, sends wrong bytes."""

import hashlib
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pawprint.data import archives, download
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from photo_sources import KAGGLE, pets, tarred, unpacked, zipped
from s3_server import s3

PADDING = np.random.default_rng(2017).bytes(3 * 2**20)  # so that there is something to break off from


class Server(ThreadingHTTPServer):
    """Serves `body`; how badly is for the test to say."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/pets.zip"
        self.body = b""
        self.etag = '"1"'
        self.ranges = True  # does it know ranges?
        self.cuts: list[int] = []  # after so many bytes an answer breaks off, one a request
        self.status: list[int] = []  # answers that come instead, one a request
        self.kind = "application/zip"
        self.asked: list[str] = []  # the Range of each GET
        self.sent = 0
        self.endless = False  # no length is said, and there is none


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._head(200, len(self.server.body))

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.asked.append(asked)
        if server.status:
            self._head(server.status.pop(0), 0)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        body = server.body[start:]
        if start and not body:
            self._head(416, 0, f"bytes */{len(server.body)}")
            return
        part = f"bytes {start}-{len(server.body) - 1}/{len(server.body)}" if start else ""
        self._head(206 if start else 200, len(body), part)
        while server.endless:
            try:
                self.wfile.write(PADDING)
            except OSError:
                return
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        server.sent += len(body)

    def _head(self, status: int, length: int, part: str = "") -> None:
        self.send_response(status)
        if not self.server.endless:
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", self.server.kind)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of pets.zip; downloads go below tmp_path."""
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Server() as running:
        running.body = zipped(tmp_path / "served.zip", KAGGLE | {"padding.bin": PADDING}).read_bytes()
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def digest(server: Server) -> str:
    return hashlib.sha256(server.body).hexdigest()


def test_an_archive_is_downloaded_once_and_again_when_it_has_changed(server: Server, tmp_path: Path) -> None:
    data = tmp_path / "data"
    taken = ingest(f"{server.url}?token=secret", data)
    assert (taken.dataset.name, taken.added) == ("dogs-cats", 6)
    assert "secret" not in (data / "origins.csv").read_text() + (data / "dataset.json").read_text()
    assert f"{server.url}," in (data / "origins.csv").read_text()
    assert not ingest(f"{server.url}?token=secret", data).changed
    assert len(server.asked) == 1
    server.body, server.etag = zipped(tmp_path / "b.zip", pets(50, 5)).read_bytes(), '"2"'
    assert ingest(f"{server.url}?token=secret", data).added == 10
    server.status = [500] * 100  # what is here is used while the server is ill
    assert not ingest(f"{server.url}?token=secret", data).changed


@pytest.mark.parametrize("etag", ['"1"', ""])
def test_a_download_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path, etag: str) -> None:
    server.etag = etag
    server.cuts = [2**20, 2**19, 10]
    assert ingest(server.url, tmp_path / "data", sha256=digest(server)).added == 6
    assert server.asked == ["", f"bytes={2**20}-", f"bytes={2**20 + 2**19}-", f"bytes={2**20 + 2**19 + 10}-"]
    assert server.sent == len(server.body)


def test_without_checksum_and_validator_it_starts_anew(server: Server, tmp_path: Path) -> None:
    server.etag, server.cuts = "", [2**20]
    assert ingest(server.url, tmp_path / "data").added == 6
    assert server.asked == ["", ""]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [2**20, 0, 0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(PawprintError, match="run again to resume"):
        ingest(server.url, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    server.cuts, server.asked = [], []
    assert ingest(server.url, tmp_path / "data").added == 6
    assert server.asked == [f"bytes={2**20}-"]


def test_what_changed_in_the_meantime_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.cuts = [2**20, *[0] * 8]
    with pytest.raises(PawprintError):
        ingest(server.url, tmp_path / "data")
    server.cuts, server.etag = [], '"2"'
    server.body = zipped(tmp_path / "other.zip", pets(50, 2) | {"padding.bin": PADDING[::-1]}).read_bytes()
    assert ingest(server.url, tmp_path / "data").added == 4


def test_a_server_that_knows_no_ranges_sends_it_whole_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [2**20, 2**21]
    assert ingest(server.url, tmp_path / "data").added == 6
    assert server.sent == 2**20 + 2**21 + len(server.body)


def test_a_download_that_was_killed_when_it_was_whole_is_not_repeated(server: Server, tmp_path: Path) -> None:
    server.cuts = [len(server.body) - 5, *[0] * 8]
    with pytest.raises(PawprintError):
        ingest(server.url, tmp_path / "data")
    partial = next((tmp_path / "cache" / "downloads").glob("*.partial"))
    partial.write_bytes(server.body)
    server.cuts, server.sent = [], 0
    assert ingest(server.url, tmp_path / "data").added == 6
    assert server.sent == 0


REFUSED = {
    "404": ({"status": [404]}, "404 Not Found"),
    "503 for good": ({"status": [503] * 9}, "503 Service Unavailable"),
    "a login page": ({"kind": "text/html; charset=utf-8"}, "a web page"),
    "no archive": ({"body": b"hello"}, "no zip or tar"),
    "an archive that is cut short": ({"body": PADDING[:5000]}, "no zip or tar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_a_sentence_and_data_stays(server: Server, tmp_path: Path, name: str) -> None:
    changes, output = REFUSED[name]
    for key, value in changes.items():
        setattr(server, key, value)
    unpacked(tmp_path / "data", pets())
    with pytest.raises(PawprintError, match=output) as refused:
        ingest(server.url, tmp_path / "data")
    assert "\n" not in str(refused.value)
    assert len(server.asked) == (download.TRIES if "503" in name else 1)
    assert not (tmp_path / "data" / "dataset.json").exists()


def test_a_server_that_is_ill_for_a_moment_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    assert ingest(server.url, tmp_path / "data").added == 6


def test_what_turned_out_to_be_no_archive_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    right, server.body = server.body, b"busy, come back later"
    with pytest.raises(PawprintError, match="no zip or tar"):
        ingest(server.url, tmp_path / "data")
    server.body = right  # under the same ETag
    assert ingest(server.url, tmp_path / "data").added == 6


def test_wrong_bytes_are_not_taken_and_not_kept(server: Server, tmp_path: Path) -> None:
    right, server.body = digest(server), server.body[:-9] + b"\0" + server.body[-8:]
    with pytest.raises(PawprintError, match="another checksum"):
        ingest(server.url, tmp_path / "data", sha256=right)
    assert not (tmp_path / "data").exists()
    server.body = (tmp_path / "served.zip").read_bytes()
    assert ingest(server.url, tmp_path / "data", sha256=right).added == 6


def test_what_never_ends_is_stopped_before_the_disk_is_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.endless = True
    monkeypatch.setattr(download, "RESERVE", shutil.disk_usage(tmp_path).free - 50 * 2**20)
    with pytest.raises(PawprintError, match="does not say its length and does not end after") as refused:
        ingest(server.url, tmp_path / "data")
    server.endless = False
    assert "\n" not in str(refused.value)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.stat().st_size > 1000]
    assert not (tmp_path / "data").exists()


def test_a_public_set_knows_its_url_and_checksum(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.body = tarred(
        tmp_path / "images.tar.gz",
        {"images/Bengal_1.jpg": pets()["cat/0.jpg"], "images/pug_1.jpg": pets()["dog/0.jpg"]},
    ).read_bytes()
    real = download.PUBLIC["oxford-iiit-pet"]
    assert real.url.startswith("https://www.robots.ox.ac.uk/") and real.checksum
    monkeypatch.setitem(download.PUBLIC, "oxford-iiit-pet", download.Public(server.url, real.checksum))
    with pytest.raises(PawprintError, match="another checksum than md5:5c4f3ee8"):
        ingest("oxford-iiit-pet", tmp_path / "data")
    monkeypatch.setitem(download.PUBLIC, "oxford-iiit-pet", download.Public(server.url, f"sha256:{digest(server)}"))
    assert ingest("oxford-iiit-pet", tmp_path / "data").dataset.name == "oxford-iiit-pet"
    assert "oxford-iiit-pet,images/Bengal_1.jpg,Bengal" in (tmp_path / "data" / "origins.csv").read_text()


def test_nobody_there_and_no_room_are_sentences(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(PawprintError, match="cannot be downloaded"):
            ingest(f"http://127.0.0.1:{closed.getsockname()[1]}/pets.zip", tmp_path / "data")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PawprintError, match="the disk has 1,000 left"):
        ingest(server.url, tmp_path / "data")


def test_archives_and_folders_come_from_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = tmp_path / "buckets" / "photos"
    unpacked(bucket / "garden", pets())
    zipped(bucket / "train.zip", KAGGLE | {"padding.bin": PADDING})
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.01)
    data = tmp_path / "data"
    with s3(tmp_path / "buckets", monkeypatch):
        assert ingest("s3://photos/train.zip", data).dataset.name == "dogs-cats"
        assert not ingest("s3://photos/train.zip", data).changed
        # what is here is not fetched again: nothing of the first half is looked at, so zeros in it stay
        whole = download.local("s3://photos/train.zip").path
        half = len(content := whole.read_bytes()) // 2
        whole.rename(f"{whole}.partial").write_bytes(bytes(half))
        assert download.local("s3://photos/train.zip").path.read_bytes() == bytes(half) + content[half:]
        whole.unlink()
        taken = ingest("s3://photos/garden", data)
        assert (taken.dataset.name, taken.added) == ("garden", 6)
        unpacked(bucket / "garden", {"cat/0.jpg": pets(40)["cat/0.jpg"]})  # changed there
        (bucket / "garden" / "dog" / "2.jpg").unlink()
        assert ingest("s3://photos/garden/", data).added == 5
        assert (data / "cat" / "0.jpg").read_bytes() == pets(40)["cat/0.jpg"]
        with pytest.raises(PawprintError, match="does not exist"):
            ingest("s3://photos/nothing.zip", data)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(PawprintError, match="AWS_ACCESS_KEY_ID"):
            ingest("s3://photos/train.zip", data)
