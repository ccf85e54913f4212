"""The whole training of efficientnet_lite0's head, from prepared photographs to weights: a plain script against ours.

    python benchmarks/train_head.py prepared [--photographs 1200] [--repeats 2]

The plain script is what a tutorial shows, at its most generous: eager torch in float32, a DataLoader with a worker a
core, the frozen backbone asked once a photograph and the same linear head trained on what it says. Ours begins with an
empty cache of features. Each variant runs in a process of its own, in turn, and is scored on the same test split.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from common import report
from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.models import registry
from pawprint.models.backbone import PooledNetwork
from pawprint.training import devices
from pawprint.training.feature_cache import FeatureCache
from pawprint.training.train import fit
from pawprint.training.trainer import NullLogger

NAME, EPOCHS, BATCH, RATE = "efficientnet_lite0", 100, 512, 0.003
VARIANTS = ("plain", "pawprint")


class Photographs(Dataset[tuple[Tensor, int]]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(self.split.images([index])[0])
        return (pixels.permute(2, 0, 1).float() - 127) / 128, int(self.split.labels[index])


@torch.no_grad()
def plain_features(network: PooledNetwork, split: Split) -> tuple[Tensor, Tensor]:
    loader = DataLoader(Photographs(split), batch_size=32, num_workers=os.cpu_count() or 1)
    found = [(network.embed(network.forward_features(inputs)), labels) for inputs, labels in loader]
    return torch.cat([one for one, _ in found]), torch.cat([labels for _, labels in found])


def plain(data: PreparedDataset) -> tuple[nn.Module, float]:
    """The head, and the seconds it took."""
    started = time.perf_counter()
    torch.manual_seed(0)
    network = registry.create_model(NAME)
    assert isinstance(network, PooledNetwork)
    network.load_pretrained()
    network.eval()
    features, labels = plain_features(network, data.split("train"))
    kept, right = plain_features(network, data.split("validation"))
    optimizer = torch.optim.Adam(network.head.parameters(), lr=RATE, weight_decay=1e-4)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):  # type: ignore[no-untyped-call]
            output = network.head(F.dropout(features[rows], 0.2))[:, 0]
            loss = F.binary_cross_entropy_with_logits(output, labels[rows].float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            F.binary_cross_entropy_with_logits(network.head(kept)[:, 0], right.float())
    return network.head, time.perf_counter() - started


def ours(data: PreparedDataset) -> tuple[nn.Module, float]:
    """The head, and the seconds it took."""
    started = time.perf_counter()
    trained = fit(NAME, load_params(), data, NullLogger())
    assert isinstance(trained.network, PooledNetwork)
    return trained.network.head, time.perf_counter() - started


def measure(variant: str, data: PreparedDataset) -> dict[str, float]:
    head, seconds = (plain if variant == "plain" else ours)(data)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
    network = registry.create_model(NAME)
    assert isinstance(network, PooledNetwork)
    network.load_pretrained()
    split = data.split("test")
    with torch.no_grad():
        features = torch.from_numpy(FeatureCache(network, NAME, devices.resolve_precision(load_params())).of(split))
        output = head(features)[:, 0] > 0
    right = int((output == torch.from_numpy(split.labels).bool()).sum())
    return {"seconds": seconds, "accuracy": right / len(split), "peak_gb": peak}


def few(data: PreparedDataset, photographs: int) -> PreparedDataset:
    """The set with at most so many photographs that are learned from; the test split whole."""
    learned = [row for row in data.rows if row.split in ("train", "validation")]
    tested = tuple(row for row in data.rows if row.split == "test")
    return replace(data, rows=(*learned[:photographs], *tested))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--photographs", type=int, default=10**9, help="learn from so many only, where time is short")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one only and print JSON")
    arguments = parser.parse_args()
    data = few(PreparedDataset.open(arguments.prepared), arguments.photographs)
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, data)))
        return
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    words = [sys.executable, __file__, str(arguments.prepared), "--photographs", str(arguments.photographs)]
    for _ in range(arguments.repeats):
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | {"PAWPRINT_CACHE": cache}
                done = subprocess.run(
                    [*words, "--variant", variant], capture_output=True, text=True, check=True, env=environment
                )
            found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    learned = len(data.split("train")) + len(data.split("validation"))
    print(f"{learned} photographs learned from, {len(data.split('test'))} tested, {EPOCHS} epochs of the head")
    for variant, rows in found.items():
        printed = ", ".join(f"{row['accuracy']:.4f} and {row['peak_gb']:.2f} GB" for row in rows)
        print(f"{variant}: test accuracy and peak memory {printed}")
    report("train_head", "seconds", {name: [row["seconds"] for row in rows] for name, rows in found.items()}, "plain")


if __name__ == "__main__":
    main()
