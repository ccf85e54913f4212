"""A candidate from params.yaml to a trained network, with the same bytes twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.training.train import fit
from prepared_set import ADAM, Memory, drawings, params


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(folder))
        yield folder


def test_head_only_needs_a_pretrained_backbone(data: PreparedDataset) -> None:
    with pytest.raises(PawprintError, match="train: head"):
        fit("article_cnn", params("article_cnn", train="head"), data, Memory())


def test_a_head_learns_from_mirror_images_too(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path))
    memory = Memory()
    fit("efficientnet_lite0", params("efficientnet_lite0", epochs=20, augment="flip"), data, memory)
    assert memory.curve("train_loss")[-1] < memory.curve("train_loss")[0] / 2
    kept = [
        sum(len(load_file(path)["features"]) for path in folder.glob("*.safetensors"))
        for folder in (tmp_path / "features").iterdir()
    ]
    train, validation = len(data.split("train")), len(data.split("validation"))
    assert sorted(kept) == [train, train + validation]  # mirror images are learned from, not validated on


def test_the_head_learns_and_reports_each_epoch(data: PreparedDataset, cache: Path) -> None:
    memory = Memory()
    trained = fit("efficientnet_lite0", params("efficientnet_lite0", epochs=40, **ADAM), data, memory)
    assert memory.curve("train_loss")[-1] < memory.curve("train_loss")[0] / 2
    assert [step for step, _ in memory.steps if step is not None] == list(range(1, 41))
    for name in (
        "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate",
        "images_per_second", "epoch_seconds",
    ):  # fmt: skip
        assert len(memory.curve(name)) == 40, name
    assert trained.sample.embedding.shape == (len(data.split("train")), 1280)
    assert trained.validation.logits.shape == (len(data.split("validation")), 2)


def test_augmented_photographs_train_the_whole_network(data: PreparedDataset) -> None:
    memory = Memory()
    fit("article_cnn", params("article_cnn", epochs=2, augment="standard", batch_size=16), data, memory)
    assert len(memory.curve("train_loss")) == 2


TWICE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepared_set import Memory, params
from pawprint.lineage import Lineage
from pawprint.data.dataset import PreparedDataset
from pawprint.training.export import export
from pawprint.training.train import fit

data, out = PreparedDataset.open(Path(sys.argv[2])), Path(sys.argv[3])
lineage = Lineage(git_commit="", git_dirty=False, dataset="sample", data_hash="", manifest_digest="",
                  params_digest="", lock_digest="", seed=0, device="cpu")
for name in sys.argv[4:]:
    export(fit(name, params(name, epochs=2), data, Memory()), data, lineage, out / name, Memory())
"""


FILES = ("model.onnx", "model.safetensors", "ood.safetensors", "photographs.txt", "model.json")


@pytest.mark.slow  # test_distributed has the curves
def test_two_processes_give_the_same_bytes(data: PreparedDataset, tmp_path: Path) -> None:
    names = ["efficientnet_lite0"]  # article_cnn: test_pipeline, where one of the two is killed
    tests, source = (str(Path(__file__).resolve().parents[3] / name) for name in ("tests", "src"))
    for turn in ("first", "second"):
        folder = tmp_path / turn
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", TWICE, tests, str(data.folder), str(folder), *names],
            check=True,
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": source,
                "PAWPRINT_CACHE": str(folder / "cache"),
            },
        )
    for name in names:
        for file in FILES:
            first, second = (tmp_path / turn / name / file for turn in ("first", "second"))
            assert first.read_bytes() == second.read_bytes(), f"{name}/{file}"
