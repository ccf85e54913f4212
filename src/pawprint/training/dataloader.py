"""What a network is trained on, in batches of a seeded order: photographs, or cached features of its frozen part.

    data = TrainingData(name, network, params, prepared, device)
    for batch in data.train(epoch=1): ...       # the next one is prepared while this one is computed
    data.predictions("validation", 100)

The part in front of a head, or of the last blocks, is frozen: its output is a function of the photograph alone, where
nothing is augmented but the mirror image. It is then computed once (feature_cache.py), and a step costs only what is
trained.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pawprint.config import Candidate, Params, Training
from pawprint.data.augment import Pixels, augment, mirrored
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.data.splits import SplitName
from pawprint.errors import PawprintError
from pawprint.models.backbone import Network
from pawprint.training import devices, distributed, gpu_dataloader
from pawprint.training.feature_cache import FeatureCache, JoinedFeatures, Rows, cached_features, maps_shape

T = TypeVar("T")
Indices = NDArray[np.int64]
Source = Callable[[Indices, int], Tensor]  # photographs of a split, the batch's number -> a network's inputs
PREFETCH = 2  # batches
AUTO_BATCH = 128
EVALUATION_BATCH = 128


class Batch(NamedTuple):
    """Some photographs, or their features."""

    inputs: Tensor  # uint8 [n, size, size, 3], or float32 [n, d] or [n, c, h, w]
    labels: Tensor  # int64 [n]
    indices: Indices  # [n], in the split
    whole: int  # photographs of this batch in all processes together


@dataclass(frozen=True)
class Predictions:
    """A network's outputs for some photographs."""

    logits: NDArray[np.float32]  # [n, classes]
    embedding: NDArray[np.float32]  # [n, d]


def order(count: int, seed: int, epoch: int) -> Indices:
    """A permutation of range(count) that depends on nothing but seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def chunks(indices: Indices, size: int, least: int = 1) -> list[Indices]:
    """Pieces of `size`; the last may be smaller, but one below `least` is added to the piece before it."""
    pieces = [indices[start : start + size] for start in range(0, len(indices), size)]
    if len(pieces) > 1 and len(pieces[-1]) < least:
        pieces[-2:] = [np.concatenate(pieces[-2:])]
    return pieces


def batches(split: Split, source: Source, order: list[Indices], first: int = 0, alone: bool = False) -> Iterator[Batch]:
    """The batches of `order`, numbered from `first`: this process's share of each, or the whole where it is `alone`."""
    for number, batch in enumerate(order, start=first):
        indices = batch if alone else distributed.share(batch)
        yield Batch(source(indices, number), torch.from_numpy(split.labels[indices]), indices, len(batch))


def photographs(split: Split, augment: Callable[[Pixels, str], Pixels] | None = None) -> Source:
    """Pixels; `augment` takes a photograph and its hash."""

    def read(indices: Indices, _number: int) -> Tensor:
        pixels = split.images(indices)
        if augment is not None:
            pixels = np.stack([augment(one, split.hashes[i]) for one, i in zip(pixels, indices, strict=True)])
        return torch.from_numpy(pixels)

    return read


def features(rows: Rows, flipped: Rows | None = None, flip: Callable[[int], bool] | None = None) -> Source:
    """Cached features; `flipped`, those of mirror images, where `flip` says so of a photograph's place."""

    def read(indices: Indices, _number: int) -> Tensor:
        inputs = rows[indices]
        if flipped is not None and flip is not None:
            chosen = np.array([flip(index) for index in indices], bool)
            inputs[chosen] = flipped[indices[chosen]]
        return torch.from_numpy(inputs)

    return read


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, up to PREFETCH of them prepared by a thread. An error in the thread is raised here."""
    with ThreadPoolExecutor(1, "batches") as thread:
        ready = deque(thread.submit(next, items, None) for _ in range(PREFETCH))
        while (item := ready.popleft().result()) is not None:
            ready.append(thread.submit(next, items, None))
            yield item


def is_cacheable(network: Network, candidate: Candidate, device: torch.device) -> bool:
    """Whether the trained part is fed from the cached output of the frozen part.

    Fine-tuning on a GPU is not: the photographs themselves are resident there. Maps that are larger than the photograph
    are not cached.
    """
    if candidate.train == "head":
        return True
    if (
        candidate.train == "all"
        or not network.maps_can_be_cached
        or candidate.augment not in ("none", "flip")
        or candidate.mixup
    ):
        return False
    return device.type != "cuda" and 2 * math.prod(maps_shape(network, candidate.blocks)) < 3 * network.size**2


def feature_caches(
    network: Network, candidate: Candidate, params: Params
) -> list[tuple[FeatureCache | JoinedFeatures, SplitName]]:
    """The caches that a training reads: of both splits, and of the training split's mirror images for `flip`."""
    blocks, name = candidate.trained_blocks or 0, candidate.architecture
    plain = cached_features(network, name, params, blocks)
    mirror = [cached_features(network, name, params, blocks, mirrored=True)] if candidate.augment == "flip" else []
    return [(plain, "train"), (plain, "validation"), *((cache, "train") for cache in mirror)]


class TrainingData:
    """Both splits, and the module that takes a batch's inputs to logits.

    Raises:
        PawprintError: A head is to be trained with an augmentation that its cached features cannot have, or there are
            more processes than photographs in a batch.
    """

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        self.name, self.network, self.params, self.device = name, network, params, device
        self.candidate = params.candidate(name)
        self.splits: dict[SplitName, Split] = {"train": data.split("train"), "validation": data.split("validation")}
        self.labels = self.splits["train"].labels
        size = self.candidate.batch_size
        self.batch_size = AUTO_BATCH if size == "auto" else size
        if min(self.batch_size, len(self.labels)) < distributed.world():
            raise PawprintError(
                f"{name}: {distributed.world()} processes share batches of {min(self.batch_size, len(self.labels))} "
                "photographs, and one would have none. Start fewer processes or raise `batch_size`."
            )
        self.batches = len(self._epoch(np.arange(len(self.labels))))
        self.rows: dict[SplitName, Rows] = {}  # cached features; empty where photographs are read
        self.flipped: Rows | None = None
        if is_cacheable(network, self.candidate, device):
            self._read_features()
        self.resident = None if self.rows else gpu_dataloader.load(self.splits["train"], device)

    def _read_features(self) -> None:
        if self.candidate.augment not in ("none", "flip"):
            raise PawprintError(
                f"params.yaml: `candidates.{self.name}.train: head` learns from features that are computed once, of a "
                "photograph and of its mirror image. Set `augment` to none or flip (found "
                f"{self.candidate.augment!r}), or `train: finetune`."
            )
        caches = feature_caches(self.network, self.candidate, self.params)
        if distributed.rank() == 0:
            for cache, split in caches:
                cache.complete(self.splits[split])
        distributed.barrier()
        train, validation, *flipped = [cache.rows(self.splits[split]) for cache, split in caches]
        self.rows, self.flipped = {"train": train, "validation": validation}, flipped[0] if flipped else None
        self.network.to(self.device)

    def train(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """This process's batches of an epoch, but the first `skip`."""
        split, seed, kind = self.splits["train"], self.params.seed, self.candidate.augment
        pieces = self._epoch(order(len(split), seed, epoch))[skip:]
        if self.rows:
            source = features(self.rows["train"], self.flipped, lambda i: mirrored(seed, epoch, split.hashes[i]))
        elif self.resident is not None:
            source = gpu_dataloader.resident(self.resident, kind, seed, epoch)
        else:
            return prefetch(batches(split, photographs(split, augment(kind, seed, epoch, split.size)), pieces, skip))
        return batches(split, source, pieces, skip)

    def _epoch(self, indices: Indices) -> list[Indices]:
        """The batches of an epoch; each has a photograph for every process, for batch norm cannot do with none."""
        return chunks(indices, self.batch_size, distributed.world())

    def in_order(self, name: SplitName, chosen: Indices | None = None, alone: bool = False) -> Iterator[Batch]:
        """The `chosen` photographs of a split, or all, as they are; see `batches`."""
        split = self.splits[name]
        pieces = chunks(np.arange(len(split)) if chosen is None else chosen, EVALUATION_BATCH)
        if self.rows:
            return batches(split, features(self.rows[name]), pieces, alone=alone)
        return prefetch(batches(split, photographs(split), pieces, alone=alone))

    def module(self, network: Network) -> "TrainedPart":
        """The module for these inputs that trains `network`."""
        blocks = self.candidate.trained_blocks if self.rows else None
        return TrainedPart(network, blocks, self.device, self.params.training)

    @torch.inference_mode()
    def predictions(self, split: SplitName, chosen: Indices | None = None) -> Predictions:
        """The network's outputs for the `chosen` photographs of a split, or all."""
        count, start = len(self.splits[split]) if chosen is None else len(chosen), 0
        # Each in its place: outputs kept one by one hold the memory of batches between them, 18 GB at 150,000.
        sizes = self.network.classes, self.network.features
        logits, embedding = (np.empty((count, size), np.float32) for size in sizes)
        module = self.module(self.network)
        for batch in self.in_order(split, chosen, alone=True):
            part = slice(start, start := start + batch.whole)
            for kept, output in zip((logits, embedding), module.outputs(batch.inputs.to(self.device)), strict=True):
                kept[part] = output.cpu().numpy()
        return Predictions(logits, embedding)


class TrainedPart(nn.Module):
    """A batch's inputs -> logits [n, classes].

    With `blocks` the inputs are those of the last so many blocks of the backbone, or for 0 of the head; with None
    photographs for the whole network, uint8 [n, size, size, 3].
    """

    def __init__(self, network: Network, blocks: int | None, device: torch.device, training: Training) -> None:
        super().__init__()
        self.network, self.blocks, self.device, self.training_params = network, blocks, device, training

    def forward(self, inputs: Tensor) -> Tensor:
        if self.blocks is not None:
            return self.outputs(inputs)[0]
        with devices.autocast(self.device, self.training_params):
            logits: Tensor = self.network(self.network.normalise(inputs))
        return logits.float()

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [n, classes], embedding [n, d])."""
        network, embedding = self.network, inputs
        if self.blocks == 0:  # a head is too small for a lower precision to save time, and its logits would be rounded
            return network.logits(network.head_of(embedding)), embedding
        with devices.autocast(self.device, self.training_params):
            if self.blocks is None:
                maps = network.forward_features(network.normalise(inputs))
                return network.logits(network.forward_head(maps)).float(), network.embed(maps).float()
            if self.blocks:
                maps = inputs.contiguous(memory_format=torch.channels_last)
                embedding = network.embed(network.forward_trained(maps, self.blocks)).float()
        return network.logits(network.head_of(embedding)), embedding
