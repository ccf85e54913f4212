"""The training loop: epochs, validation, early stopping, checkpoints. One for every candidate.

All that is random (order, augmentation, mixup) is a function of seed, epoch and place, and torch's own generator is in
the checkpoint. So a training resumed from a checkpoint ends with the weights of one that was never interrupted.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pawprint.errors import PawprintError, Stopped
from pawprint.models.backbone import Network
from pawprint.progress import Progress, as_json, say
from pawprint.training import distributed
from pawprint.training.checkpoint import CheckpointManager, State
from pawprint.training.dataloader import TrainingData
from pawprint.training.step import TrainingStep, trained_tensors

T = TypeVar("T")
# logits [n, classes], labels [n] -> a number, smaller is better
Objective = Callable[[NDArray[np.float32], NDArray[np.int64]], float]
OBJECTIVE = "validation_objective"  # its name among the values of an epoch; ten epochs of a training have it


class RunLogger(Protocol):
    """Where training reports: the flow hands it a run, so that training need not know MLflow."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of this step (an epoch, from 1), or of the run where there is no step."""


class NullLogger:
    """The logger of a process that has nothing to report."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Nothing."""


class Sums:
    """Losses, right answers and photographs of an epoch, summed; torchmetrics would take seconds to import."""

    def __init__(self) -> None:
        self.values = torch.zeros(3, dtype=torch.float64)

    def add(self, losses: Tensor, correct: Tensor) -> None:
        """Losses [n] and whether each answer is right [n]; n may be zero in one of several processes."""
        added = float(losses.sum()), float(correct.sum()), len(losses)
        self.values += torch.tensor(added, dtype=torch.float64)

    def means(self, split: str, device: torch.device) -> dict[str, float]:
        """Mean loss and accuracy over the photographs of all processes, as metrics of `split`."""
        loss, right, count = distributed.summed(self.values, device).tolist()
        return {f"{split}_loss": loss / count, f"{split}_accuracy": right / count}


class Trainer:
    """A training: its state, and `run`."""

    def __init__(
        self,
        network: Network,
        data: TrainingData,
        logger: RunLogger,
        checkpoints: CheckpointManager | None,
        objective: Objective | None = None,
    ) -> None:
        self.network, self.data, self.name, self.candidate = network, data, data.name, data.candidate
        self.device, self.logger, self.checkpoints, self.objective = data.device, logger, checkpoints, objective
        # nobody asks for its epochs; of several processes one reports, and all validate
        alone = isinstance(logger, NullLogger) and distributed.world() == 1
        self.quiet = alone and not self.candidate.early_stopping
        if self.candidate.early_stopping and not len(data.splits["validation"]):
            raise PawprintError(
                f"params.yaml: `candidates.{data.name}.early_stopping` needs a validation split, which is empty. Set "
                "it to 0 or `split.validation` above 0."
            )
        self.step = TrainingStep(network, data)
        self.epoch, self.batch = 1, 0  # the next batch's place
        self.best, self.since_best = float("inf"), 0
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0  # of processes that were killed
        self.sums = Sums()  # of the epoch so far

    def run(self) -> None:
        """Train to the last epoch or until early stopping; then `network` holds the weights to keep.

        Raises:
            PawprintError: The loss is not a number; memory is short; or a signal requested a stop (the checkpoint is
                saved, and the same command resumes).
        """
        self.started = self.saved = time.monotonic()
        self._restore()
        with _stop_on_signals() as stop:
            self._save()  # so that a kill before the first epoch ends finds its run again
            while self.epoch <= self.candidate.epochs and not 0 < self.candidate.early_stopping <= self.since_best:
                self._train_epoch(stop)
                self._save()
        self.network.load_state_dict(self.best_weights or self.step.evaluated.state_dict(), strict=False)
        self.network.eval()

    @property
    def kept_epoch(self) -> int:
        """The epoch after which the weights were as they are kept."""
        return self.epoch - 1 - (self.since_best if self.best_weights else 0)

    def _train_epoch(self, stop: threading.Event) -> None:
        began, waited, seen = time.monotonic(), 0.0, 0
        self.step.module.train()
        label, whole = f"{self.name} epoch {self.epoch}/{self.candidate.epochs}", len(self.data.splits["train"])
        with Progress(label, whole, unit="photographs") as progress:
            for batch, seconds in _timed(self.data.train(self.epoch, self.batch)):
                losses, correct = self.step(batch, self.epoch, self.batch)
                self.sums.add(losses, correct)
                self.batch += 1
                waited, seen = waited + seconds, seen + batch.whole
                if distributed.rank() == 0:
                    progress.advance(batch.whole)
                asked, passed = self._agreed(stop)
                if asked or passed > self.data.params.training.checkpoint_seconds:
                    self._save()
                if asked:
                    raise Stopped(
                        f"{self.name}: stopped by a signal in epoch {self.epoch}. The same command resumes there."
                    )
        trained = time.monotonic() - began
        values = {
            **self.sums.means("train", self.device),
            "learning_rate": float(self.step.optimizer.param_groups[0]["lr"]),
            "images_per_second": seen / trained,
            "data_wait_share": waited / trained,
            **self._validate(),
            "epoch_seconds": time.monotonic() - began,
        }
        if self.device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        if distributed.rank() == 0:
            self.logger.metrics(values, step=self.epoch)
            self._print(values)
        if self.candidate.early_stopping:
            self._track_best(values["validation_loss"])
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()

    def _agreed(self, stop: threading.Event) -> tuple[bool, float]:
        """(has any process been asked to stop, seconds since the last checkpoint); the same in all processes, so that
        all save at one batch."""
        passed = time.monotonic() - self.saved if distributed.rank() == 0 else 0.0
        asked, seconds = distributed.summed(torch.tensor([float(stop.is_set()), passed]), self.device).tolist()
        return asked > 0, seconds

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        if not len(self.data.splits["validation"]) or self.quiet:
            return {}
        module, sums = self.data.module(self.step.evaluated).eval(), Sums()
        outputs: list[Tensor] = []
        for batch in self.data.in_order("validation"):
            labels = batch.labels.to(self.device)
            logits = module(batch.inputs.to(self.device))
            sums.add(F.cross_entropy(logits, labels, reduction="none"), logits.argmax(dim=1) == labels)
            outputs.append(logits)
        values = sums.means("validation", self.device)
        if self.objective and self.epoch % max(1, self.candidate.epochs // 10) == 0:
            values[OBJECTIVE] = self.objective(torch.cat(outputs).cpu().numpy(), self.data.splits["validation"].labels)
        return values

    def _track_best(self, loss: float) -> None:
        self.since_best += 1
        if loss < self.best:
            self.best, self.since_best = loss, 0
            self.best_weights = {key: value.clone() for key, value in trained_tensors(self.step.evaluated).items()}

    def _print(self, values: Mapping[str, float]) -> None:
        epochs = self.candidate.epochs
        if self.quiet or (self.epoch not in {1, epochs} and self.epoch % max(1, epochs // 10)):
            return
        if self.epoch == 1 and not as_json():
            say(f"{'epoch':>9}{'train loss':>12}{'validation loss':>17}{'accuracy':>10}{'photographs/s':>16}")
        loss, accuracy = values.get("validation_loss"), values.get("validation_accuracy")
        say(
            f"{f'{self.epoch}/{epochs}':>9}{values['train_loss']:>12.4f}"
            + (f"{loss:>17.4f}{accuracy:>10.1%}" if loss is not None else f"{'-':>17}{'-':>10}")
            + f"{values['images_per_second']:>16,.0f}",
            candidate=self.name,
            epoch=self.epoch,
            **values,
        )

    def _save(self) -> None:
        self.saved = time.monotonic()
        # within an epoch each process has counted photographs, and drawn numbers, of its own
        sums = distributed.summed(self.sums.values.clone(), self.device)
        random = distributed.gathered(torch.get_rng_state(), self.device)
        if self.checkpoints is None or distributed.rank() != 0:
            return
        state: State = {
            "step": self.step.state_dict(),
            "sums": sums,
            "random": random,
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "best_weights": self.best_weights,
            "place": [self.epoch, self.batch, self.best, self.since_best],
            "seconds": self.seconds + self.saved - self.started,
        }
        self.checkpoints.save(state)

    def _restore(self) -> None:
        state = self.checkpoints.load() if self.checkpoints else None
        if state is None:
            return
        self.step.load_state_dict(state["step"])
        if distributed.rank() == 0:
            self.sums.values = state["sums"]
        random = state["random"]
        torch.set_rng_state(random[min(distributed.rank(), len(random) - 1)])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.best_weights, self.seconds = state["best_weights"], state["seconds"]
        self.epoch, self.batch, self.best, self.since_best = state["place"]
        if (self.epoch, self.batch) != (1, 0) and distributed.rank() == 0:
            print(f"{self.name}: resumes in epoch {self.epoch} after {self.batch} batches", flush=True)


def _timed(items: Iterator[T]) -> Iterator[tuple[T, float]]:
    """The items, with the seconds that each was waited for."""
    while True:
        began = time.monotonic()
        item = next(items, None)
        if item is None:
            return
        yield item, time.monotonic() - began


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process as it always does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request_stop(*_: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()
