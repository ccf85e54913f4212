"""A stand-in for a hub of models, on a free port: the part of its protocol that fetching one file needs."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server answers with; a test changes it while it runs."""

    files: dict[str, bytes]  # "owner/name" -> model.safetensors
    licence: str = "apache-2.0"
    said_digest: str = ""  # what the hub says of the file, where that is not its SHA-256
    cut_after: int = 0  # bytes, in every answer; 0 never cuts
    url: str = ""
    asked: list[str] = field(default_factory=list)  # paths, and the range of each download


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            if about := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
                self._about(about[1])
            elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/model\.safetensors", path):
                self._file(file[1])
            else:
                self._answer(404, b"{}")

        def _about(self, repository: str) -> None:
            if (content := hub.files.get(repository)) is None:
                return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            digest, size = hub.said_digest or hashlib.sha256(content).hexdigest(), len(content)
            lfs = {"sha256": digest, "size": size, "pointerSize": 134}
            found = {"rfilename": "model.safetensors", "size": size, "blobId": "0" * 40, "lfs": lfs}
            card = {"license": hub.licence} if hub.licence else {}
            text = {"id": repository, "modelId": repository, "sha": REVISION, "siblings": [found], "cardData": card}
            return self._answer(200, json.dumps(text | {"tags": []}).encode())

        def _file(self, repository: str) -> None:
            content = hub.files[repository]
            digest = hub.said_digest or hashlib.sha256(content).hexdigest()
            headers = {"X-Repo-Commit": REVISION, "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"'}
            headers |= {"X-Linked-Size": str(len(content)), "Accept-Ranges": "bytes"}
            start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206 if start else 200, content[start:], headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = hub.cut_after if "/resolve/" in self.path else 0
            self.wfile.write(body[:cut] if cut else body)
            if 0 < cut < len(body):
                self.wfile.flush()
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
