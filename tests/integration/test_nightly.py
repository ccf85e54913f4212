"""What the worker does each night with the service's traffic: harvest, and by the rule a review or a training."""

import csv
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import make_sample
import mlflow
import numpy as np
import pytest
import yaml
from prefect.logging import disable_run_logger
from safetensors.numpy import load_file, save_file

from flows import git_sync, loop
from pawprint import dvc
from pawprint.data import ingest
from pawprint.data.inbox import Inbox
from pawprint.data.labels import Labels
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import sha256
from pawprint.serving.kept import PictureStore
from pawprint.serving.traffic import Record, TrafficLog
from photo_sources import small
from team import listening
from toy import build_toy_model, prediction
from workspace import PROJECT


def run(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=Ann", "-c", "user.email=a@example.org") if words[0] == "git" else ()
    done = subprocess.run([words[0], *who, *words[1:]], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    received: list[dict[str, str]] = []
    with listening(received) as server:
        monkeypatch.setenv("PAWPRINT_NOTIFY", f"json://127.0.0.1:{server.server_port}/room")
        yield received
        server.shutdown()


@pytest.fixture
def settings(tmp_path: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[git_sync.Settings]:
    """A repository, the worker's clone of it with photographs and a champion, and a traffic log."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PAWPRINT_TRAFFIC", str(tmp_path / "traffic"))
    origin, first = tmp_path / "origin", tmp_path / "first"
    run(tmp_path, "git", "init", "-q", "--bare", "-b", "main", str(origin))
    first.mkdir()
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["loop"] |= {"decisions": 3, "photographs": 30}
    (first / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(PROJECT / ".gitignore", first)
    make_sample.write(first / "source", per_class=8)
    ingest.ingest(first / "source", first / "data", "pets")
    shutil.rmtree(first / "source")
    run(first, "git", "init", "-q", "-b", "main")
    run(first, sys.executable, "-m", "dvc", "init", "-q")
    run(first, sys.executable, "-m", "dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"))
    dvc.add(first)
    run(first, sys.executable, "-m", "dvc", "push", "-q")
    run(first, "git", "add", "-A")
    run(first, "git", "commit", "-qm", "first")
    run(first, "git", "push", "-q", str(origin), "main")
    found = git_sync.Settings(str(origin), "main", str(tmp_path / "clone"))
    git_sync.prepare(found)
    dvc.pull(found.root, "data.dvc")
    shutil.copy(empty_runs, found.root / "mlflow.db")
    model = build_toy_model(found.root / "champion")
    bank = load_file(model / "ood.safetensors") | {"held_out": np.random.default_rng(1).normal(size=(60, 8))}
    save_file(bank, model / "ood.safetensors")
    info = ModelInfo.read(model).model_copy(update={"ood_digest": sha256(model / "ood.safetensors")})
    (model / "model.json").write_text(info.model_dump_json())
    monkeypatch.setattr(loop, "ROOT", found.root)
    monkeypatch.setattr(loop, "ASKED", found.root / "cache" / "asked.json")
    monkeypatch.setattr(loop, "TRAINED", found.root / "cache" / "trained.txt")
    with disable_run_logger():
        yield found


def serve(settings: git_sync.Settings, shift: float, count: int = 40) -> None:
    """Pictures that the champion was sent, `shift` away from the held-out ones."""
    folder = settings.root.parent / "traffic"
    log = TrafficLog(folder / "pawprint-colours.db", 1000, PictureStore(folder / "pictures", 30, 100))
    rng = np.random.default_rng(2)
    digest = ModelInfo.read(settings.root / "champion").model_digest
    for number in range(count):
        picture = small(number)
        one = prediction(f"a{number}", digest=digest)
        embedding = (rng.normal(size=8) + shift).astype(np.float32)
        log.add(Record.of(one, time.time(), hashlib.sha256(picture).hexdigest(), embedding), picture)
    log.close()


def decide(settings: git_sync.Settings, count: int) -> Labels:
    """Of so many cats Ann says that they are dogs."""
    with (settings.root / "data" / "origins.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("cat/")]
    labels = Labels(settings.root / "labels.csv")
    is_test = loop.corrections.on_test_side(settings.root / "data", loop.load_params(settings.root / "params.yaml"))
    labels.add([row["hash"] for row in rows if not is_test(row["hash"])][:count], "class", "dog", "Ann", "audit")
    return labels


def test_traffic_is_harvested_and_drift_starts_a_review_once_whose_reason_stands_in_its_run(
    settings: git_sync.Settings, notified: list[dict[str, str]]
) -> None:
    serve(settings, shift=0)
    decide(settings, 2)
    assert loop.look(settings) == ""
    assert len(list(Inbox(settings.root / "inbox"))) == 40 and notified == []
    assert run(settings.root, "git", "log", "--format=%s") == "first\n"
    shutil.rmtree(settings.root.parent / "traffic")
    (settings.root / "labels.csv").unlink()
    serve(settings, shift=3)
    assert (loop.look(settings), loop.look(settings)) == ("", "")
    assert [one["title"] for one in notified] == ["pawprint: review what pawprint-colours/3 was sent"]
    assert "drift: told apart in" in notified[0]["message"] and "40 photographs wait" in notified[0]["message"]
    mlflow.set_tracking_uri(f"sqlite:///{settings.root / 'mlflow.db'}")
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert found.data.params["reason"].startswith("drift: told apart in")
    assert found.data.metrics["drift_separation"] > 0.7


def harvested(settings: git_sync.Settings, count: int) -> list[str]:
    """Of so many photographs that the worker harvested Ann says that they are dogs; their hashes."""
    serve(settings, shift=0)
    loop.take()
    is_test = loop.corrections.on_test_side(settings.root / "data", loop.load_params(settings.root / "params.yaml"))
    found = [one.hash for one in Inbox(settings.root / "inbox") if not is_test(one.hash)][:count]
    Labels(settings.root / "labels.csv").add(found, "class", "dog", "Ann", "harvest")
    return found


def test_photographs_of_the_traffic_outlive_a_push_that_is_refused_and_a_worker_that_is_killed(
    settings: git_sync.Settings, notified: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set(harvested(settings, 3))
    hook = Path(settings.repository) / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    assert loop.look(settings) == ""
    hook.unlink()

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for where, what in ((dvc, "add"), (dvc, "push"), (git_sync, "publish")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(where, what, kill)
            loop.look(settings)
        git_sync.prepare(settings)
        dvc.pull(settings.root, "data.dvc")
    publish = git_sync.publish

    def published(*given: object) -> None:
        publish(*given)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(git_sync, "publish", published)
        loop.look(settings)
    git_sync.prepare(settings)
    dvc.pull(settings.root, "data.dvc")
    assert loop.look(settings) == "3 decisions of Ann"  # the run that goes on has the reason of the one that was killed
    with (settings.root / "data" / "origins.csv").open(newline="") as file:
        assert found <= {row["hash"] for row in csv.DictReader(file) if row["file"].startswith("dog/")}
    loop.trained(settings)
    assert loop.look(settings) == ""


def test_enough_decisions_become_the_branch_s_next_version_or_people_are_told(
    settings: git_sync.Settings, notified: list[dict[str, str]], tmp_path: Path
) -> None:
    before = (settings.root / "data.dvc").read_text()
    hook = Path(settings.repository) / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    decide(settings, 3)
    assert loop.look(settings) == ""
    assert "3 decisions of Ann wait: `pawprint photos apply`, commit and push" in notified.pop()["message"]
    assert (settings.root / "data.dvc").read_text() == before
    assert not dvc.status(settings.root)

    # What somebody else decides meanwhile, and pushes, comes beside it.
    hook.unlink()
    theirs = tmp_path / "first" / "labels.csv"
    Labels(theirs).add(["f" * 64], "drop", "", "Bob", "audit")
    run(theirs.parent, "git", "add", "-A")
    run(theirs.parent, "git", "commit", "-qm", "theirs")
    run(theirs.parent, "git", "push", "-q", settings.repository, "main")
    git_sync.prepare(settings)
    assert {one.who for one in Labels(settings.root / "labels.csv").standing().values()} == {"Ann", "Bob"}
    assert loop.look(settings) == "3 decisions of Ann, Bob"
    shown = run(Path(settings.repository), "git", "show", "--stat", "--format=%an %s", "main")
    assert shown.startswith("pawprint 3 decisions of Ann, Bob") and "labels.csv" in shown and "data.dvc" in shown
    assert (settings.root / "data.dvc").read_text() != before
    git_sync.prepare(settings)  # nothing in the clone is in the way of the next night
    assert "are in sync" in run(settings.root, sys.executable, "-m", "dvc", "status", "-c")
    assert loop.look(settings) == "3 decisions of Ann, Bob"  # a run that goes on for this one has its reason
    loop.trained(settings)
    assert loop.look(settings) == ""

    serve(settings, shift=3)  # with drift fewer are enough
    decide(settings, 1)
    assert loop.look(settings).startswith("1 decision of Ann, Bob; drift: told apart in")
    assert notified == []
