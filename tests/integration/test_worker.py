"""What the worker relies on: a clone that loses no work, a locked workspace, an atomic rollout, safe notifications."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import git_sync, notifications, rollout
from pawprint import dvc
from pawprint.errors import PawprintError
from pawprint.lineage import RECORDS
from team import listening
from toy import build_toy_model


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path, **files: str) -> str:
    for name, content in files.items():
        (root / name.replace("__", ".")).write_text(content)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "change")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def settings(tmp_path: Path) -> git_sync.Settings:
    """A repository with a commit, and a clone of it."""
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "-q", "-b", "main")
    (origin / ".dvc").mkdir()
    (origin / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n")
    commit(origin, data__dvc="1", dvc__lock="a: 1\n", metrics__json="1", code__py="1")
    found = git_sync.Settings(str(origin), "main", str(tmp_path / "clone"), "s3://bucket/store")
    git_sync.prepare(found)
    return found


def test_the_clone_follows_its_branch_and_keeps_what_its_own_runs_wrote(settings: git_sync.Settings) -> None:
    origin, root = Path(settings.repository), settings.root
    for name in RECORDS:
        (root / name).write_text("a: of this workspace\n")
    newer = commit(origin, code__py="2", dvc__lock="a: 2\n")
    assert git_sync.prepare(settings) == newer
    assert (root / "code.py").read_text() == "2"
    assert {(root / name).read_text() for name in RECORDS} == {"a: of this workspace\n"}
    git(origin, "commit", "-q", "--amend", "-m", "another history")  # a branch that was pushed with force
    assert git_sync.prepare(settings) == git(origin, "rev-parse", "HEAD")
    config = (root / ".dvc" / "config.local").read_text()
    assert "s3://bucket/store" in config


def test_new_photographs_are_known_by_the_commit_that_brought_them(settings: git_sync.Settings) -> None:
    origin = Path(settings.repository)
    first = git_sync.data_commit(settings)
    commit(origin, code__py="2")
    git_sync.fetch(settings)
    assert git_sync.data_commit(settings) == first
    second = commit(origin, data__dvc="2")
    git_sync.fetch(settings)
    assert git_sync.data_commit(settings) == second != first


def test_work_in_the_clone_is_never_lost(settings: git_sync.Settings) -> None:
    origin, root = Path(settings.repository), settings.root
    commit(origin, code__py="2")
    (root / "code.py").write_text("somebody's")
    with pytest.raises(PawprintError, match=r"changed files in the worker's workspace .*: code\.py"):
        git_sync.prepare(settings)
    made_here = commit(root, code__py="somebody's")
    with pytest.raises(PawprintError, match="1 commits that are not on the branch main"):
        git_sync.prepare(settings)
    assert git(root, "rev-parse", "HEAD") == made_here
    git(root, "reset", "-q", "--hard", "origin/main")
    git_sync.prepare(settings)


def test_a_repository_that_is_not_there_is_a_sentence_without_its_password(tmp_path: Path) -> None:
    away = git_sync.Settings("http://me:hidden@127.0.0.1:9/x.git", "main", str(tmp_path / "clone"))
    with pytest.raises(PawprintError, match=r"git clone .*http://127\.0\.0\.1:9/x\.git") as caught:
        git_sync.prepare(away)
    assert "hidden" not in str(caught.value)
    (tmp_path / "clone" / "thesis.txt").write_text("mine")
    with pytest.raises(PawprintError, match="holds files and is no git clone"):
        git_sync.prepare(away)


def test_the_workspace_is_for_one_and_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    code = "import pathlib, time; from pawprint import dvc\n"
    code += "with dvc.lock(pathlib.Path('.')): print('in', flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(Path(dvc.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(PawprintError, match=rf"process {other.pid}\) works in"), dvc.lock(tmp_path):
            pass
        other.kill()
    rwlock = tmp_path / ".dvc" / "tmp" / "rwlock"
    for left in ('{"write": {"data": {"pid": 1', json.dumps({"write": {"data": {"pid": other.pid, "cmd": "dvc"}}})):
        rwlock.write_text(left)
        with dvc.lock(tmp_path, patience=5):
            assert not rwlock.exists()
    mine = json.dumps({"read": {"data": [{"pid": os.getpid(), "cmd": "dvc"}]}})
    rwlock.write_text(mine)
    with dvc.lock(tmp_path), dvc.lock(tmp_path):
        assert rwlock.read_text() == mine


def test_a_run_that_is_stopped_takes_its_stages_with_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    stage = "import os, time; print('at work', os.getpid(), flush=True); time.sleep(300)"
    (tmp_path / "stage.py").write_text(stage)
    (tmp_path / "dvc.yaml").write_text("stages:\n  long:\n    cmd: python stage.py\n    outs: [out]\n")
    lines = dvc.repro(tmp_path)
    pid = next(int(line.split()[-1]) for line in lines if line.startswith("at work"))
    began = time.monotonic()
    lines.close()
    assert time.monotonic() - began < dvc.PATIENCE  # Ctrl-C was enough
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    (tmp_path / "stage.py").write_text("open('out', 'w').close()")
    list(dvc.repro(tmp_path))


def test_a_champion_is_delivered_whole_and_a_few_before_it_stay(tmp_path: Path) -> None:
    place = tmp_path / "deliver"
    for number in range(5):
        champion = build_toy_model(tmp_path / str(number), version=str(number), scale=40 + number)
        rollout.put(champion, place, f"digest{number}")
        rollout.put(champion, place, f"digest{number}")
        assert json.loads((place / "champion" / "champion.json").read_text())["version"] == str(number)
    assert (place / "champion").readlink() == Path("versions/digest4")  # wherever the folder is mounted
    assert {path.name for path in (place / "versions").iterdir()} == {"digest2", "digest3", "digest4"}
    rollout.put(build_toy_model(tmp_path / "5", version="5"), place, "other", "challenger")
    for number in (5, 6, 7):
        rollout.put(champion, place, f"digest{number}")
    assert json.loads((place / "challenger" / "champion.json").read_text())["version"] == "5"  # not the oldest to go


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address of apprise's that is listened to, and the notifications that it received."""
    received: list[dict[str, str]] = []
    with listening(received) as server:
        yield f"json://user:hidden@127.0.0.1:{server.server_port}/room", received
        server.shutdown()


def test_people_are_notified_and_no_secret_is_written(
    receiver: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    address, received = receiver
    monkeypatch.setenv(
        "PAWPRINT_NOTIFY", f"json://user:hidden@127.0.0.1:9/x {address} nonsense://hidden jsons://[hidden"
    )
    assert not notifications.send("pawprint failed", "for a reason")
    assert [(one["title"], one["message"]) for one in received] == [("pawprint failed", "for a reason")]
    printed = "".join(capfd.readouterr())
    assert "address 1 (json) could not be reached" in printed
    assert "address 3 (nonsense) is no address that apprise knows" in printed
    assert "hidden" not in printed
