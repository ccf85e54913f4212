"""One training by several processes of a Ray cluster: `fit`, as torchrun would run it.

PAWPRINT_ENGINE=ray PAWPRINT_PROCESSES=4 python -m flows.train --candidate deep_cnn
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pawprint import parallel
from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset
from pawprint.progress import say
from pawprint.training import devices, distributed
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.train import Trained, fit, warm
from pawprint.training.trainer import NullLogger, RunLogger


def fit_anywhere(
    name: str, params: Params, data: PreparedDataset, logger: RunLogger, checkpoints: CheckpointManager
) -> Trained:
    """`fit` here, or by PAWPRINT_PROCESSES processes of a cluster. A solved head is always one process's."""
    count = parallel.processes()
    if count == 1 or params.candidate(name).optimizer == "lbfgs":
        return fit(name, params, data, logger, checkpoints)
    warm(name, params, data)  # on every core of the cluster
    epochs = params.candidate(name).epochs

    def received(message: tuple[Mapping[str, float], int | None]) -> None:
        values, step = message
        logger.metrics(values, step)
        if step is not None and (step in {1, epochs} or step % max(1, epochs // 10) == 0):
            say(f"  epoch {step}/{epochs}: train loss {values['train_loss']:.4f}", candidate=name, epoch=step, **values)

    say(f"  {count} processes on the cluster")
    gpus = devices.resolve(params.training).type == "cuda"
    work = _Fit(name, params, data.folder.absolute(), checkpoints)
    return parallel.together(work, count, checkpoints.path.with_suffix(".ray"), received, gpus)


class _Fit:
    """`fit` in one of the processes."""

    def __init__(self, name: str, params: Params, prepared: Path, checkpoints: CheckpointManager) -> None:
        self.name, self.params, self.prepared, self.checkpoints = name, params, prepared, checkpoints

    def __call__(self, send: Callable[[Any], None]) -> Trained:
        data = PreparedDataset.open(self.prepared)
        logger = NullLogger() if distributed.rank() else _Sent(send)
        return fit(self.name, self.params, data, logger, self.checkpoints)


class _Sent:
    """A RunLogger whose run is elsewhere."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self.send = send

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """To the command."""
        self.send((dict(values), step))
