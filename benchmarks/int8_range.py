"""INT8 weights of 8 bits against 7 (`reduce_range`): how far each is from the float model on this machine.

    python benchmarks/int8_range.py models/efficientnet_lite0 prepared
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/int8_range.py models/efficientnet_lite0 prepared      # as without VNNI

Without VNNI two products of 8 bits are added in 16 and may saturate; 7-bit weights cannot. Both graphs run in OpenVINO,
on the photographs of a split. Also printed: the kernels that the convolutions of the graph were compiled to.
"""

import argparse
import functools
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from pawprint.data.dataset import PreparedDataset
from pawprint.inference import backends
from pawprint.inference.classifier import ModelInfo, read_bank
from pawprint.training import quantize

Answers = tuple[NDArray[np.float32], NDArray[np.float32]]  # probabilities, embeddings of unit length


def answers(onnx: bytes, folder: Path, pixels: NDArray[np.uint8]) -> Answers:
    session = backends.load(onnx, "f32", "cpu", read_bank(folder), pixels.shape[1])
    outputs = [session(one[None]) for one in pixels]
    embeddings = np.concatenate([output[1] for output in outputs])
    return np.concatenate([output[0] for output in outputs]), embeddings / np.linalg.norm(embeddings, axis=1)[:, None]


def kernels(onnx: bytes) -> str:
    model = backends.compile_on_cpu(openvino.Core().read_model(onnx), "f32").get_runtime_model()
    nodes = [node.get_rt_info() for node in model.get_ordered_ops()]
    kinds = [node["primitiveType"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"]
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    options = parser.parse_args()
    data, info = PreparedDataset.open(options.prepared), ModelInfo.read(options.model)
    split = data.split(options.split)
    pixels, labels = split.images(range(len(split))), np.asarray(split.labels)
    original = (options.model / "model.onnx").read_bytes()
    floats = answers(original, options.model, pixels)
    print(f"{info.candidate}, {len(split)} photographs of {options.split}, {backends.execution('auto')}")
    print("| weights | kernels | mistakes | log loss | other answers | 1 - cosine (95th percentile) |")
    print("|---|---|---|---|---|---|")
    for name, reduced in (("float", None), ("8 bits", False), ("7 bits", True)):
        onnx, found = original, floats
        if reduced is not None:
            quantize.saturates = functools.partial(bool, reduced)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "model.onnx")
                path.write_bytes(original)
                quantize.quantize(path, data.split("train"))
                onnx = path.read_bytes()
            found = answers(onnx, options.model, pixels)
        probabilities, embeddings = found
        loss = -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1)).mean()
        wrong, other = ((probabilities.argmax(1) != one).sum() for one in (labels, floats[0].argmax(1)))
        far = 1 - (embeddings * floats[1]).sum(1)
        print(f"| {name} | {kernels(onnx)} | {wrong} | {loss:.4f} | {other} "
              f"| {np.median(far):.2e} ({np.quantile(far, 0.95):.2e}) |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
