"""A training step of article_cnn at batch 128 on the CPU: plain eager torch against the project's set-up.

    python benchmarks/train_step.py
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/train_step.py    # a stand-in for an AVX2 machine

Each variant runs in a process of its own, in turn, several times over, so that a noisy neighbour hits all of
them. Prints images/s (median and range) and the ratio to plain torch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from pawprint import image
from pawprint.config import Training, load_params
from pawprint.models import registry
from pawprint.models.article_cnn import ArticleCNN
from pawprint.models.backbone import Network
from pawprint.training import devices

VARIANTS = {
    "plain": "eager float32, contiguous, relu before pooling, glibc's defaults",
    "float32": "large buffers kept (devices.keep_memory), channels last, pooling before relu",
    "bfloat16": "that and bfloat16 autocast",
}
BATCH, WARMUP, STEPS = 128, 2, 6


class Plain(ArticleCNN):
    def forward_features(self, inputs: Tensor) -> Tensor:
        maps: Tensor = self.pool(self.relu(self.conv(inputs)))
        return maps


def measure(variant: str) -> float:
    """Images per second of forward, backward and Adam on random pixels."""
    if variant != "plain":
        devices.keep_memory()
    torch.manual_seed(0)
    network: Network = Plain(2) if variant == "plain" else registry.create_model("article_cnn")
    if variant != "plain":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(device="cpu", precision="bfloat16" if variant == "bfloat16" else "float32")
    optimizer = torch.optim.Adam(network.parameters())
    pixels = torch.randint(0, 256, (BATCH, image.SIZE, image.SIZE, 3), dtype=torch.uint8)
    labels = torch.randint(0, 2, (BATCH,))
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            started = time.perf_counter()
        inputs = network.normalise(pixels)
        if variant == "plain":
            inputs = inputs.contiguous()
        with devices.autocast(torch.device("cpu"), training):
            logits = network(inputs)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return STEPS * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one only and print a number")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant)))
        return
    # oneDNN refuses no bfloat16 where it has no instructions for it, but emulates it.
    native = devices.resolve_precision(load_params()).training.precision == "bfloat16"
    speeds: dict[str, list[float]] = {variant: [] for variant in VARIANTS if native or variant != "bfloat16"}
    for _ in range(arguments.repeats):
        for variant in speeds:
            done = subprocess.run(
                [sys.executable, __file__, "--variant", variant], capture_output=True, text=True, check=True
            )
            speeds[variant].append(float(done.stdout))
    print(f"{devices.describe(load_params())}, torch {torch.__version__}, n = {arguments.repeats}")
    plain = statistics.median(speeds["plain"])
    for variant, values in speeds.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{variant:9} {median:6.0f} images/s ({spread})  {median / plain:.2f}x  {VARIANTS[variant]}")


if __name__ == "__main__":
    main()
