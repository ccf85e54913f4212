"""Answers a second of a model folder in 8-bit integers against the same in floating point.

    python -m flows.train --candidate efficientnet_lite0
    python -m flows.quantize --model efficientnet_lite0_int8    # which is under `quantized` in params.yaml
    python benchmarks/train_int8.py models/efficientnet_lite0 models/efficientnet_lite0_int8

OpenVINO as the service runs it (pawprint.inference.classifier), ONNX Runtime with one session a core, one
photograph a call. All variants are measured in turn, several times over. Pixels are random and in memory.
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common import report
from pawprint import image
from pawprint.inference.classifier import Classifier

Run = Callable[[NDArray[np.uint8]], object]


def by_onnxruntime(folder: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    cores = len(os.sched_getaffinity(0))
    sessions = [onnxruntime.InferenceSession(folder / "model.onnx", options) for _ in range(cores)]

    def run(pixels: NDArray[np.uint8]) -> None:
        def part(number: int) -> None:
            for one in pixels[number::cores]:
                sessions[number].run(["probabilities"], {"images": one[None]})

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(part, range(cores)))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("floats", type=Path)
    parser.add_argument("integers", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--photographs", type=int, default=128)
    arguments = parser.parse_args()
    runs: dict[str, Run] = {
        "openvino f32": Classifier(arguments.floats, "f32").predict,
        "openvino bf16": Classifier(arguments.floats, "bf16").predict,
        "openvino int8": Classifier(arguments.integers).predict,
        "onnxruntime f32": by_onnxruntime(arguments.floats),
        "onnxruntime int8": by_onnxruntime(arguments.integers),
    }
    shape = (arguments.photographs, image.SIZE, image.SIZE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(arguments.repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(pixels)
            if turn:  # the first warms up
                speeds[name].append(len(pixels) / (time.perf_counter() - started))
    report("train_int8", "images/s", speeds, base="openvino bf16")


if __name__ == "__main__":
    main()
