"""What a candidate's network is fed: photographs, or what its frozen part said of them.

    source = feeds.source(name, network, params, data, device)
    Loop(name, params, network, source.feed(), device, logger, checkpoints).run()
    source.answers("validation", 100)

The part in front of a head, or of the last blocks, is frozen: what it says is a function of the photograph alone where
nothing is varied but the mirror. It is then computed once (features.py), and a step costs only what is trained.
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
from pawprint.training.feature_cache import Features, maps_shape
from pawprint.training.trainer import AUTO_BATCH, Feed

EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Answers:
    """What a network says of some photographs."""

    logits: NDArray[np.float32]  # [n, classes]
    embedding: NDArray[np.float32]  # [n, d]


def source(name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device) -> "Source":
    """The shortest road that leads to the same training."""
    frozen = is_frozen(network, params.candidate(name), device)
    return (FromFrozen if frozen else FromPixels)(name, network, params, data, device)


def is_frozen(network: Network, candidate: Candidate, device: torch.device) -> bool:
    """Whether what is trained is fed from the cache of what is not.

    Fine-tuning on a GPU is not: the photographs themselves are resident there. Maps that are larger than the photograph
    are not kept.
    """
    if candidate.train == "head":
        return True
    if candidate.train == "all" or candidate.augment not in ("none", "flip") or candidate.mixup:
        return False
    assert isinstance(network, PooledNetwork)  # all pretrained ones are
    return device.type != "cuda" and 2 * math.prod(maps_shape(network, candidate.blocks)) < 3 * image.SIZE**2


def caches(network: Network, candidate: Candidate, params: Params) -> list[tuple[Features, SplitName]]:
    """What a training of the end reads: of both splits, and the training split's mirror images where they take part."""
    assert isinstance(network, PooledNetwork)
    asked: list[tuple[SplitName, bool]] = [("train", False), ("validation", False)]
    if candidate.augment == "flip":
        asked.append(("train", True))
    blocks = candidate.blocks if candidate.train == "finetune" else 0
    made = {turned: Features(network, candidate.architecture, params, blocks, turned) for _, turned in asked}
    return [(made[turned], split) for split, turned in asked]


class Source:
    """What both roads to the network share: splits, batches, order."""

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        self.network, self.params, self.device = network, params, device
        self.candidate = params.candidate(name)
        self.splits: dict[str, Split] = {split: data.split(split) for split in ("train", "validation")}
        size = self.candidate.batch_size
        self.batch_size = AUTO_BATCH if size == "auto" else size

    def feed(self) -> Feed:
        train = self.splits["train"]
        return Feed(
            module=self.module,
            train=self.train,
            validation=self.validation,
            labels=train.labels,
            validated=len(self.splits["validation"]),
            batch_size=self.batch_size,
            batches=-(-len(train) // self.batch_size),
            names=lambda indices: [train.origins[index] for index in indices],
        )

    def pieces(self, epoch: int, skip: int) -> list[NDArray[np.int64]]:
        order = dataloader.order(len(self.splits["train"]), self.params.seed, epoch)
        return dataloader.chunks(order, self.batch_size)[skip:]

    def module(self, network: Network) -> nn.Module:
        raise NotImplementedError

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        raise NotImplementedError

    def validation(self) -> Iterator[Batch]:
        raise NotImplementedError

    def answers(self, split: str, count: int) -> Answers:
        """What the network says of the first `count` photographs of `split`."""
        raise NotImplementedError


class FromPixels(Source):
    """Photographs into the whole network."""

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        super().__init__(name, network, params, data, device)
        self.resident = gpu_dataloader.load(self.splits, device)

    def module(self, network: Network) -> nn.Module:
        return _Pixels(network, self.device, self.params.training)

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        pieces, split = self.pieces(epoch, skip), self.splits["train"]
        if self.resident is not None:
            return gpu_dataloader.batches(
                self.resident, split, pieces, self.candidate.augment, (self.params.seed, epoch, skip)
            )
        return dataloader.photographs(split, pieces, augment(self.candidate.augment, self.params.seed, epoch))

    def validation(self) -> Iterator[Batch]:
        return self._in_order("validation", len(self.splits["validation"]), alone=False)

    def _in_order(self, split: str, count: int, alone: bool) -> Iterator[Batch]:
        pieces = dataloader.chunks(np.arange(count), EVALUATION_BATCH)
        return dataloader.photographs(self.splits[split], pieces, None, alone)

    @torch.inference_mode()
    def answers(self, split: str, count: int) -> Answers:
        logits, embeddings = [], []
        for batch in self._in_order(split, count, alone=True):
            with devices.autocast(self.device, self.params.training):
                maps = self.network.maps(self.network.normalise(batch.inputs.to(self.device)))
                logits.append(self.network.logits(self.network.classify(maps)).float().cpu())
                embeddings.append(self.network.embed(maps).float().cpu())
        if not logits:
            return Answers(np.empty((0, self.network.classes), np.float32), np.empty((0, 0), np.float32))
        return Answers(torch.cat(logits).numpy(), torch.cat(embeddings).numpy())


class FromFrozen(Source):
    """What the frozen part says into the part that is trained."""

    def __init__(
        self, name: str, network: Network, params: Params, data: PreparedDataset, device: torch.device
    ) -> None:
        super().__init__(name, network, params, data, device)
        assert isinstance(network, PooledNetwork)
        if self.candidate.augment not in ("none", "flip"):
            raise PawprintError(
                f"params.yaml: `candidates.{name}.train: head` learns from features that are computed once, of a "
                "photograph and of its mirror image. Set `augment` to none or flip (found "
                f"{self.candidate.augment!r}), or `train: finetune`."
            )
        cached = caches(network, self.candidate, params)
        if distributed.rank() == 0:
            for one, split in cached:
                one.complete(self.splits[split])
        distributed.barrier()
        self.learned, self.validated, *turned = [one.rows(self.splits[split]) for one, split in cached]
        self.turned = turned[0] if turned else None
        if self.candidate.train == "head":
            network.requires_grad_(False)
            network.head.requires_grad_(True)
        network.to(device)

    def module(self, network: Network) -> nn.Module:
        return _End(network, self.candidate, self.device, self.params.training)

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        def draw(photograph_hash: str) -> bool:
            return mirrored(self.params.seed, epoch, photograph_hash)

        return dataloader.kept(self.splits["train"], self.pieces(epoch, skip), self.learned, self.turned, draw)

    def validation(self) -> Iterator[Batch]:
        split = self.splits["validation"]
        return dataloader.kept(split, dataloader.chunks(np.arange(len(split)), EVALUATION_BATCH), self.validated)

    @torch.inference_mode()
    def answers(self, split: str, count: int) -> Answers:
        rows = self.learned if split == "train" else self.validated
        end = _End(self.network, self.candidate, self.device, self.params.training)
        logits = [np.empty((0, self.network.classes), np.float32)]
        embeddings = [np.empty((0, end.network.head.in_features), np.float32)]
        for indices in dataloader.chunks(np.arange(count), EVALUATION_BATCH):
            embedding = end.embed(torch.from_numpy(rows[indices]).to(self.device))
            logits.append(end.classify(embedding).cpu().numpy())
            embeddings.append(embedding.cpu().numpy())
        return Answers(np.concatenate(logits), np.concatenate(embeddings))


class _Pixels(nn.Module):
    def __init__(self, network: Network, device: torch.device, training: Training) -> None:
        super().__init__()
        self.network, self.device, self.training_params = network, device, training

    def forward(self, pixels: Tensor) -> Tensor:
        with devices.autocast(self.device, self.training_params):
            logits: Tensor = self.network(self.network.normalise(pixels))
        return logits.float()


class _End(nn.Module):
    """The part that is trained: what `Features` gives -> logits."""

    def __init__(self, network: Network, candidate: Candidate, device: torch.device, training: Training) -> None:
        super().__init__()
        assert isinstance(network, PooledNetwork)
        self.network, self.device, self.training_params = network, device, training
        self.blocks = candidate.blocks if candidate.train == "finetune" else 0

    def embed(self, rows: Tensor) -> Tensor:
        if not self.blocks:
            return rows
        maps = rows.contiguous(memory_format=torch.channels_last)
        with devices.autocast(self.device, self.training_params):
            return self.network.embed(self.network.back(maps, self.blocks)).float()

    def classify(self, embedding: Tensor) -> Tensor:
        return self.network.logits(self.network.classify_embedding(embedding))

    def forward(self, rows: Tensor) -> Tensor:
        return self.classify(self.embed(rows))
