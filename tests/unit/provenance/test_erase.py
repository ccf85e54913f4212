"""A photograph is erased: afterwards no file of the project, its remote or the traffic log holds its bytes."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import make_sample
import numpy as np
import pytest
from safetensors.numpy import save_file

from pawprint import dvc, image
from pawprint.config import load_params
from pawprint.data import ingest, origins
from pawprint.data.build import prepare
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.provenance import erase as erasing
from pawprint.serving import bento
from pawprint.serving.kept import PictureStore
from pawprint.serving.schema import ABOUT, About, Example
from pawprint.serving.traffic import Record, TrafficLog
from pawprint.tracking.tracker import Tracker
from prepared_set import ROOT
from toy import build_toy_model, prediction

FILE = "cat/003.jpg"


def run(folder: Path, *words: str) -> None:
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two versions of its data, both pushed, a prepared set, features, a model and a traffic log."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PAWPRINT_TRAFFIC", str(tmp_path / "traffic"))
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    shutil.copy(empty_runs, root / "mlflow.db")
    make_sample.write(root / "source", per_class=15)
    ingest.ingest(root / "source", root / "data", "pets")
    shutil.rmtree(root / "source")
    run(root, "git", "init", "-q")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    run(root, sys.executable, "-m", "dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"))
    dvc.add(root)
    run(root, sys.executable, "-m", "dvc", "push", "-q", "data.dvc")
    (root / "data/cat/000.jpg").unlink()
    dvc.add(root)
    run(root, sys.executable, "-m", "dvc", "push", "-q", "data.dvc")
    prepare(ingest.dataset(root / "data"), root / "data", root / "prepared", load_params(ROOT / "params.yaml"))
    digest = hashlib.sha256((root / "data" / FILE).read_bytes()).hexdigest()
    (root / "cache" / "features" / "x").mkdir(parents=True)
    rows = np.frombuffer(bytes.fromhex(digest), np.uint8)[None]
    save_file({"hashes": rows.copy(), "features": np.ones((1, 4), np.float32)}, root / "cache/features/x/1.safetensors")
    model = build_toy_model(root / "models" / "toy")
    (model / "photographs.txt").write_text(f"{digest}\n")
    (root / "reports" / "releases").mkdir(parents=True)
    (root / "reports" / "test.csv").write_text(f"hash\n{digest}\n")
    (root / "reports" / "releases" / "card.md").write_text("a release")
    log = TrafficLog(tmp_path / "traffic" / "pets.db", 100, PictureStore(tmp_path / "traffic" / "pictures", 30, 100))
    for id, picture in (("a", (root / "data" / FILE).read_bytes()), ("b", (root / "data/dog/001.jpg").read_bytes())):
        sha256 = hashlib.sha256(picture).hexdigest()
        log.add(Record.of(prediction(id), time.time(), sha256, np.ones(4, np.float32)), picture)
        assert asyncio.run(log.feedback(id, "cat"))
    log.close()
    return root


def holding(folder: Path, *contents: bytes) -> list[str]:
    """Every file below `folder` that has one of the contents in it."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path.relative_to(folder)) for path in files if any(one in path.read_bytes() for one in contents)]


def test_nothing_of_it_is_left_and_the_others_are(project: Path, tmp_path: Path) -> None:
    photograph = (project / "data" / FILE).read_bytes()
    digest, packed = hashlib.sha256(photograph).hexdigest(), image.pack(photograph)
    before = holding(tmp_path, photograph, packed)
    assert len(before) >= 5, before  # data/, DVC's cache, the remote, a shard, the kept picture
    logs = [tmp_path / "traffic" / "pets.db"]
    places = erasing.find(project, digest, logs)
    assert holding(tmp_path, photograph, packed) == before  # a dry run
    assert "found" in erasing.report(digest, places, dry=True)
    assert erasing.erase(places), erasing.report(digest, places)
    told = erasing.report(digest, places)
    for what in (
        "files of data/",
        "DVC's cache",
        "remote `team`",
        "prepared/",
        "cache/features",
        "traffic log pets.db",
    ):
        assert what in told
    assert "ERASED      model folders that learned from it: models/toy" in told
    assert not (project / "models" / "toy").exists()
    assert holding(tmp_path, photograph, packed) == []
    assert digest.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "traffic").glob("pets.db*"))
    assert [path.name for path in (project / "reports").rglob("*") if path.is_file()] == ["card.md"]
    # the others are there, also in the remote
    other = (project / "data/dog/001.jpg").read_bytes()
    assert any(one.startswith("remote/") for one in holding(tmp_path, other))
    assert PictureStore(tmp_path / "traffic" / "pictures").read(hashlib.sha256(other).hexdigest()) == other
    assert len(list(origins.read_rows(project / "data"))) == 29
    # and its source does not bring it back
    make_sample.write(tmp_path / "source", per_class=15)
    (tmp_path / "source" / "dataset.json").unlink()
    result = ingest.ingest(tmp_path / "source", project / "data", add=True)
    assert result.dropped == 1 and holding(project, photograph) == []
    with pytest.raises(PawprintError, match="is nowhere here"):
        erasing.find(project, "0" * 64, logs)


def test_versions_that_learned_from_it_go_but_for_the_champion_and_plots_that_show_it(
    project: Path, tmp_path: Path
) -> None:
    digest = hashlib.sha256((project / "data" / FILE).read_bytes()).hexdigest()
    tracker = Tracker(project)
    client, names = tracker.client, []
    experiment = client.create_experiment("pets", artifact_location=str(tmp_path / "artifacts"))
    client.create_registered_model("pawprint-pets")
    for number in (1, 2, 3):
        model = build_toy_model(tmp_path / f"toy{number}", version=str(number), scale=50 + number)
        learned = "f" * 64 if number == 3 else digest
        (model / "photographs.txt").write_text(f"{learned}\n")
        run_id = client.create_run(experiment).info.run_id
        client.log_artifacts(run_id, str(model), "folder")
        (tmp_path / "test.csv").write_text(f"hash\n{digest}\n")
        (tmp_path / "mistakes.png").write_bytes(b"its pixels")
        for name in ("test.csv", "mistakes.png"):
            client.log_artifact(run_id, str(tmp_path / name), "evaluation")
        tags = {"model_digest": ModelInfo.read(model).model_digest, "bento.pawprint/none": "0"}
        client.create_model_version("pawprint-pets", source=str(model), run_id=run_id, tags=tags)
        names.append(run_id)
    client.set_registered_model_alias("pawprint-pets", "champion", "2")

    def left(run_id: str) -> set[str]:
        return {str(path.relative_to(tmp_path / "artifacts" / run_id / "artifacts")) for path in (
            tmp_path / "artifacts" / run_id).rglob("*") if path.is_file()}  # fmt: skip

    places = erasing.find(project, digest, [])
    assert len(left(names[0])) > 5  # a dry run
    assert erasing.erase(places), erasing.report(digest, places)
    told = erasing.report(digest, places)
    assert f"ERASED      model that learned from it: pawprint-pets/1, run {names[0][:8]}" in told
    assert f"NOT ERASED  model that learned from it: pawprint-pets/2 @champion, run {names[1][:8]}" in told
    assert "`pawprint run` trains without it; when another version is champion" in told
    assert [one.version for one in tracker.registry.versions()] == ["3", "2"]
    assert left(names[0]) == set() and client.get_run(names[0]).info.lifecycle_stage == "deleted"
    assert "folder/model.onnx" in left(names[1])
    for run_id in names[1:]:  # what shows it is gone, what is known of it stays
        assert not any(name.endswith(".png") for name in left(run_id)) and "evaluation/test.csv" in left(run_id)
    client.set_registered_model_alias("pawprint-pets", "champion", "3")
    assert erasing.erase(erasing.find(project, digest, []))
    assert [one.version for one in tracker.registry.versions()] == ["3"]


def test_what_cannot_be_erased_is_said_and_the_others_go_on(project: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((project / "data" / FILE).read_bytes()).hexdigest()
    run(project, sys.executable, "-m", "dvc", "remote", "add", "away", "s3://nobody/here")
    run(project, sys.executable, "-m", "dvc", "remote", "modify", "away", "endpointurl", "http://127.0.0.1:9")
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_MAX_ATTEMPTS="1")
    places = erasing.find(project, digest, [])
    assert not erasing.erase(places)
    told = erasing.report(digest, places)
    assert "NOT ERASED  objects of the remote `away`" in told and "not erased:" in told
    assert "ERASED      objects of the remote `team`" in told


def test_pages_that_show_it_and_bentos_with_it_as_an_example_go(project: Path, tmp_path: Path) -> None:
    """A photograph that no model learned from: rejected ones have thumbnails, test ones are examples of the service."""
    (project / "data/cat/small.jpg").write_bytes(image.encode(np.full((10, 10, 3), 200, np.uint8)))
    shutil.rmtree(project / "prepared")
    prepare(ingest.dataset(project / "data"), project / "data", project / "prepared", load_params(ROOT / "params.yaml"))
    digest = hashlib.sha256((project / "data/cat/small.jpg").read_bytes()).hexdigest()
    rejected = (project / "prepared" / "report.html").read_bytes()
    assert digest.encode() in rejected and not erasing._is_shard_with(project / "prepared", digest)
    (project / "reports" / "report.html").write_text("strips of samples, without a hash")
    (project / "changed.html").write_text(f'<li id="{digest}">')
    model = build_toy_model(project / "champion")
    examples = [Example(label="cat", picture="data:its pixels", sha256=digest)]
    older = About(photographs=7, examples=examples).model_dump_json().encode()
    for content in (rejected, older):  # as pushes of prepared/ and of a champion of before leave them
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        for store in (project / ".dvc" / "cache", tmp_path / "remote"):
            (store / "files" / "md5" / md5[:2]).mkdir(parents=True, exist_ok=True)
            (store / "files" / "md5" / md5[:2] / md5[2:]).write_bytes(content)
    examples.append(Example(label="dog", picture="data:another", sha256="f" * 64))
    (model / ABOUT).write_text(About(examples=examples).model_dump_json())
    tag = bento.build(model, {"model": "pawprint-erased", "version": "1"}, ROOT)
    (model / ABOUT).write_text(About(examples=examples[1:]).model_dump_json())
    other = bento.build(model, {"model": "pawprint-erased", "version": "1"}, ROOT)
    (model / ABOUT).write_text(About(examples=examples).model_dump_json())
    tracker = Tracker(project)
    client = tracker.client
    experiment = client.create_experiment("comparisons", artifact_location=str(tmp_path / "artifacts"))
    run_id = client.create_run(experiment).info.run_id
    client.log_artifact(run_id, str(project / "changed.html"))
    client.log_artifact(run_id, str(project / "prepared" / "report.html"), "photographs")
    client.log_artifact(run_id, str(project / "params.yaml"), "photographs")

    places = erasing.find(project, digest, [])
    assert "data:its pixels" in (model / ABOUT).read_text() and bento.exists(tag)  # a dry run
    assert erasing.erase(places), erasing.report(digest, places)
    told = erasing.report(digest, places)
    for what in (
        "prepared/", "reports/", "pages of `pawprint compare --pictures`", f"pages of the run {run_id[:8]}",
        f"example in champion/{ABOUT}", f"Bentos that show it as an example: {tag}",
        "objects of the remote `team` with plots and pages", "objects of DVC's cache with plots and pages",
    ):  # fmt: skip
        assert what in told
    assert "NOT ERASED" not in told
    assert not bento.exists(tag) and bento.exists(other)
    bento.delete(other)
    assert [one.label for one in About.read(model).examples] == ["dog"]
    kept = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert [path.name for path in kept if path.parent.name == "photographs"] == ["params.yaml"]
    assert holding(tmp_path, rejected, b"its pixels", f'id="{digest}"'.encode()) == []
