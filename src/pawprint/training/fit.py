"""A candidate of params.yaml -> a trained network.

    trained = fit("article_cnn", params, PreparedSet.open(Path("prepared")), logger)
    export(trained, data, lineage, Path("models/article_cnn"), logger)

`train: all` trains the whole network, `head` and `finetune` the end of a pretrained one. What differs is what the
network is fed (feeds.py); the loop (loop.py) is the same for all.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from pawprint.errors import PawprintError
from pawprint.models import catalogue
from pawprint.models.network import Network
from pawprint.params import Params
from pawprint.prepared.read import PreparedSet
from pawprint.training import devices, distributed, feeds
from pawprint.training.checkpoint import Keeper
from pawprint.training.feeds import Answers
from pawprint.training.log import RunLogger
from pawprint.training.loop import Loop

SAMPLE = 1000  # training photographs whose embeddings are kept, to tell what is typical


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
        source = feeds.source(name, network, params, data, device)
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
    """Compute what many trainings of a candidate share: what its frozen part says, where it has one."""
    candidate = params.candidate(name)
    network = catalogue.build(candidate.architecture, len(data.classes))
    network.load_pretrained()
    if network.pretrained and feeds.is_frozen(network, candidate, devices.resolve(params.training)):
        for cached, side in feeds.caches(network, candidate, params):
            cached.complete(data.side(side))
