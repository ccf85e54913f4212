"""`pawprint trace` both ways over a real MLflow database, and what it says of a link that was tampered with."""

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pytest

from pawprint import dvc, lineage
from pawprint.config import load_params
from pawprint.data import manifest as manifests
from pawprint.data.manifest import ManifestRow
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion, bento_digest, sha256
from pawprint.provenance import trace as tracing
from pawprint.serving.traffic import Record, TrafficLog
from pawprint.tracking.run import FOLDER
from pawprint.tracking.tracker import Tracker
from toy import prediction

PROJECT = Path(__file__).parents[3]
LEARNED = "1" * 64


def trace(root: Path, word: str, bento: Path | None = None, logs: Path = Path("nowhere")) -> tracing.Link:
    """With a store that has `bento` under every tag (or none), and the traffic logs of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing.bento, "folder", lambda _: bento)
        patch.setenv("PAWPRINT_TRAFFIC", str(logs))
        return tracing.trace(root, word)


def write(manifest: Path, splits: dict[str, str]) -> None:
    rows = [ManifestRow(hash_, "red", split, "0.tar", 0, 1, "0", "x", "", "") for hash_, split in splits.items()]
    manifests.write(manifest, rows)


@pytest.fixture
def made(tmp_path: Path, toy_model: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Champion]:
    """A workspace with one trained toy model, registered and champion, that learned from one photograph."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for path in (PROJECT / "params.yaml", PROJECT / "requirements.lock", empty_runs):
        shutil.copy(path, tmp_path)
    (tmp_path / "prepared").mkdir()
    manifest = tmp_path / "prepared" / "manifest.parquet"
    write(manifest, {LEARNED: "train", "2" * 64: "test"})
    folder = Path(shutil.copytree(toy_model, tmp_path / "model"))
    (folder / "photographs.txt").write_text(f"{LEARNED}\n")
    info = ModelInfo.read(folder)
    lock = sha256(tmp_path / "requirements.lock")
    digest = manifests.digest(manifests.read(manifest))
    record = info.lineage.model_copy(update={"manifest_digest": digest, "lock_digest": lock})
    weights = sha256(folder / "model.safetensors")
    params, tracker = load_params(PROJECT / "params.yaml"), Tracker(tmp_path)
    with tracker.start_training("article_cnn", params, record, "toy", {}) as run:
        own = record.model_copy(update={"run_id": run.id})
        info = info.model_copy(update={"lineage": own, "weights_digest": weights})
        (folder / "model.json").write_text(info.model_dump_json())
        run.artifact(folder, FOLDER)  # not run.model: what MLflow needs seconds for is not looked at here
    client, digest = mlflow.MlflowClient(), {"model_digest": info.model_digest, "candidate": "toy"}
    client.create_registered_model("pawprint-colours")
    client.create_model_version("pawprint-colours", str(folder), run.id, tags=digest)
    entry = tracker.registry.find("pawprint-colours/1")
    assert entry is not None
    assert tracker.registry.promote(entry, "the first", over=None)
    return tmp_path, entry


def kinds(link: tracing.Link) -> list[str]:
    return [link.kind, *(kind for below in (*link.links, *link.led_to) for kind in kinds(below))]


def test_down_from_an_alias_and_a_run_to_the_photographs(made: tuple[Path, Champion]) -> None:
    root, entry = made
    down = trace(root, "pawprint-colours@champion")
    below = ["data", "params", "packages", "photographs"]
    assert kinds(down) == ["version", "run", "model", "commit", *below]
    assert not list(down.broken())
    assert "as in manifest" in down.links[0].links[-1].note
    run = trace(root, entry.run_id[:8])
    assert kinds(run) == [*kinds(down)[1:], "version"]
    assert '"intact": true' in down.as_json()


def test_a_changed_model_a_changed_list_and_another_digest_are_broken_links(made: tuple[Path, Champion]) -> None:
    root, entry = made
    kept = Path(urlsplit(mlflow.MlflowClient().get_run(entry.run_id).info.artifact_uri).path) / FOLDER
    learned = (kept / "photographs.txt").read_text()
    (kept / "photographs.txt").write_text("3" * 64)
    (link,) = trace(root, "pawprint-colours/1").broken()
    assert (link.kind, link.note) == ("photographs", "photographs.txt does not list the photographs of the manifest")
    (kept / "photographs.txt").write_text(learned)
    with (kept / "model.onnx").open("ab") as file:
        file.write(b"x")
    (link,) = trace(root, "pawprint-colours/1").broken()
    assert (link.kind, link.note) == ("model", "model.onnx is not the file that model.json describes")
    assert '"intact": false' in trace(root, entry.run_id).as_json()


def test_a_bento_that_holds_another_model_than_it_names_is_broken(made: tuple[Path, Champion], tmp_path: Path) -> None:
    root, entry = made
    bento = tmp_path / "bento"
    inside = Path(shutil.copytree(root / "model", bento / "src" / "champion"))
    (inside / "champion.json").write_text(entry.model_dump_json())
    assert not list(trace(root, "pawprint:colours-v1", bento).broken())
    with (inside / "model.onnx").open("ab") as file:
        file.write(b"x")
    (link,) = trace(root, "pawprint:colours-v1", bento).broken()
    assert link.kind == "Bento"
    assert "it holds model" in link.note


def test_a_bento_is_checked_against_the_digest_of_its_build(made: tuple[Path, Champion], tmp_path: Path) -> None:
    root, entry = made
    tag, bento = "pawprint:colours-v1-12345678", tmp_path / "bento"
    inside = Path(shutil.copytree(root / "model", bento / "src" / "champion"))
    (inside / "champion.json").write_text(entry.model_dump_json())
    assert trace(root, tag, bento).state == "unproved"
    Tracker(root).registry.packaged(entry, tag, bento_digest(bento))
    assert trace(root, tag, bento).state == "proved"
    up = trace(root, "pawprint-colours/1", bento).led_to
    assert [(link.kind, link.name, link.state) for link in up] == [("Bento", tag, "proved")]
    (bento / "src" / "service.py").write_text("slipped in")
    for word in (tag, "pawprint-colours/1", entry.run_id):
        (link,) = trace(root, word, bento).broken()
        assert link.kind == "Bento"
        assert "at its build it was" in link.note
    (gone,) = trace(root, "pawprint-colours/1").led_to
    assert (gone.state, gone.note) == ("unproved", "not in BentoML's store here")


def test_from_a_photograph_up_to_what_learned_from_it(made: tuple[Path, Champion]) -> None:
    root, entry = made
    photo = root / "taught.jpg"
    photo.write_bytes(b"the one it learned from")
    assert trace(root, str(photo)).led_to == []
    stored = Path(urlsplit(mlflow.MlflowClient().get_run(entry.run_id).info.artifact_uri).path)
    (stored / FOLDER / "photographs.txt").write_text(f"{sha256(photo)}\n")
    up = trace(root, str(photo))
    assert [link.name for link in up.led_to] == ["pawprint-colours/1"]
    assert up.note == "not among the prepared photographs; 1 registered version trained on it or validated with it"
    assert [link.kind for link in up.broken()] == ["photographs"]  # the manifest says that it learned from another


def test_an_answer_leads_to_the_version_that_gave_it(made: tuple[Path, Champion], tmp_path: Path) -> None:
    root, entry = made
    logs = tmp_path / "traffic"
    log = TrafficLog(logs / "pawprint-colours.db", rows=10)
    for id, digest in (("right", entry.model_digest), ("wrong", "9" * 64)):
        log.add(Record.of(prediction(id, "red", digest, entry.version), 0.0, LEARNED, np.zeros(3, np.float32)))
    log.close()
    (logs / "torn.db").write_text("no database")
    down = trace(root, "right", logs=logs)
    assert kinds(down)[:4] == ["prediction", "picture", "version", "run"]
    assert down.note == "red, 1970-01-01 00:00:00 UTC"
    assert not list(down.broken())
    (link,) = trace(root, "wrong", logs=logs).broken()
    assert link.kind == "version"
    assert "the prediction came from 999999999999" in link.note


def test_what_the_commit_does_not_hold_is_a_broken_link(
    tmp_path: Path, toy_model: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says the tree was clean, so code, packages and data must be those of its commit."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for file in (PROJECT / "params.yaml", PROJECT / "requirements.lock", empty_runs):
        shutil.copy(file, tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "learn.py").write_text("learn()")
    (tmp_path / "dvc.yaml").write_text("stages: {train: {do: {deps: [prepared, src]}}}".replace("src", "src/learn.py"))
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0123abc.dir\n  path: data\n")
    (tmp_path / ".gitignore").write_text("*\n!src\n!src/*\n!dvc.yaml\n!data.dvc\n!requirements.lock\n!params.yaml\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    tracker = Tracker(tmp_path)
    params, manifest = load_params(PROJECT / "params.yaml"), tmp_path / "prepared" / "manifest.parquet"
    manifest.parent.mkdir()
    write(manifest, {LEARNED: "train"})
    folder = Path(shutil.copytree(toy_model, tmp_path / "model"))
    (folder / "photographs.txt").write_text(f"{LEARNED}\n")
    changed = {}
    for name, kind in (("", ""), ("src/learn.py", "code"), ("requirements.lock", "packages"), ("data.dvc", "data")):
        if name:  # the record will tell of a file that no commit has, and claim that nothing was changed
            path = tmp_path / name
            path.write_text(path.read_text().replace("0123abc", "4567def") + "# changed\n")
            changed[kind] = "broken"
        record = ModelInfo.read(toy_model).lineage.model_copy(
            update={
                "git_commit": lineage.git_state(tmp_path)[0],
                "data_hash": dvc.data_hash(tmp_path),
                "code_digest": dvc.code_digest(tmp_path),
                "manifest_digest": manifests.digest(manifests.read(manifest)),
                "lock_digest": sha256(tmp_path / "requirements.lock"),
            }
        )
        with tracker.start_training("article_cnn", params, record, "toy", {}) as run:
            info = ModelInfo.read(folder).model_copy(
                update={
                    "lineage": record.model_copy(update={"run_id": run.id}),
                    "weights_digest": sha256(folder / "model.safetensors"),
                }
            )
            (folder / "model.json").write_text(info.model_dump_json())
            run.artifact(folder, FOLDER)
        tree = trace(tmp_path, run.id)
        commit = next(link for link in tree.links if link.kind == "commit")
        states = {link.kind: link.state for link in commit.links}
        assert states == dict.fromkeys(("data", "code", "params", "packages"), "proved") | changed
    assert trace(tmp_path, record.git_commit).led_to != []


def test_what_nobody_knows_is_one_sentence(made: tuple[Path, Champion]) -> None:
    with pytest.raises(PawprintError, match="'nothing' is no prediction, Bento tag, model version"):
        trace(made[0], "nothing")
