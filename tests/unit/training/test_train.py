"""The loop and what feeds it: order, prefetching, devices, the feature cache, the same bits twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.numpy import load_file

from pawprint.config import Training
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.models import registry
from pawprint.training import dataloader, devices, feature_cache
from pawprint.training.train import fit
from prepared_set import Memory, drawings, params


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(folder))
        yield folder


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert np.array_equal(dataloader.order(100, seed=1, epoch=2), dataloader.order(100, seed=1, epoch=2))
    assert not np.array_equal(dataloader.order(100, seed=1, epoch=2), dataloader.order(100, seed=1, epoch=3))
    assert not np.array_equal(dataloader.order(100, seed=1, epoch=2), dataloader.order(100, seed=2, epoch=2))
    assert sorted(dataloader.order(100, seed=1, epoch=2)) == list(range(100))


def test_prefetch_gives_the_same_items_in_order() -> None:
    assert list(dataloader.prefetch(iter(range(50)))) == list(range(50))


def test_an_error_in_the_thread_reaches_the_loop() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(dataloader.prefetch(broken()))


def test_a_loop_that_stops_early_stops_the_thread() -> None:
    made = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    stream = dataloader.prefetch(endless())
    assert next(stream) == 0
    stream.close()
    count = len(made)
    assert count <= dataloader.PREFETCH + 3
    assert len(made) == count


def test_batches_hold_every_photograph_once_with_its_label(data: PreparedDataset) -> None:
    split = data.split("train")
    pieces = dataloader.chunks(dataloader.order(len(split), seed=3, epoch=1), 16)
    seen = []
    for batch in dataloader.batches(split, dataloader.photographs(split), pieces):
        assert batch.inputs.dtype == torch.uint8
        assert torch.equal(batch.labels, torch.from_numpy(split.labels[batch.indices]))
        assert np.array_equal(batch.inputs[0].numpy(), split.images([int(batch.indices[0])])[0])
        seen.extend(batch.indices.tolist())
    assert sorted(seen) == list(range(len(split)))


def test_a_device_that_is_not_there_is_named() -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(PawprintError, match=rf"training.device.*{missing}"):
        devices.resolve(Training(device=missing))
    assert devices.resolve(Training(device="cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("capabilities", "mkldnn", "precision"),
    [
        ({"avx512_bf16": True}, True, "bfloat16"),
        ({"amx_bf16": True}, True, "bfloat16"),
        ({"avx2": True}, False, "float32"),
        ({"avx512_f": True}, True, "float32"),  # emulated there
        ({"bf16": True}, False, "float32"),  # an Arm machine without oneDNN
    ],
)
def test_automatic_precision_is_what_the_processor_computes_in(
    capabilities: dict[str, bool], mkldnn: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn)
    given = params("article_cnn")
    assert given.training.precision == "auto"
    assert devices.resolve_precision(given).training.precision == precision
    assert devices.describe(given).startswith(f"cpu {precision} ")
    assert devices.execution(given)["precision"] == precision
    named = given.model_copy(update={"training": given.training.model_copy(update={"precision": "bfloat16"})})
    assert devices.resolve_precision(named) is named


def test_the_feature_cache_records_the_precision_that_was_executed() -> None:
    """OpenVINO computes in f32 where a CPU has no bfloat16, whatever is requested."""
    given = params("efficientnet_lite0")
    asked = given.model_copy(update={"training": given.training.model_copy(update={"precision": "bfloat16"})})
    cache = feature_cache.FeatureCache(registry.create_model("efficientnet_lite0"), "efficientnet_lite0", asked)
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert cache.engine.execution["precision"] == ("bf16" if native else "f32")


def test_features_are_computed_once_and_do_not_depend_on_their_neighbours(
    data: PreparedDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = params("efficientnet_lite0")
    network = registry.create_model("efficientnet_lite0")
    network.load_pretrained()
    validation = data.split("validation")
    cached = feature_cache.FeatureCache(network, "efficientnet_lite0", given)
    first = cached.of(validation)
    assert first.shape == (len(validation), 1280)
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(files) == 1
    again = feature_cache.FeatureCache(network, "efficientnet_lite0", given).of(validation)
    assert again.tobytes() == first.tobytes()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == files

    monkeypatch.setattr(feature_cache, "CHUNK", 1)
    cached.folder = cache / "one by one"
    alone = cached.of(validation)
    assert alone.tobytes() == first.tobytes()


def test_only_missing_features_are_computed(
    data: PreparedDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(cache / "missing"))
    given = params("efficientnet_lite0")
    network = registry.create_model("efficientnet_lite0")
    split = data.split("validation")
    cached = feature_cache.FeatureCache(network, "efficientnet_lite0", given)
    cached.of(split)
    (block,) = (cache / "missing").rglob("*.safetensors")
    kept = load_file(block)
    whole = dict(zip((row.tobytes().hex() for row in kept["hashes"]), kept["features"], strict=True))
    block.unlink()
    cached._write(split.hashes[:3], kept["features"][:3] * 0)
    values = cached.of(split)
    assert not values[:3].any()  # taken from the cache as they were
    np.testing.assert_array_equal(values[3:], [whole[name] for name in split.hashes[3:]])


def test_features_follow_openvino_s_float32_closely(data: PreparedDataset, cache: Path) -> None:
    """bfloat16 changes features by rounding, not in kind."""
    network = registry.create_model("efficientnet_lite0")
    network.load_pretrained()
    given = params("efficientnet_lite0")
    split = data.split("validation")
    rough = feature_cache.FeatureCache(network, "efficientnet_lite0", given).of(split)
    with torch.inference_mode():
        inputs = network.normalise(torch.from_numpy(split.images(range(len(split)))))
        exact = network.eval().embed(network.forward_features(inputs)).numpy()
    cosine = (rough * exact).sum(1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.98


def test_head_only_needs_a_pretrained_backbone(data: PreparedDataset) -> None:
    with pytest.raises(PawprintError, match="train: head"):
        fit("article_cnn", params("article_cnn", train="head"), data, Memory())


def test_augmentation_of_cached_features_is_refused(data: PreparedDataset) -> None:
    with pytest.raises(PawprintError, match="none or flip"):
        fit("efficientnet_lite0", params("efficientnet_lite0", augment="standard"), data, Memory())


def test_a_head_learns_from_mirror_images_too(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path))
    memory = Memory()
    fit("efficientnet_lite0", params("efficientnet_lite0", epochs=20, augment="flip"), data, memory)
    assert memory.curve("train_loss")[-1] < memory.curve("train_loss")[0] / 2
    kept = [
        sum(len(load_file(path)["features"]) for path in folder.iterdir())
        for folder in (tmp_path / "features").iterdir()
    ]
    train, validation = len(data.split("train")), len(data.split("validation"))
    assert sorted(kept) == [train, train + validation]  # mirror images are learned from, not validated on


def test_the_head_learns_and_reports_each_epoch(data: PreparedDataset, cache: Path) -> None:
    memory = Memory()
    trained = fit("efficientnet_lite0", params("efficientnet_lite0", epochs=40), data, memory)
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
