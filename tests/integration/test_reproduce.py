"""`pawprint verify`: a run is trained again from its record alone, and a record that cannot tell is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from pawprint.config import load_params
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.provenance.reproduce import differences, reproduce
from pawprint.tracking.tracker import Tracker
from workspace import Workspace

PROJECT = Path(__file__).parents[2]


def test_a_run_whose_code_is_not_on_record_is_refused(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(toy_model, tmp_path / "model")
    info = ModelInfo.read(tmp_path / "model")
    params = load_params(PROJECT / "params.yaml")
    for name, changes, sentence in (
        ("dirty", {"git_dirty": True}, "changes that were not committed"),
        ("unknown", {}, "cannot be checked out"),
        ("nowhere", {"git_commit": ""}, "outside of a git repository"),
    ):
        lineage = info.lineage.model_copy(update=changes)
        output = info.model_copy(update={"lineage": lineage})
        (tmp_path / "model" / "model.json").write_text(output.model_dump_json())
        with Tracker(tmp_path).start_training("article_cnn", params, lineage, name, {}) as run:
            run.artifact(tmp_path / "model", "folder")
        with pytest.raises(PawprintError, match=sentence):
            reproduce(tmp_path, name)
    with pytest.raises(PawprintError, match="There is no run 'never'"):
        reproduce(tmp_path, "never")


def test_what_was_executed_differently_is_named_in_both_directions(toy_model: Path) -> None:
    """The limit is on record only where one was set."""
    info = ModelInfo.read(toy_model)

    def executed(**found: str) -> ModelInfo:
        return info.model_copy(update={"lineage": info.lineage.model_copy(update={"execution": found})})

    free = executed(precision="bfloat16", instruction_set="AVX512", threads="2")
    limited = executed(precision="float32", instruction_set="AVX2", threads="1", instruction_limit="AVX2")
    same = "precision", "instruction_set", "threads", "instruction_limit"
    for first, again in ((free, limited), (limited, free)):
        found = list(differences(first, again, ""))
        assert [line.partition(" was ")[0] for line in sorted(found)] == sorted(same)
        assert any("not on record" in line for line in found if line.startswith("instruction_limit"))
    assert not list(differences(free, free, ""))


@pytest.mark.slow
def test_a_clean_run_has_the_same_weights_and_another_does_not(workspace: Workspace) -> None:
    for name in ("article_cnn", "efficientnet_lite0"):
        workspace.params(lambda values, name=name: values["candidates"][name].update(epochs=2))
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
    workspace(*git, "commit", "-qam", "two epochs")
    workspace("dvc", "pull", "data.dvc")
    workspace(sys.executable, "-m", "flows.preprocess")
    for name in ("article_cnn", "efficientnet_lite0"):
        workspace(sys.executable, "-m", "flows.train", "--candidate", name)
        run_id = workspace.json(f"models/{name}/run.json")["run_id"]
        assert "the weights are the same" in workspace("pawprint", "verify", run_id)

    # a record that claims other weights
    (kept,) = workspace.root.rglob(f"{run_id}/artifacts/folder/model.json")
    claimed = json.loads(kept.read_bytes())
    kept.write_text(json.dumps(claimed | {"weights_digest": "0" * 64}))
    shutil.rmtree(workspace.root / "cache")  # what was fetched before
    output = workspace("pawprint", "verify", run_id, fails=True)
    assert f"the weights are {claimed['weights_digest'][:12]} and not 000000000000" in output
    assert workspace("git", "worktree", "list").count("\n") == 1
    assert len(workspace.query("select 1 from runs")) == 2
