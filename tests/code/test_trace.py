"""`pawprint trace` both ways over a real MLflow database, and what it says of a link that was tampered with."""

import csv
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pytest

from pawprint import trace as tracing
from pawprint.errors import PawprintError
from pawprint.lineage import sha256
from pawprint.params import load_params
from pawprint.runtime import ModelInfo
from pawprint.tracking import registry, runs, training_run
from pawprint.tracking.registry import Champion

PROJECT = Path(__file__).parents[2]
LEARNED = "1" * 64


def no_bento(tag: str) -> Path | None:
    return None


@pytest.fixture
def made(tmp_path: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Champion]:
    """A workspace with one trained, registered and reigning toy model that learned from one photograph."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, tmp_path)
    (tmp_path / "prepared").mkdir()
    manifest = tmp_path / "prepared" / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["hash", "side"], [LEARNED, "train"], ["2" * 64, "test"]])
    folder = Path(shutil.copytree(toy_model, tmp_path / "model"))
    (folder / "photographs.txt").write_text(f"{LEARNED}\n")
    info = ModelInfo.read(folder)
    record = info.lineage.model_copy(update={"manifest_digest": sha256(manifest)})
    weights = sha256(folder / "model.safetensors")
    info = info.model_copy(update={"lineage": record, "weights_digest": weights})
    (folder / "model.json").write_text(info.model_dump_json())
    params = load_params(PROJECT / "params.yaml")
    with training_run.start(tmp_path, "article_cnn", params, record, "toy", {}) as run:
        run.model(folder)
    entry = registry.register(tmp_path, "pawprint-colours", run, info)
    assert registry.promote(tmp_path, entry, "the first", over=None)
    return tmp_path, entry


def kinds(link: tracing.Link) -> list[str]:
    return [link.kind, *(kind for below in link.links for kind in kinds(below))]


def test_down_from_an_alias_and_a_run_to_the_photographs(made: tuple[Path, Champion]) -> None:
    root, entry = made
    down = tracing.trace(root, "pawprint-colours@champion", no_bento)
    assert kinds(down) == ["version", "run", "model", "commit", "data", "photographs"]
    assert not list(down.broken())
    assert "as manifest" in down.links[0].links[-1].said
    assert kinds(tracing.trace(root, entry.run_id[:8], no_bento)) == kinds(down)[1:]
    assert '"intact": true' in tracing.as_json(down)


def test_a_changed_model_a_changed_list_and_another_digest_are_broken_links(made: tuple[Path, Champion]) -> None:
    root, entry = made
    kept = Path(urlsplit(mlflow.MlflowClient().get_run(entry.run_id).info.artifact_uri).path) / runs.FOLDER
    learned = (kept / "photographs.txt").read_text()
    (kept / "photographs.txt").write_text("3" * 64)
    (link,) = tracing.trace(root, "pawprint-colours/1", no_bento).broken()
    assert (link.kind, link.said) == ("photographs", "photographs.txt does not name what the manifest says")
    (kept / "photographs.txt").write_text(learned)
    with (kept / "model.onnx").open("ab") as file:
        file.write(b"x")
    (link,) = tracing.trace(root, "pawprint-colours/1", no_bento).broken()
    assert (link.kind, link.said) == ("model", "model.onnx is not the file that model.json describes")
    assert '"intact": false' in tracing.as_json(tracing.trace(root, entry.run_id, no_bento))


def test_a_bento_that_holds_another_model_than_it_names_is_broken(made: tuple[Path, Champion], tmp_path: Path) -> None:
    root, entry = made
    bento = tmp_path / "bento"
    inside = Path(shutil.copytree(root / "model", bento / "src" / "champion"))
    (inside / "champion.json").write_text(entry.model_dump_json())
    assert not list(tracing.trace(root, "pawprint:colours-v1", lambda _: bento).broken())
    with (inside / "model.onnx").open("ab") as file:
        file.write(b"x")
    (link,) = tracing.trace(root, "pawprint:colours-v1", lambda _: bento).broken()
    assert link.kind == "Bento"
    assert "it holds model" in link.said


def test_what_nobody_knows_is_one_sentence(made: tuple[Path, Champion]) -> None:
    with pytest.raises(PawprintError, match="'nothing' is no Bento tag, model version"):
        tracing.trace(made[0], "nothing", no_bento)
