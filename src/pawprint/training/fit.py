"""The loop that trains every candidate.

    trained = fit("article_cnn", params, PreparedSet.open(Path("prepared")), logger)
    export(trained, data, lineage, Path("models/article_cnn"), logger)

`train: all` feeds photographs to the whole network. `train: head` computes the frozen backbone's features once
(features.py) and feeds those to the head. All else is the same for both.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from pawprint.errors import PawprintError
from pawprint.models import catalogue
from pawprint.models.network import Network, PooledNetwork
from pawprint.params import Candidate, Params
from pawprint.prepared.augment import augment
from pawprint.prepared.read import PreparedSet, Side
from pawprint.training import batches, devices
from pawprint.training.batches import Batch
from pawprint.training.features import Features
from pawprint.training.log import RunLogger
from pawprint.training.progress import Progress

SAMPLE = 1000  # training photographs whose embeddings are kept, to tell what is typical
EVALUATION_BATCH = 128

Optimizers: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda parameters, **rest: torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **rest),
}


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
    seconds: float  # of all of `fit`
    timings: dict[str, float]  # seconds of its parts


@dataclass(frozen=True)
class _Feed:
    """How the photographs reach the part of the network that is trained."""

    forward: Callable[[Tensor], Tensor]  # inputs -> logits [n, classes]
    train: Callable[[int], Iterator[Batch]]  # epoch -> batches
    validation: Callable[[], Iterator[Batch]]
    answers: Callable[[str, int], Answers]  # (side, first so many) -> what the network says of them


def fit(name: str, params: Params, data: PreparedSet, logger: RunLogger) -> Trained:
    """Train the candidate `name` on the training side, measured on the validation side after each epoch.

    Raises:
        PawprintError: The candidate or its architecture is unknown, or the data do not fit it.
    """
    started = time.perf_counter()
    candidate = params.candidate(name)
    device = devices.prepare(params.training, params.seed)
    network = catalogue.build(candidate.architecture, len(data.classes))
    network.load_pretrained()
    train, validation = data.side("train"), data.side("validation")
    if candidate.train == "head":
        feed = _features_feed(network, candidate, params, train, validation, device)
    else:
        feed = _pixels_feed(network, candidate, params, train, validation, device)
    fed = time.perf_counter()

    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = Optimizers[candidate.optimizer](
        trainable, lr=candidate.learning_rate, weight_decay=candidate.weight_decay
    )
    classes = len(data.classes)
    for epoch in range(1, candidate.epochs + 1):
        began = time.perf_counter()
        network.train()
        mean_loss, accuracy = MeanMetric().to(device), MulticlassAccuracy(classes, average="micro").to(device)
        with Progress(f"{name} epoch {epoch}/{candidate.epochs}", len(train)) as progress:
            for batch in feed.train(epoch):
                labels = batch.labels.to(device)
                logits = feed.forward(batch.inputs.to(device))
                loss = F.cross_entropy(logits, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                mean_loss.update(loss.detach(), weight=len(labels))
                accuracy.update(logits.detach(), labels)
                progress.advance(len(labels))
        values = {
            "train_loss": float(mean_loss.compute()),
            "train_accuracy": float(accuracy.compute()),
            "learning_rate": optimizer.param_groups[0]["lr"],
            "images_per_second": len(train) / (time.perf_counter() - began),
            **_validate(network, feed, classes, device),
            "epoch_seconds": time.perf_counter() - began,
        }
        logger.metrics(values, step=epoch)
        if epoch in {1, candidate.epochs} or epoch % max(1, candidate.epochs // 10) == 0:
            print(f"{name} epoch {epoch}/{candidate.epochs}: {_line(values)}", flush=True)
    learned = time.perf_counter()

    network.eval()
    sample, judged = feed.answers("train", min(SAMPLE, len(train))), feed.answers("validation", len(validation))
    done = time.perf_counter()
    timings = {"features": fed - started, "epochs": learned - fed, "answers": done - learned}
    logger.metrics({"train_seconds": done - started})
    return Trained(name, params, network.cpu(), sample, judged, done - started, timings)


def _pixels_feed(
    network: Network, candidate: Candidate, params: Params, train: Side, validation: Side, device: torch.device
) -> _Feed:
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sides = {"train": train, "validation": validation}

    def forward(pixels: Tensor) -> Tensor:
        with devices.autocast(device, params.training):
            logits: Tensor = network(network.normalise(pixels))
        return logits.float()

    def train_batches(epoch: int) -> Iterator[Batch]:
        pieces = batches.split(batches.order(len(train), params.seed, epoch), candidate.batch_size)
        return batches.photographs(train, pieces, augment(candidate.augment, params.seed, epoch))

    def in_order(side: Side, count: int) -> Iterator[Batch]:
        return batches.photographs(side, batches.split(np.arange(count), EVALUATION_BATCH), None)

    @torch.inference_mode()
    def answers(side: str, count: int) -> Answers:
        logits, embeddings = [], []
        for batch in in_order(sides[side], count):
            with devices.autocast(device, params.training):
                maps = network.maps(network.normalise(batch.inputs.to(device)))
                logits.append(network.logits(network.classify(maps)).float().cpu())
                embeddings.append(network.embed(maps).float().cpu())
        return _answers(logits, embeddings, network.classes)

    return _Feed(forward, train_batches, lambda: in_order(validation, len(validation)), answers)


def _features_feed(
    network: Network, candidate: Candidate, params: Params, train: Side, validation: Side, device: torch.device
) -> _Feed:
    if not isinstance(network, PooledNetwork):
        raise PawprintError(
            f"params.yaml: `train: head` needs a pretrained backbone, which {candidate.architecture} does not have. "
            "Set `train: all`."
        )
    if candidate.augment != "none":
        raise PawprintError(
            "params.yaml: `train: head` learns from features that are computed once a photograph, so nothing is "
            f"augmented. Set `augment: none` (found {candidate.augment!r}) or `train: all`."
        )
    sides = {"train": train, "validation": validation}
    cached = Features(network, candidate.architecture, params)
    features = {name: cached.of(side) for name, side in sides.items()}
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    network.to(device)

    def forward(inputs: Tensor) -> Tensor:
        return network.logits(network.classify_embedding(inputs))

    def train_batches(epoch: int) -> Iterator[Batch]:
        pieces = batches.split(batches.order(len(train), params.seed, epoch), candidate.batch_size)
        return batches.vectors(features["train"], train.labels, pieces)

    def validation_batches() -> Iterator[Batch]:
        return batches.vectors(features["validation"], validation.labels, [np.arange(len(validation))])

    @torch.inference_mode()
    def answers(side: str, count: int) -> Answers:
        embedding = torch.from_numpy(features[side][:count])
        return _answers([forward(embedding.to(device)).cpu()], [embedding], network.classes)

    return _Feed(forward, train_batches, validation_batches, answers)


@torch.inference_mode()
def _validate(network: Network, feed: _Feed, classes: int, device: torch.device) -> dict[str, float]:
    network.eval()
    mean_loss, accuracy = MeanMetric().to(device), MulticlassAccuracy(classes, average="micro").to(device)
    for batch in feed.validation():
        if len(batch.labels):
            labels = batch.labels.to(device)
            logits = feed.forward(batch.inputs.to(device))
            mean_loss.update(F.cross_entropy(logits, labels), weight=len(labels))
            accuracy.update(logits, labels)
    if mean_loss.weight == 0:
        return {}
    return {"validation_loss": float(mean_loss.compute()), "validation_accuracy": float(accuracy.compute())}


def _answers(logits: list[Tensor], embeddings: list[Tensor], classes: int) -> Answers:
    if not logits:
        return Answers(np.empty((0, classes), np.float32), np.empty((0, 0), np.float32))
    return Answers(torch.cat(logits).numpy(), torch.cat(embeddings).numpy())


def _line(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items() if not key.startswith("epoch")
    )
