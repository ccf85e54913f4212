"""What a network is trained on: photographs, or the cached features of its frozen part.

    data = training_data(name, network, params, prepared, device)
    Trainer(name, params, network, data, device, logger, checkpoints).run()
    data.predictions("validation", 100)

The part in front of a head, or of the last blocks, is frozen: its output is a function of the photograph alone, where
nothing is augmented but the mirror image. It is then computed once (feature_cache.py), and a step costs only what is
trained.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pawprint import image
from pawprint.config import Candidate, Params, Training
from pawprint.data.augment import augment, mirrored
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.data.splits import SplitName
from pawprint.errors import PawprintError
from pawprint.models.backbone import Network, PooledNetwork
from pawprint.training import dataloader, devices, distributed, gpu_dataloader
from pawprint.training.dataloader import Batch
from pawprint.training.feature_cache import FeatureCache, maps_shape

AUTO_BATCH = 128
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Predictions:
    """A network's outputs for some photographs."""

    logits: NDArray[np.float32]  # [n, classes]
    embedding: NDArray[np.float32]  # [n, d]


def training_data(
    name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
) -> "TrainingData":
    """Features where that gives the same training as photographs, photographs elsewhere."""
    kind = FeatureData if is_cacheable(network, params.candidate(name), device) else PhotographData
    return kind(name, network, params, data, device)


def is_cacheable(network: Network, candidate: Candidate, device: torch.device) -> bool:
    """Whether the trained part is fed from the cached output of the frozen part.

    Fine-tuning on a GPU is not: the photographs themselves are resident there. Maps that are larger than the photograph
    are not cached.
    """
    if candidate.train == "head":
        return True
    if candidate.train == "all" or candidate.augment not in ("none", "flip") or candidate.mixup:
        return False
    shape = maps_shape(network.pooled(), candidate.blocks)
    return device.type != "cuda" and 2 * math.prod(shape) < 3 * image.SIZE**2


def feature_caches(
    network: PooledNetwork, candidate: Candidate, params: Params
) -> list[tuple[FeatureCache, SplitName]]:
    """The caches that a training reads: of both splits, and of the training split's mirror images for `flip`."""
    wanted: list[tuple[SplitName, bool]] = [("train", False), ("validation", False)]
    if candidate.augment == "flip":
        wanted.append(("train", True))
    blocks = candidate.blocks if candidate.train == "finetune" else 0
    caches = {flip: FeatureCache(network, candidate.architecture, params, blocks, flip) for _, flip in wanted}
    return [(caches[flip], split) for split, flip in wanted]


class TrainingData:
    """The splits, in batches of a seeded order. A subclass says what a batch holds."""

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        self.network, self.params, self.device = network, params, device
        self.candidate = params.candidate(name)
        self.splits: dict[str, Split] = {split: data.split(split) for split in ("train", "validation")}
        self.labels = self.splits["train"].labels
        size = self.candidate.batch_size
        self.batch_size = AUTO_BATCH if size == "auto" else size
        self.batches = -(-len(self.labels) // self.batch_size)  # an epoch

    def order(self, epoch: int, skip: int) -> list[NDArray[np.int64]]:
        """Indices of each batch of an epoch, but of the first `skip`."""
        order = dataloader.order(len(self.labels), self.params.seed, epoch)
        return dataloader.chunks(order, self.batch_size)[skip:]

    def module(self, network: Network) -> nn.Module:
        """The module that takes a batch's inputs to logits [n, classes]."""
        raise NotImplementedError

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        """This process's batches of an epoch, but the first `skip`."""
        raise NotImplementedError

    def validation(self) -> Iterator[Batch]:
        """This process's batches of the validation split."""
        raise NotImplementedError

    def predictions(self, split: str, count: int) -> Predictions:
        """The network's outputs for the first `count` photographs of a split."""
        raise NotImplementedError


class PhotographData(TrainingData):
    """Photographs, for the whole network."""

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        super().__init__(name, network, params, data, device)
        self.resident = gpu_dataloader.load(self.splits, device)

    def module(self, network: Network) -> nn.Module:
        return _WholeNetwork(network, self.device, self.params.training)

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        order, split, kind, seed = (
            self.order(epoch, skip),
            self.splits["train"],
            self.candidate.augment,
            self.params.seed,
        )
        if self.resident is not None:
            return gpu_dataloader.batches(self.resident, split, order, kind, (seed, epoch, skip))
        return dataloader.photographs(split, order, augment(kind, seed, epoch))

    def validation(self) -> Iterator[Batch]:
        return self._in_order("validation", len(self.splits["validation"]), alone=False)

    def _in_order(self, split: str, count: int, alone: bool) -> Iterator[Batch]:
        return dataloader.photographs(
            self.splits[split], dataloader.chunks(np.arange(count), EVALUATION_BATCH), None, alone
        )

    @torch.inference_mode()
    def predictions(self, split: str, count: int) -> Predictions:
        logits = [torch.empty((0, self.network.classes))]
        embeddings = []
        for batch in self._in_order(split, count, alone=True):
            with devices.autocast(self.device, self.params.training):
                maps = self.network.forward_features(self.network.normalise(batch.inputs.to(self.device)))
                logits.append(self.network.logits(self.network.forward_head(maps)).float().cpu())
                embeddings.append(self.network.embed(maps).float().cpu())
        return Predictions(torch.cat(logits).numpy(), torch.cat(embeddings or [torch.empty((0, 0))]).numpy())


class FeatureData(TrainingData):
    """Cached outputs of the frozen part, for the trained part."""

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        super().__init__(name, network, params, data, device)
        if self.candidate.augment not in ("none", "flip"):
            raise PawprintError(
                f"params.yaml: `candidates.{name}.train: head` learns from features that are computed once, of a "
                "photograph and of its mirror image. Set `augment` to none or flip (found "
                f"{self.candidate.augment!r}), or `train: finetune`."
            )
        caches = feature_caches(network.pooled(), self.candidate, params)
        if distributed.rank() == 0:
            for cache, split in caches:
                cache.complete(self.splits[split])
        distributed.barrier()
        self.train_rows, self.validation_rows, *flipped = [cache.rows(self.splits[split]) for cache, split in caches]
        self.flipped_rows = flipped[0] if flipped else None
        network.to(device)

    def module(self, network: Network) -> nn.Module:
        return _TrainedPart(network.pooled(), self.candidate, self.device, self.params.training)

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        def flip(photograph_hash: str) -> bool:
            return mirrored(self.params.seed, epoch, photograph_hash)

        order = self.order(epoch, skip)
        return dataloader.features(self.splits["train"], order, self.train_rows, self.flipped_rows, flip)

    def validation(self) -> Iterator[Batch]:
        split = self.splits["validation"]
        order = dataloader.chunks(np.arange(len(split)), EVALUATION_BATCH)
        return dataloader.features(split, order, self.validation_rows)

    @torch.inference_mode()
    def predictions(self, split: str, count: int) -> Predictions:
        rows = self.train_rows if split == "train" else self.validation_rows
        network = self.network.pooled()
        part = _TrainedPart(network, self.candidate, self.device, self.params.training)
        logits = [np.empty((0, network.classes), np.float32)]
        embeddings = [np.empty((0, network.head.in_features), np.float32)]
        for indices in dataloader.chunks(np.arange(count), EVALUATION_BATCH):
            embedding = part.embed(torch.from_numpy(rows[indices]).to(self.device))
            logits.append(part.classify(embedding).cpu().numpy())
            embeddings.append(embedding.cpu().numpy())
        return Predictions(np.concatenate(logits), np.concatenate(embeddings))


class _WholeNetwork(nn.Module):
    """uint8 [n, 300, 300, 3] -> logits [n, classes]."""

    def __init__(self, network: Network, device: torch.device, training: Training) -> None:
        super().__init__()
        self.network, self.device, self.training_params = network, device, training

    def forward(self, pixels: Tensor) -> Tensor:
        with devices.autocast(self.device, self.training_params):
            logits: Tensor = self.network(self.network.normalise(pixels))
        return logits.float()


class _TrainedPart(nn.Module):
    """Rows of a FeatureCache -> logits [n, classes]."""

    def __init__(self, network: PooledNetwork, candidate: Candidate, device: torch.device, training: Training) -> None:
        super().__init__()
        self.network, self.device, self.training_params = network, device, training
        self.blocks = candidate.blocks if candidate.train == "finetune" else 0

    def embed(self, rows: Tensor) -> Tensor:
        if not self.blocks:
            return rows
        maps = rows.contiguous(memory_format=torch.channels_last)
        with devices.autocast(self.device, self.training_params):
            return self.network.embed(self.network.forward_trained(maps, self.blocks)).float()

    def classify(self, embedding: Tensor) -> Tensor:
        return self.network.logits(self.network.head_of(embedding))

    def forward(self, rows: Tensor) -> Tensor:
        return self.classify(self.embed(rows))
