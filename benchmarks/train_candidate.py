"""One candidate trained on a prepared set, on whatever device there is: accuracy, speed, peak memory.

    python benchmarks/train_candidate.py prepared deep_cnn '{"architecture": "deep_cnn", "epochs": 90}'

The JSON is laid over the candidate's entry in params.yaml, or is one. Nothing is exported; the network is
scored on the test split by torch. It needs no more than torch, NumPy, OpenCV, simplejpeg, Pillow,
pydantic, PyYAML, rich and safetensors (and albumentations for an augmentation on the CPU), so that it runs with
`PYTHONPATH=src` where the rest is not installed.
"""

import argparse
import json
import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pawprint.config import Candidate, load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.training import devices
from pawprint.training.train import fit


class Printed:
    """A RunLogger that keeps the curve of validation accuracy, with the time."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.epochs: list[dict[str, float]] = []

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step is not None:
            self.epochs.append({**values, "at": time.monotonic() - self.began})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("candidate")
    parser.add_argument("changes", type=json.loads, nargs="?", default={})
    parser.add_argument("--goal", type=float, default=0.9, help="validation accuracy whose time is told")
    arguments = parser.parse_args()
    params, name = load_params(), arguments.candidate
    entry = params.candidates[name].model_dump() if name in params.candidates else {}
    params = params.model_copy(update={"candidates": {name: Candidate.model_validate(entry | arguments.changes)}})

    data, printed = PreparedDataset.open(arguments.prepared), Printed()
    trained = fit(name, params, data, printed)

    device, test = devices.resolve(params.training), data.split("test")
    network, right = trained.network.to(device), 0
    losses = []
    with torch.inference_mode():
        for indices in np.array_split(np.arange(len(test)), max(1, len(test) // 64)):
            logits = network(network.normalise(torch.from_numpy(test.images(indices)).to(device))).float().cpu()
            labels = torch.from_numpy(test.labels[indices])
            right += int((logits.argmax(1) == labels).sum())
            losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    reached = next((e["at"] for e in printed.epochs if e.get("validation_accuracy", 0) >= arguments.goal), None)
    speeds = [epoch["images_per_second"] for epoch in printed.epochs[1:] or printed.epochs]
    result = {
        "candidate": name,
        "device": devices.describe(params),
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        "test_accuracy": right / len(test),
        "test_photographs": len(test),
        "test_log_loss": float(torch.cat(losses).mean()),
        "images_per_second": float(np.median(speeds)),
        "data_wait_share": float(np.median([epoch["data_wait_share"] for epoch in printed.epochs])),
        "seconds": trained.seconds,
        f"seconds_to_{arguments.goal}_validation_accuracy": reached,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "peak_gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
