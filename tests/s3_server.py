"""A real S3 server over a folder, ended by its process id."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from service_process import free_port


@contextmanager
def s3(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve `root`, whose folders are buckets; the AWS_* variables name the server."""
    import s3fs

    port = free_port()
    package = find_spec("rclone_api")
    assert package and package.origin
    program = Path(package.origin).parent / "bin" / "rclone"
    # Tests change the folders behind the server's back. Not 0s: its timer of each folder would never rest, and one
    # request would take seconds of both cores.
    options = ("--auth-key", "key,secret", "--config", "/dev/null", "--dir-cache-time", "1ms")
    process = subprocess.Popen(
        [program, "serve", "s3", root, "--addr", f"127.0.0.1:{port}", *options], stderr=subprocess.DEVNULL
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        for _ in range(200):
            assert process.poll() is None, "rclone has ended: somebody else may have its port"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
        s3fs.S3FileSystem.clear_instance_cache()
