"""A candidate of params.yaml -> a trained network.

    trained = fit("article_cnn", params, PreparedDataset.open(Path("prepared")), logger)
    export(trained, data, lineage, Path("models/article_cnn"), logger)

`train: all` trains the whole network, `head` and `finetune` the end of a pretrained one. What differs is what the
network is fed (inputs.py); the loop (loop.py) is the same for all.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.models import registry
from pawprint.models.backbone import Network
from pawprint.training import devices, distributed, inputs
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.inputs import Answers
from pawprint.training.logger import RunLogger
from pawprint.training.trainer import Loop

SAMPLE = 1000  # training photographs whose embeddings are kept, to tell what is typical


@dataclass(frozen=True)
class Trained:
    """A trained network and what export needs beside it."""

    candidate: str
    params: Params
    network: Network  # on the CPU, in evaluation mode
    sample: Answers  # of at most SAMPLE photographs of the training split
    validation: Answers
    seconds: float  # of all of `fit`, in all processes where one was killed
    timings: dict[str, float]  # seconds of its parts, in this process


def fit(
    name: str, params: Params, data: PreparedDataset, logger: RunLogger, checkpoints: CheckpointManager | None = None
) -> Trained:
    """Train the candidate `name` on the training split, measured on the validation split after each epoch.

    With a `checkpoints` the training goes on from its checkpoint, if it has one, and leaves one for the next.

    Raises:
        PawprintError: The candidate or its architecture is unknown, the data do not fit it, or see Loop.run.
    """
    started = time.monotonic()
    candidate = params.candidate(name)
    with distributed.group(devices.prepare(params.training, params.seed)) as device:
        network = registry.create_model(candidate.architecture, len(data.classes))
        network.load_pretrained()
        if candidate.train != "all" and not network.pretrained:
            raise PawprintError(
                f"params.yaml: `candidates.{name}.train: {candidate.train}` needs a pretrained backbone, which "
                f"{candidate.architecture} does not have. Set `train: all`."
            )
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        source = inputs.source(name, network, params, data, device)
        fed = time.monotonic()
        loop = Loop(name, params, network, source.feed(), device, logger, checkpoints)
        with devices.one_thread() if candidate.train == "head" and device.type == "cpu" else nullcontext():
            loop.run()
        learned = time.monotonic()
        sample = source.answers("train", min(SAMPLE, len(data.split("train"))))
        validation = source.answers("validation", len(data.split("validation")))
    done = time.monotonic()
    seconds = loop.seconds + done - started
    timings = {"features": fed - started, "epochs": learned - fed, "answers": done - learned}
    if distributed.rank() == 0:
        logger.metrics({"train_seconds": seconds})
    return Trained(name, params, network.cpu(), sample, validation, seconds, timings)


def warm(name: str, params: Params, data: PreparedDataset) -> None:
    """Compute what many trainings of a candidate share: what its frozen part says, where it has one."""
    candidate = params.candidate(name)
    network = registry.create_model(candidate.architecture, len(data.classes))
    network.load_pretrained()
    if network.pretrained and inputs.is_frozen(network, candidate, devices.resolve(params.training)):
        for cached, split in inputs.caches(network, candidate, params):
            cached.complete(data.split(split))
