"""A float32 graph -> the same in 8-bit integers, calibrated on training photographs.

    quantize(Path("model.onnx"), data.side("train"))
    answers(Path("model.onnx"), side, indices)     # what it now says

Static quantization by ONNX Runtime in QDQ form, which OpenVINO and ONNX Runtime both compute in integers. Weights have
a scale a channel. Pixels' normalisation, the head, the softmax and the map stay in floating point: they cost nothing,
and the answer is made of them.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pawprint.inference import OUTPUTS
from pawprint.prepared.read import Side
from pawprint.training.batches import split
from pawprint.training.fit import Answers

PHOTOGRAPHS = 130  # that show how large activations get
BATCH = 10
INTEGER = ("Conv", "Add", "Clip", "Relu")


def quantize(path: Path, train: Side) -> None:
    """Replace the graph at `path`. The photographs are spread evenly over the side, which is sorted by hash."""
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
            op_types_to_quantize=list(INTEGER),
            nodes_to_exclude=sorted(_floating(onnx.load(path).graph)),
        )
    finally:
        root.setLevel(level)


def answers(path: Path, side: Side, count: int) -> Answers:
    """What the graph at `path` says of the first `count` photographs of `side`, by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if not count:
        return Answers(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
    probabilities, embeddings = [], []
    for indices in split(np.arange(count), BATCH):
        probability, embedding, _ = session.run(list(OUTPUTS), {"images": side.images(indices)})
        probabilities.append(probability)
        embeddings.append(embedding)
    return Answers(np.log(np.maximum(np.concatenate(probabilities), 1e-12)), np.concatenate(embeddings))


def agreement(integers: Answers, floats: Answers) -> float:
    """Share of the photographs that both call the same class; 1 where there are none."""
    if not len(floats.logits):
        return 1.0
    return float((integers.logits.argmax(1) == floats.logits.argmax(1)).mean())


def _floating(graph: onnx.GraphProto) -> set[str]:
    """The nodes between the last feature maps and the outputs."""
    made_by = {output: node for node in graph.node for output in node.output}
    floating: set[str] = set()

    def back(name: str) -> None:
        """From an output back to what makes the maps; the convolution that makes them stays in integers."""
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
    def __init__(self, side: Side, chosen: NDArray[np.int64]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = (
            {"images": side.images(indices)} for indices in split(chosen, BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)
