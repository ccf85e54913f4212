"""A candidate of params.yaml -> a trained network.

    trained = fit("article_cnn", params, PreparedDataset.open(Path("prepared")), logger)
    export(trained, data, lineage, Path("models/article_cnn"), logger)

`train: all` trains the whole network, `head` and `finetune` the end of a pretrained one. They differ in what the
network is fed (dataloader.py); the loop (trainer.py) is the same.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset
from pawprint.models import registry
from pawprint.models.backbone import Network
from pawprint.training import devices, distributed
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.dataloader import Predictions, TrainingData, feature_caches, is_cacheable
from pawprint.training.head import HeadSolver
from pawprint.training.trainer import Objective, RunLogger, Trainer

SAMPLE, LEAST = 2000, 20  # training photographs whose embeddings are kept for the OOD score; and of each class


@dataclass(frozen=True)
class Trained:
    """A trained network and what export needs beside it."""

    candidate: str
    params: Params  # with the precision that was executed
    network: Network  # on the CPU, in evaluation mode, as `load_state_dict` of its weights gives it
    sample: Predictions  # of SAMPLE photographs of the training split, all classes alike as far as they go
    sampled: NDArray[np.int64]  # their places in the split
    class_scores: NDArray[np.float32] | None  # see inference/ood.py; where the backbone is a pretrained one as it was
    validation: Predictions
    epochs: int  # that its weights have learned for
    seconds: float  # of all of `fit`, in all processes where one was killed


def fit(
    name: str,
    params: Params,
    data: PreparedDataset,
    logger: RunLogger,
    checkpoints: CheckpointManager | None = None,
    objective: Objective | None = None,
) -> Trained:
    """Train the candidate `name` on the training split, measured on the validation split after each epoch.

    With `checkpoints` the training resumes from the checkpoint that it finds, and leaves one. `objective` is measured
    on the validation split at ten epochs and given to the logger.

    Raises:
        PawprintError: The candidate or its architecture is unknown, the data do not fit it, or see Trainer.run.
    """
    started = time.monotonic()
    params = devices.resolve_precision(params)
    with distributed.group(devices.prepare(params.training, params.seed)) as device:
        network = _create(name, params, len(data.classes))
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        source = TrainingData(name, network, params, data, device)
        trainer: HeadSolver | Trainer
        if params.candidate(name).optimizer == "lbfgs":
            trainer = HeadSolver(network, source, logger, objective)
        else:
            trainer = Trainer(network, source, logger, checkpoints, objective)
        with devices.one_thread() if params.candidate(name).train == "head" else nullcontext():
            trainer.run()
        sampled = spread(data.split("train").labels, SAMPLE, LEAST)
        sample, validation = source.predictions("train", sampled), source.predictions("validation")
    seconds = trainer.seconds + time.monotonic() - started
    if distributed.rank() == 0:
        logger.metrics({"train_seconds": seconds})
    # In another memory layout equal weights give outputs that differ in the last bit.
    network.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    scores = class_scores(network) if params.candidate(name).train == "head" else None
    return Trained(name, params, network, sample, sampled, scores, validation, trainer.kept_epoch, seconds)


def spread(labels: NDArray[np.int64], count: int, least: int) -> NDArray[np.int64]:
    """Places of about `count` photographs, equally many of each class as far as it has them, and `least` at least."""
    classes = np.unique(labels)
    each = max(least, count // max(1, len(classes)))
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:each] for label in classes]))


def class_scores(network: Network) -> NDArray[np.float32] | None:
    """[s, features + 1]: an embedding and 1 -> the pretrained network's class scores, less their mean."""
    if (found := network.class_scores()) is None:
        return None
    weights, bias = (tensor.double() for tensor in found)
    joined = torch.cat([weights - weights.mean(dim=0), (bias - bias.mean())[:, None]], dim=1)
    return joined.float().numpy()


def warm(name: str, params: Params, data: PreparedDataset) -> None:
    """Compute what many trainings of a candidate share: the features of its frozen part, where it has one."""
    params = devices.resolve_precision(params)
    network = _create(name, params, len(data.classes))
    candidate = params.candidate(name)
    if is_cacheable(network, candidate, devices.resolve(params.training)):
        for cache, split in feature_caches(network, candidate, params):
            cache.complete(data.split(split))


def _create(name: str, params: Params, classes: int) -> Network:
    candidate = params.candidate(name)
    registry.check(params)
    network = registry.create_model(candidate.architecture, classes, params.preprocess.size)
    network.load_pretrained()
    return network
