"""A candidate of params.yaml -> a trained network.

    trained = fit("article_cnn", params, PreparedSet.open(Path("prepared")), logger)
    export(trained, data, lineage, Path("models/article_cnn"), logger)

`train: all` feeds photographs to the whole network, `finetune` trains the last blocks of a pretrained one.
`head` computes the frozen backbone's features once (features.py) and feeds those to the head. The loop
(loop.py) is the same for all.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pawprint.errors import PawprintError
from pawprint.models import catalogue
from pawprint.models.network import Network, PooledNetwork
from pawprint.params import Params, Training
from pawprint.prepared.augment import augment
from pawprint.prepared.read import PreparedSet, Side
from pawprint.training import batches, devices, distributed, resident
from pawprint.training.batches import Batch
from pawprint.training.checkpoint import Keeper
from pawprint.training.features import Features
from pawprint.training.log import RunLogger
from pawprint.training.loop import AUTO_BATCH, Feed, Loop

SAMPLE = 1000  # training photographs whose embeddings are kept, to tell what is typical
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Answers:
    """What a network says of some photographs."""

    logits: NDArray[np.float32]  # [n, classes]
    embedding: NDArray[np.float32]  # [n, d]


@dataclass(frozen=True)
class Trained:
    """A trained network and what export needs beside it."""

    candidate: str
    params: Params
    network: Network  # on the CPU, in evaluation mode
    sample: Answers  # of at most SAMPLE photographs of the training side
    validation: Answers
    seconds: float  # of all of `fit`, in all processes where one was killed
    timings: dict[str, float]  # seconds of its parts, in this process


def fit(name: str, params: Params, data: PreparedSet, logger: RunLogger, keeper: Keeper | None = None) -> Trained:
    """Train the candidate `name` on the training side, measured on the validation side after each epoch.

    With a `keeper` the training goes on from its checkpoint, if it has one, and leaves one for the next.

    Raises:
        PawprintError: The candidate or its architecture is unknown, the data do not fit it, or see Loop.run.
    """
    started = time.monotonic()
    candidate = params.candidate(name)
    with distributed.group(devices.prepare(params.training, params.seed)) as device:
        network = catalogue.build(candidate.architecture, len(data.classes))
        network.load_pretrained()
        if candidate.train != "all" and not network.pretrained:
            raise PawprintError(
                f"params.yaml: `candidates.{name}.train: {candidate.train}` needs a pretrained backbone, which "
                f"{candidate.architecture} does not have. Set `train: all`."
            )
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        source = (_FromFeatures if candidate.train == "head" else _FromPixels)(name, network, params, data, device)
        fed = time.monotonic()
        loop = Loop(name, params, network, source.feed(), device, logger, keeper)
        with devices.one_thread() if candidate.train == "head" and device.type == "cpu" else nullcontext():
            loop.run()
        learned = time.monotonic()
        sample = source.answers("train", min(SAMPLE, len(data.side("train"))))
        validation = source.answers("validation", len(data.side("validation")))
    done = time.monotonic()
    seconds = loop.seconds + done - started
    timings = {"features": fed - started, "epochs": learned - fed, "answers": done - learned}
    if distributed.rank() == 0:
        logger.metrics({"train_seconds": seconds})
    return Trained(name, params, network.cpu(), sample, validation, seconds, timings)


def warm(name: str, params: Params, data: PreparedSet) -> None:
    """Compute what many trainings of a candidate share: the features of a frozen backbone, where it has one."""
    candidate = params.candidate(name)
    network = catalogue.build(candidate.architecture, len(data.classes))
    if candidate.train == "head" and isinstance(network, PooledNetwork) and network.pretrained:
        network.load_pretrained()
        cached = Features(network, candidate.architecture, params)
        for side in ("train", "validation"):
            cached.of(data.side(side))


class _Source:
    """What both roads to the network share: sides, batches, order."""

    def __init__(self, name: str, network: Network, params: Params, data: PreparedSet, device: torch.device) -> None:
        self.network, self.params, self.device = network, params, device
        self.candidate = params.candidate(name)
        self.sides: dict[str, Side] = {side: data.side(side) for side in ("train", "validation")}
        size = self.candidate.batch_size
        self.batch_size = AUTO_BATCH if size == "auto" else size

    def feed(self) -> Feed:
        train = self.sides["train"]
        return Feed(
            module=self.module,
            train=self.train,
            validation=self.validation,
            labels=train.labels,
            validated=len(self.sides["validation"]),
            batch_size=self.batch_size,
            batches=-(-len(train) // self.batch_size),
            names=lambda indices: [train.origins[index] for index in indices],
        )

    def pieces(self, epoch: int, skip: int) -> list[NDArray[np.int64]]:
        order = batches.order(len(self.sides["train"]), self.params.seed, epoch)
        return batches.split(order, self.batch_size)[skip:]

    def module(self, network: Network) -> nn.Module:
        raise NotImplementedError

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        raise NotImplementedError

    def validation(self) -> Iterator[Batch]:
        raise NotImplementedError


class _FromPixels(_Source):
    """Photographs into the whole network."""

    def __init__(self, name: str, network: Network, params: Params, data: PreparedSet, device: torch.device) -> None:
        super().__init__(name, network, params, data, device)
        self.resident = resident.load(self.sides, device)

    def module(self, network: Network) -> nn.Module:
        return _Pixels(network, self.device, self.params.training)

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        pieces, side = self.pieces(epoch, skip), self.sides["train"]
        if self.resident is not None:
            return resident.batches(
                self.resident, side, pieces, self.candidate.augment, (self.params.seed, epoch, skip)
            )
        return batches.photographs(side, pieces, augment(self.candidate.augment, self.params.seed, epoch))

    def validation(self) -> Iterator[Batch]:
        return self._in_order("validation", len(self.sides["validation"]), alone=False)

    def _in_order(self, side: str, count: int, alone: bool) -> Iterator[Batch]:
        pieces = batches.split(np.arange(count), EVALUATION_BATCH)
        return batches.photographs(self.sides[side], pieces, None, alone)

    @torch.inference_mode()
    def answers(self, side: str, count: int) -> Answers:
        """What the network says of the first `count` photographs of `side`."""
        logits, embeddings = [], []
        for batch in self._in_order(side, count, alone=True):
            with devices.autocast(self.device, self.params.training):
                maps = self.network.maps(self.network.normalise(batch.inputs.to(self.device)))
                logits.append(self.network.logits(self.network.classify(maps)).float().cpu())
                embeddings.append(self.network.embed(maps).float().cpu())
        if not logits:
            return Answers(np.empty((0, self.network.classes), np.float32), np.empty((0, 0), np.float32))
        return Answers(torch.cat(logits).numpy(), torch.cat(embeddings).numpy())


class _FromFeatures(_Source):
    """The frozen backbone's features into the head."""

    def __init__(self, name: str, network: Network, params: Params, data: PreparedSet, device: torch.device) -> None:
        super().__init__(name, network, params, data, device)
        assert isinstance(network, PooledNetwork)  # all pretrained ones are
        self.head = network
        if self.candidate.augment != "none":
            raise PawprintError(
                f"params.yaml: `candidates.{name}.train: head` learns from features that are computed once a "
                f"photograph, so nothing is augmented. Set `augment: none` (found {self.candidate.augment!r}) or "
                "`train: finetune`."
            )
        cached = Features(network, self.candidate.architecture, params)
        if distributed.rank() == 0:
            for side in self.sides.values():
                cached.of(side)
        distributed.barrier()
        self.features = {name: cached.of(side) for name, side in self.sides.items()}
        network.requires_grad_(False)
        network.head.requires_grad_(True)
        network.to(device)

    def module(self, network: Network) -> nn.Module:
        assert isinstance(network, PooledNetwork)
        return _Head(network)

    def train(self, epoch: int, skip: int) -> Iterator[Batch]:
        return batches.vectors(self.features["train"], self.sides["train"].labels, self.pieces(epoch, skip))

    def validation(self) -> Iterator[Batch]:
        side = self.sides["validation"]
        return batches.vectors(self.features["validation"], side.labels, [np.arange(len(side))])

    @torch.inference_mode()
    def answers(self, side: str, count: int) -> Answers:
        """What the network says of the first `count` photographs of `side`."""
        embedding = torch.from_numpy(self.features[side][:count])
        logits = self.head.logits(self.head.classify_embedding(embedding.to(self.device)))
        return Answers(logits.cpu().numpy(), embedding.numpy())


class _Pixels(nn.Module):
    def __init__(self, network: Network, device: torch.device, training: Training) -> None:
        super().__init__()
        self.network, self.device, self.training_params = network, device, training

    def forward(self, pixels: Tensor) -> Tensor:
        with devices.autocast(self.device, self.training_params):
            logits: Tensor = self.network(self.network.normalise(pixels))
        return logits.float()


class _Head(nn.Module):
    def __init__(self, network: PooledNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, embedding: Tensor) -> Tensor:
        return self.network.logits(self.network.classify_embedding(embedding))
