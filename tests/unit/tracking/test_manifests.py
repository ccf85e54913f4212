"""A manifest is kept once an experiment, whichever runs learned from it; against a real MLflow."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pawprint.config import Params, load_params
from pawprint.data import manifest as manifests
from pawprint.data.manifest import ManifestRow
from pawprint.inference.classifier import ModelInfo
from pawprint.tracking.tracker import Tracker

PROJECT = Path(__file__).parents[3]


@dataclass
class Learned:
    """A workspace with a manifest, and trainings on it."""

    root: Path
    params: Params
    info: ModelInfo

    def prepared(self, label: str = "red") -> str:
        """The digest of a new manifest in prepared/."""
        path = self.root / "prepared" / manifests.FILE
        path.parent.mkdir(exist_ok=True)
        manifests.write(path, [ManifestRow("1" * 64, label, "train", "0.tar", 0, 1, "0", "x", "", "")])
        return manifests.digest(manifests.read(path))

    def run(self, digest: str) -> str:
        lineage = self.info.lineage.model_copy(update={"manifest_digest": digest})
        with Tracker(self.root).start_training("article_cnn", self.params, lineage, "toy", {}) as run:
            return run.id

    def kept(self) -> list[str]:
        """Every manifest among the artifacts."""
        stored = self.root / "mlartifacts"
        return sorted(str(path.relative_to(stored)) for path in stored.rglob("manifest*") if path.is_file())


@pytest.fixture
def learned(tmp_path: Path, toy_model: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Learned:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for path in (PROJECT / "params.yaml", PROJECT / "requirements.lock", empty_runs):
        shutil.copy(path, tmp_path)
    return Learned(tmp_path, load_params(PROJECT / "params.yaml"), ModelInfo.read(toy_model))


def test_a_manifest_is_kept_once_and_outlives_every_run(learned: Learned) -> None:
    digest, tracker = learned.prepared(), Tracker(learned.root)
    where = f"colours/manifests/{digest}/manifest.parquet"
    first, second = learned.run(digest), learned.run(digest)
    assert learned.kept() == [where]
    other = learned.prepared("blue")
    third = learned.run(other)
    assert len(learned.kept()) == 2
    shutil.rmtree(learned.root / "prepared")
    tracker.remove_artifacts(first)  # as `mlflow gc` does
    tracker.client.delete_run(first)
    for run, expected in ((second, digest), (third, other)):
        kept = tracker.manifest(run, expected)
        assert kept is not None and manifests.is_manifest(kept, expected)
    assert tracker.manifest(third, "0" * 64) is tracker.manifest(third, "../../x") is None


def test_a_manifest_that_was_cut_off_or_lost_is_kept_again_by_the_next_run(learned: Learned) -> None:
    digest, tracker = learned.prepared(), Tracker(learned.root)
    run = learned.run(digest)
    stored = learned.root / "mlartifacts" / learned.kept()[0]
    stored.write_bytes(stored.read_bytes()[:50])
    cut = tracker.manifest(run, digest)
    assert cut is not None and not manifests.is_manifest(cut, digest)
    learned.run(digest)
    assert manifests.is_manifest(tracker.manifest(run, digest) or stored, digest)
    stored.unlink()
    shutil.rmtree(learned.root / "cache" / "manifests")
    assert tracker.manifest(run, digest) is None
    learned.run(digest)
    assert manifests.is_manifest(tracker.manifest(run, digest) or stored, digest)


def test_a_manifest_that_mlflow_could_not_be_sent_is_kept_later(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = learned.prepared()
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        run = learned.run(digest)
    shutil.rmtree(learned.root / "prepared")
    assert Tracker(learned.root).sync() == (1, 0)
    assert learned.kept() == [f"colours/manifests/{digest}/manifest.parquet"]
    assert Tracker(learned.root).search_runs(f"tags.restored_from = '{run}'")


def test_runs_that_begin_at_once_keep_one_manifest(learned: Learned) -> None:
    digest, tracker = learned.prepared(), Tracker(learned.root)
    runs = [tracker.run(tracker._create_run("colours", str(number))) for number in range(8)]
    path = learned.root / "prepared" / manifests.FILE
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: run.manifest(path, digest), runs))
    assert len(learned.kept()) == 1
    assert manifests.is_manifest(tracker.manifest(runs[3].id, digest) or path, digest)


def test_the_manifest_of_a_run_of_before_is_its_own(learned: Learned, tmp_path: Path) -> None:
    tracker = Tracker(learned.root)
    run = tracker.run(learned.run(learned.prepared("blue")))
    own = tmp_path / "prepared" / manifests.FILE
    run.artifact(own, "data")
    kept = tracker.manifest(run.id, learned.prepared())
    assert kept is not None and kept.parent.name == run.id


def test_a_manifest_goes_with_the_last_version_that_learned_from_it(learned: Learned, toy_model: Path) -> None:
    digest, tracker = learned.prepared(), Tracker(learned.root)
    tracker.client.create_registered_model("pawprint-colours")
    versions = []
    for run in (learned.run(digest), learned.run(digest)):
        about = {"model_digest": learned.info.model_digest, "candidate": "toy"}
        tracker.client.create_model_version("pawprint-colours", str(toy_model), run, tags=about)
        versions.append(next(iter(tracker.registry.versions(f"run_id = '{run}'"))))
    tracker.remove_version(versions[0])
    assert tracker.manifest(versions[1].run_id, digest)
    tracker._create_run("other colours", "same photographs", tags={"lineage.manifest_digest": digest})
    tracker.remove_version(versions[1])
    assert learned.kept() == [] and not list((learned.root / "cache").rglob("manifest.parquet"))
