"""`pawprint doctor` against things that are really wrong: a dead server, a taken port, wrong keys."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from pawprint import dvc
from pawprint.cli import doctor
from service_process import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-team", "AWS_SECRET_ACCESS_KEY": "secret-of-the-team"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server with the bucket `dvc`."""
    package = find_spec("rclone_api")
    assert package
    assert package.origin
    program = Path(package.origin).parent / "bin" / "rclone"
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    (folder / "dvc").mkdir()
    keys = ",".join(KEYS.values())
    command = [
        program,
        "serve",
        "s3",
        folder,
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        keys,
        "--config",
        os.devnull,
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def settings(endpoint: str, **keys: str) -> dict[str, str]:
    return {"url": "s3://dvc/pawprint", "endpointurl": endpoint, **keys}


def test_a_dvc_remote_answers_refuses_or_is_away(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert doctor.bucket("team", settings(s3)).state == "ok"

    missing = doctor.bucket("team", {"url": "s3://nothing/here", "endpointurl": s3})
    assert (missing.state, "no such bucket" in missing.found) == ("fail", True)

    away = doctor.bucket("team", settings(f"http://127.0.0.1:{free_port()}"))
    assert away.state == "fail"
    assert "does not answer" in away.found

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = doctor.bucket("team", settings(s3))
    assert refused.state == "fail"
    assert "refuses these keys" in refused.found
    assert "AWS_SECRET_ACCESS_KEY" in refused.remedy


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = doctor.port(port, "make serve PORT=3001", set())
        assert (finding.state, finding.remedy) == ("warn", "make serve PORT=3001")
        assert doctor.port(port, "", {port}).state == "ok"  # one's own server
    assert doctor.port(port, "", set()).state == "ok"


def test_dead_servers_end_it_with_1_and_no_password_is_shown(tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_port()}"
    (tmp_path / ".env").write_text("MLFLOW_ADMIN_PASSWORD=x\n")
    (tmp_path / ".env").chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-c", "from pawprint.cli.main import main; main()", "doctor", "--json"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path),
            "MLFLOW_TRACKING_URI": f"http://me:hidden@{dead}",
            "PREFECT_API_URL": f"http://{dead}/api",
            "PAWPRINT_SERVICE": f"http://{dead}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "hidden" not in done.stdout
    found = {line["name"]: line for line in json.loads(done.stdout)}
    for name in ("mlflow server", "prefect server", "service"):
        assert found[name]["state"] == "fail"
        assert "does not answer" in found[name]["said"]
    assert found[".env"]["remedy"] == "chmod 600 .env"
    assert found["python"]["state"] == "ok"


def test_a_lock_that_was_not_followed_is_seen(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("dvc==0.1 \\\n    --hash=sha256:0\n")
    (dvc,) = (finding for finding in doctor.packages(lock) if finding.name == "dvc")
    assert (dvc.state, "the lock says 0.1" in dvc.found) == ("warn", True)


def test_a_folder_as_remote_must_be_there(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    assert doctor.remote(tmp_path).found.startswith("none")
    words = ["remote", "add", "--default", "disk", str(tmp_path / "store")]
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True, capture_output=True)
    assert dvc.remote(tmp_path, "disk")["url"] == str(tmp_path / "store")
    assert doctor.remote(tmp_path).state == "fail"
    (tmp_path / "store").mkdir()
    assert doctor.remote(tmp_path).state == "ok"
    shutil.rmtree(tmp_path / "store")


def test_a_dvc_lock_that_was_cut_off_is_named(tmp_path: Path) -> None:
    assert doctor.lockfile(tmp_path).state == "ok"
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert doctor.lockfile(tmp_path).state == "ok"
    (tmp_path / "dvc.lock").write_text("")
    assert doctor.lockfile(tmp_path).state == "fail"
    assert "pawprint run" in doctor.lockfile(tmp_path).remedy
