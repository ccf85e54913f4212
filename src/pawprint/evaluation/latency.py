"""Latency and throughput of a model on this machine, and its size.

speed = measure(classifier, split.images(range(32)))
speed.latency_p50_ms, speed.size_mb
"""

import os
import time

import numpy as np
from numpy.typing import NDArray

from pawprint.files import Closed
from pawprint.inference.classifier import OOD_FILE, Classifier
from pawprint.lineage import processor

ROUNDS = 50  # of one photograph; the 95th percentile is the third longest
BATCHES = 3


class Speed(Closed):
    """Of the model alone: decoding and HTTP come on top. Comparable on one machine only."""

    latency_p50_ms: float  # one photograph
    latency_p95_ms: float
    throughput_per_second: float  # photographs, in batches
    size_mb: float  # model.onnx and the OOD bank
    machine: str


def measure(classifier: Classifier, pixels: NDArray[np.uint8]) -> Speed:
    """`pixels` uint8 [n, size, size, 3], n at least one, make the batch; its first is the one photograph."""
    classifier.predict(pixels[:1])  # the first prediction allocates
    one = [_seconds(classifier, pixels[:1]) for _ in range(ROUNDS)]
    classifier.predict(pixels)
    many = min(_seconds(classifier, pixels) for _ in range(BATCHES))
    p50, p95 = np.quantile(one, [0.5, 0.95])
    size = sum((classifier.folder / name).stat().st_size for name in ("model.onnx", OOD_FILE))
    return Speed(
        latency_p50_ms=round(float(p50) * 1e3, 3),
        latency_p95_ms=round(float(p95) * 1e3, 3),
        throughput_per_second=round(len(pixels) / many, 1),
        size_mb=round(size / 1e6, 3),
        machine=f"{os.cpu_count()} x {processor()}, {classifier.precision}",
    )


def _seconds(classifier: Classifier, pixels: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    classifier.predict(pixels)
    return time.perf_counter() - began
