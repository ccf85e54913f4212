"""What several rooms' tests share: a model folder that is real but tiny, and pictures for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from pawprint import image
from pawprint.lineage import Lineage, sha256
from pawprint.runtime import ModelInfo
from service_process import serving
from workspace import Workspace, clone


def build_toy_model(folder: Path) -> Path:
    """A model folder that tells red pictures from blue ones by their mean colour; green is like neither."""
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", "grey"], ["centred"]),
            helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["map"], kernel_shape=[30, 30], strides=[30, 30]),
            helper.make_node("Conv", ["map", "filters"], ["activation"]),
            helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["embedding"]),
            helper.make_node("MatMul", ["embedding", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 300, 300, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["N", 2, 10, 10]),
        ],
        [
            numpy_helper.from_array(np.float32(127.5), "grey"),
            numpy_helper.from_array(np.array([[-1, 1], [0, 0], [1, -1]], np.float32) / 50, "weights"),
            numpy_helper.from_array(np.array([[-1, 0, 1], [1, 0, -1]], np.float32)[:, :, None, None], "filters"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    bank = np.array([[1, -1, -1], [-1, -1, 1]], np.float32) / np.sqrt(3).astype(np.float32)
    save_file(
        {"embeddings": bank, "threshold": np.array([0.5], np.float32), "k": np.array([1])},
        folder / "typicality.safetensors",
    )
    save_file({"weights": np.zeros(1, np.float32)}, folder / "model.safetensors")
    info = ModelInfo(
        candidate="toy",
        architecture="toy",
        parameters=12,
        classes=("blue", "red"),
        fit="squash",
        quality=95,
        temperature=1.0,
        typicality_threshold=0.5,
        model_digest=sha256(folder / "model.onnx"),
        weights_digest=sha256(folder / "model.safetensors"),
        lineage=Lineage(
            git_commit="c" * 40,
            git_dirty=False,
            dataset="colours",
            data_hash="d" * 32 + ".dir",
            manifest_digest="e" * 64,
            params_digest="f" * 64,
            lock_digest="0" * 64,
            seed=2017,
            device="cpu float32",
            run_id="a" * 32,
        ),
    )
    (folder / "model.json").write_text(info.model_dump_json(indent=2))
    (folder / "champion.json").write_text(
        json.dumps({"model": "pawprint-colours", "version": "3", "alias": "champion", "run_id": "a" * 32})
    )
    return folder


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's folder, one a session; copy it before changing it."""
    return build_toy_model(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """A red, a blue and a green photograph (JPEG, 480x360, with some texture)."""
    rng = np.random.default_rng(2017)
    noise = rng.integers(-40, 40, (360, 480, 1))
    colours = {"red": (220, 40, 40), "blue": (40, 40, 220), "green": (40, 220, 40)}
    return {
        name: image.encode(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
        for name, colour in colours.items()
    }


@pytest.fixture(scope="session")
def service(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a running service over the toy model, one a session (and xdist worker)."""
    folder = tmp_path_factory.mktemp("service")
    env = {
        "PAWPRINT_MODEL": str(toy_model),
        "PAWPRINT_TRAFFIC": str(folder / "traffic"),
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    with serving(folder / "log", env) as (url, _):
        yield url


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One clone for all tests of the xdist group `pipeline`, which change it in the order they stand in."""
    root = tmp_path_factory.mktemp("clone") / "pawprint"
    root.mkdir()
    clone(root)
    return Workspace(root, tmp_path_factory.mktemp("homes"))
