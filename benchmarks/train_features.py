"""Features of efficientnet_lite0's frozen backbone on the CPU: eager torch against the project's engine.

    python benchmarks/train_features.py [--repeats 3]

Each variant runs in a process of its own, in turn, several times over, so that a noisy neighbour hits all of
them. Pixels are random and in memory: decoding is not measured.
"""

import argparse
import subprocess
import sys
import time

import numpy as np
import torch

from common import report
from pawprint import image
from pawprint.config import Params, load_params
from pawprint.models import registry
from pawprint.training import devices, feature_cache
from pawprint.training.feature_cache import Engine, FrozenPart

VARIANTS = ("torch float32", "torch float32, malloc", "torch bfloat16, malloc", "openvino f32", "openvino bf16")
CHUNK, CHUNKS = 32, 8  # photographs at once, how often; one more warms up


def measure(variant: str) -> float:
    """Images per second."""
    library, precision = variant.removesuffix(", malloc").split()
    feature_cache.CHUNK = CHUNK  # so that torch's float32 does not run out of a small machine's memory
    if variant.endswith("malloc"):
        devices.keep_memory()
    network = registry.create_model("efficientnet_lite0")
    network.load_pretrained()
    frozen = FrozenPart(network, blocks=0)
    params = _params("bfloat16" if precision.startswith("bf") else "float32")
    engine = Engine(frozen, (network.features,), params)
    run = engine.by_torch if library == "torch" else engine.by_openvino
    pixels = np.random.default_rng(0).integers(0, 256, (CHUNK, image.SIZE, image.SIZE, 3), np.uint8)
    run(pixels)
    started = time.perf_counter()
    for _ in range(CHUNKS):
        run(pixels)
    return CHUNKS * CHUNK / (time.perf_counter() - started)


def _params(precision: str) -> Params:
    params = load_params()
    training = params.training.model_copy(update={"device": "cpu", "precision": precision})
    return params.model_copy(update={"training": training})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one only and print a number")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.variant:
        print(measure(arguments.variant))
        return
    speeds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.repeats):
        for variant in VARIANTS:
            done = subprocess.run(
                [sys.executable, __file__, "--variant", variant], capture_output=True, text=True, check=True
            )
            speeds[variant].append(float(done.stdout.split()[-1]))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {CHUNK} at 300x300")
    report("train_features", "images/s", speeds, base="torch float32")


if __name__ == "__main__":
    main()
