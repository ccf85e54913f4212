"""A model folder -> an INT8-quantized one: the same weights, calibrated on training photographs.

    info = make(Path("models/deep_cnn"), data, lineage, "deep_cnn_int8", Path("models/deep_cnn_int8"))

Static quantization by ONNX Runtime in QDQ form, which OpenVINO and ONNX Runtime both execute in integers. Weights have
a scale a channel, and 7 bits where products of 8 saturate. Normalization, head, softmax and map stay in floating point:
they cost little, and they decide the answer.
"""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pawprint import files
from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.inference import ood, selftest
from pawprint.inference.classifier import OOD_FILE, ModelInfo, read_bank
from pawprint.lineage import Lineage, sha256
from pawprint.training.dataloader import chunks
from pawprint.training.export import known_pictures, outputs, save_bank, strangers_typicality, unlike_threshold
from pawprint.training.train import LEAST, SAMPLE, spread

PHOTOGRAPHS = 130  # that show how large activations get
BATCH = 2  # calibration keeps every activation: 0.9 GB; with ten at a time 2.5 GB, for the same graph in the same time
INTEGER = ("Conv", "Add", "Clip", "Relu")
WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")  # limits that oneDNN takes


def make(source: Path, data: PreparedDataset, lineage: Lineage, name: str, out: Path, params: Params) -> ModelInfo:
    """Write the INT8 model `name`, made from the model folder `source`, to `out`; returns its model.json.

    Temperature and confidence threshold are the source's; the OOD bank and threshold are measured anew, on the INT8
    graph's embeddings, as `refusal` of params says.
    """
    train, validation = data.split("train"), data.split("validation")
    with files.replace_folder(out) as folder:
        for kept in ("model.onnx", "model.safetensors", "photographs.txt"):
            shutil.copy(source / kept, folder)
        quantize(folder / "model.onnx", train)
        sample, _ = outputs(folder / "model.onnx", train.images, spread(train.labels, SAMPLE, LEAST))
        tuned, probabilities = outputs(folder / "model.onnx", validation.images, np.arange(len(validation)))
        bank = ood.Bank.of(sample, read_bank(source).class_scores)
        save_bank(bank, tuned, probabilities, folder)
        others = strangers_typicality(folder / "model.onnx", params, bank)
        info = ModelInfo.read(source)
        info = info.model_copy(
            update={
                "candidate": name,
                "quantized_from": info.candidate,
                "ood_threshold": unlike_threshold(bank.typicality(tuned, probabilities), others, params.refusal),
                "onnx_digest": sha256(folder / "model.onnx"),
                "ood_digest": sha256(folder / OOD_FILE),
                "lineage": lineage,
            }
        )
        files.write_text(folder / "model.json", info.model_dump_json(indent=2) + "\n")
        selftest.write(folder, known_pictures(validation, probabilities))
    return info


def quantize(path: Path, train: Split) -> None:
    """Replace the graph at `path`. The photographs are spread evenly over the split, which is sorted by hash."""
    chosen = np.unique(np.linspace(0, len(train) - 1, min(PHOTOGRAPHS, len(train))).astype(np.int64))
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation that the exporter has done already
    try:
        quantize_static(
            path,
            path,
            _Reader(train, chosen),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=saturates(),
            op_types_to_quantize=list(INTEGER),
            nodes_to_exclude=sorted(_floating(onnx.load(path).graph)),
        )
    finally:
        root.setLevel(level)


def saturates() -> bool:
    """Are two products of 8 bits added in 16 here, as x86 without VNNI does? Weights of 7 bits cannot overflow."""
    found = torch.cpu.get_capabilities()
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_VNNI
    vnni = any(found.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return found.get("architecture") == "x86_64" and (limited or not vnni)


def _floating(graph: onnx.GraphProto) -> set[str]:
    """The nodes between the last feature maps and the outputs."""
    made_by = {output: node for node in graph.node for output in node.output}
    floating: set[str] = set()

    def back(name: str) -> None:
        """From an output back to the feature maps; the convolution that computes them stays in integers."""
        node = made_by.get(name)
        if node is None or node.name in floating or (node.op_type in INTEGER and name not in last):
            return
        floating.add(node.name)
        for input_ in node.input:
            back(input_)

    last = {output.name for output in graph.output}
    for output in last:
        back(output)
    return floating


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, split: Split, chosen: NDArray[np.int64]) -> None:
        self._batches = ({"images": split.images(indices)} for indices in chunks(chosen, BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)
