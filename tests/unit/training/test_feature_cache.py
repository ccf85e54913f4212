"""The feature cache: computed once a photograph, keyed by what was executed, close to torch."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.numpy import load_file

from pawprint.data.dataset import PreparedDataset
from pawprint.models import registry
from pawprint.training import feature_cache
from prepared_set import drawings, params


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(folder))
        yield folder


def test_the_feature_cache_records_the_precision_that_was_executed() -> None:
    """OpenVINO computes in f32 where a CPU has no bfloat16, whatever is requested."""
    given = params("efficientnet_lite0")
    asked = given.model_copy(update={"training": given.training.model_copy(update={"precision": "bfloat16"})})
    cache = feature_cache.FeatureCache(registry.create_model("efficientnet_lite0"), "efficientnet_lite0", asked)
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    native = native and "ONEDNN_MAX_CPU_ISA" not in os.environ  # which the list of capabilities does not follow
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


@pytest.mark.parametrize("damage", [None, feature_cache.GRAPH, feature_cache.WEIGHTS])
def test_a_graph_is_traced_once_and_again_only_where_it_is_damaged(
    damage: str | None, data: PreparedDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To trace it costs as much as the features of 350 photographs, in every process that has a new one."""
    monkeypatch.setenv("PAWPRINT_CACHE", str(cache / f"traced{damage}"))
    traced, trace = [], feature_cache.Engine._traced

    def counted(engine: feature_cache.Engine) -> object:
        traced.append(1)
        return trace(engine)

    monkeypatch.setattr(feature_cache.Engine, "_traced", counted)
    network = registry.create_model("efficientnet_lite0")
    whole = data.split("validation")
    found = []
    for split in (whole.only(whole.hashes[1:]), whole):
        feature_cache.Engine._compiled.clear()  # as in a new process
        cached = feature_cache.FeatureCache(network, "efficientnet_lite0", params("efficientnet_lite0"))
        found.append(cached.of(split))
        if damage:
            (cached.folder / damage).write_bytes((cached.folder / damage).read_bytes()[:-100])
    assert len(traced) == (2 if damage else 1)
    cached.folder = cached.folder / "anew"
    assert cached.of(whole).tobytes() == found[1].tobytes()


def test_features_are_computed_where_no_graph_can_be_kept(data: PreparedDataset, cache: Path) -> None:
    """As on a node of a cluster, which has no folder of the machine that asks."""
    network = registry.create_model("efficientnet_lite0")
    cached = feature_cache.FeatureCache(network, "efficientnet_lite0", params("efficientnet_lite0"))
    cached.engine.kept = Path(__file__) / "cache"
    feature_cache.Engine._compiled.clear()
    assert cached.engine.compute(data.split("validation").images(range(1)), False).shape == (1, network.features)


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
