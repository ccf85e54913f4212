"""A model folder that is real but tiny."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion, Lineage, sha256
from pawprint.serving.schema import Milliseconds, ModelName, Prediction


def build_toy_model(
    folder: Path, version: str = "3", scale: float = 50, size: int = 300, fails_on_red: bool = False, classes: int = 2
) -> Path:
    """A model folder that separates red pictures from blue ones by their mean colour; green is out of distribution.

    `fails_on_red`: the graph itself raises an error for red pictures, and for no others. Of more than two `classes` no
    colour speaks for the others.
    """
    folder.mkdir(parents=True)
    weights = np.pad(np.array([[-1, 1], [0, 0], [1, -1]], np.float32), ((0, 0), (0, classes - 2)))
    filters = np.pad(np.array([[-1, 0, 1], [1, 0, -1]], np.float32), ((0, classes - 2), (0, 0)))
    seen = "fitted" if fails_on_red else "embedding"
    # Three numbers do not fit into longer rows. OpenVINO may pass over an error with the shapes of the one before.
    broken = [
        helper.make_node("Mul", ["embedding", "channel"], ["red"]),
        helper.make_node("ReduceMax", ["red"], ["red_max"], keepdims=0),
        helper.make_node("Clip", ["red_max", "none", "most"], ["share"]),
        helper.make_node("Cast", ["share"], ["more"], to=TensorProto.INT64),
        helper.make_node("Add", ["shape", "more"], ["wanted"]),
        helper.make_node("Reshape", ["embedding", "wanted"], ["fitted"]),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", "grey"], ["centred"]),
            helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["map"], kernel_shape=[30, 30], strides=[30, 30]),
            helper.make_node("Conv", ["map", "filters"], ["activation"]),
            helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["embedding"]),
            *(broken if fails_on_red else []),
            helper.make_node("MatMul", [seen, "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["N", classes, size // 30, size // 30]),
        ],
        [
            numpy_helper.from_array(np.float32(127.5), "grey"),
            *(
                numpy_helper.from_array(value, name)
                for name, value in (
                    ("channel", np.array([[1e4, 0, 0]], np.float32)),
                    ("none", np.float32(0)),
                    ("most", np.float32(1e7)),
                    ("shape", np.array([-1, 3], np.int64)),
                )
                if fails_on_red
            ),
            numpy_helper.from_array(weights / np.float32(scale), "weights"),
            numpy_helper.from_array(filters[:, :, None, None], "filters"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    bank = np.array([[1, -1, -1], [-1, -1, 1]], np.float32) / np.sqrt(3).astype(np.float32)
    save_file(
        {"embeddings": bank, "k": np.array([1])},
        folder / "ood.safetensors",
    )
    save_file({"weights": np.zeros(1, np.float32)}, folder / "model.safetensors")
    info = ModelInfo(
        schema_version=2,
        candidate="toy",
        architecture="toy",
        parameters=12,
        classes=("blue", "red", *(f"shade {number:04}" for number in range(2, classes))),
        size=size,
        fit="squash",
        quality=95,
        temperature=1.0,
        ood_threshold=0.5,
        onnx_digest=sha256(folder / "model.onnx"),
        weights_digest=sha256(folder / "model.safetensors"),
        ood_digest=sha256(folder / "ood.safetensors"),
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
        Champion(
            model="pawprint-colours",
            version=version,
            run_id="a" * 32,
            candidate="toy",
            model_digest=info.model_digest,
            dataset="colours",
            metrics={"accuracy": 0.99},
        ).model_dump_json()
    )
    return folder


def prediction(id: str, label: str = "cat", digest: str = "1" * 64, version: str = "3") -> Prediction:
    """What the service predicts for a picture, as the traffic log takes it."""
    name = ModelName(
        name="toy", version=version, digest=digest, bento="", dataset="toy", data_hash="", git_commit="", run_id=""
    )
    return Prediction(
        id=id, label=label, reason="", probabilities={"cat": 0.9, "dog": 0.1}, typicality=0.8, model=name,
        milliseconds=Milliseconds(decode=1, wait=1, inference=1),
    )  # fmt: skip
