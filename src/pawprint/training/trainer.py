"""The training loop: epochs, validation, early stopping, checkpoints. One for every candidate.

All that is random (order, augmentation, mixup) is a function of seed, epoch and place, and torch's own generator is in
the checkpoint. So a training resumed from a checkpoint ends with the weights of one that was never interrupted.
"""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from pawprint.config import Params
from pawprint.errors import DivergedError, PawprintError
from pawprint.models.backbone import Network
from pawprint.progress import Progress
from pawprint.training import distributed
from pawprint.training.checkpoint import Checkpoint, CheckpointManager, prefixed, without_prefix
from pawprint.training.datasets import TrainingData
from pawprint.training.logger import RunLogger
from pawprint.training.step import NonFiniteLoss, TrainingStep, trained_tensors


class Trainer:
    """A training: its state, and `run`."""

    def __init__(
        self, name: str, params: Params, network: Network, data: TrainingData, device: torch.device,
        logger: RunLogger, checkpoints: CheckpointManager | None,
    ) -> None:  # fmt: skip
        self.name, self.params, self.candidate = name, params, params.candidate(name)
        self.network, self.data, self.device = network, data, device
        self.logger, self.checkpoints = logger, checkpoints
        if self.candidate.early_stopping and not len(data.splits["validation"]):
            raise PawprintError(
                f"params.yaml: `candidates.{name}.early_stopping` needs a validation split, which is empty. Set it "
                "to 0 or `split.validation` above 0."
            )
        backbone = network.freeze(self.candidate.train, self.candidate.blocks)
        module = distributed.wrap(data.module(network), device)
        steps = data.batches * self.candidate.epochs
        self.step = TrainingStep(name, params, network, module, data.labels, backbone, steps, device)
        self.epoch, self.batch = 1, 0  # the next batch's place
        self.best, self.since_best = float("inf"), 0
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0  # of processes that were killed
        self.metrics: dict[str, Metric] = {
            "loss": MeanMetric().to(device),
            "accuracy": MulticlassAccuracy(network.classes, average="micro").to(device),
        }
        for metric in self.metrics.values():
            metric.persistent(True)

    def run(self) -> None:
        """Train to the last epoch or until early stopping; then `network` holds the weights to keep.

        Raises:
            PawprintError: The loss is not a number; memory is short; or a signal asked to stop (the checkpoint is
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

    def _train_epoch(self, stop: threading.Event) -> None:
        began, waited, seen = time.monotonic(), 0.0, 0
        self.step.module.train()
        with ExitStack() as stack:
            label = f"{self.name} epoch {self.epoch}/{self.candidate.epochs}"
            progress = stack.enter_context(Progress(label, self.data.batches)) if distributed.rank() == 0 else None
            batches = self.data.train(self.epoch, self.batch)
            while True:
                requested = time.monotonic()
                batch = next(batches, None)
                waited += time.monotonic() - requested
                if batch is None:
                    break
                try:
                    losses, logits = self.step(batch, self.epoch, self.batch)
                except NonFiniteLoss as error:
                    raise self._not_a_number(error) from None
                self.metrics["loss"].update(losses)
                self.metrics["accuracy"].update(logits, batch.labels.to(self.device))
                self.batch += 1
                seen += len(batch.labels) * distributed.world()
                if progress:
                    progress.advance(1)
                if stop.is_set():
                    self._save()
                    raise PawprintError(
                        f"{self.name}: stopped by a signal in epoch {self.epoch}. The same command resumes there."
                    )
                if time.monotonic() - self.saved > self.params.training.checkpoint_seconds:
                    self._save()
        seconds = time.monotonic() - began
        values = {
            **{f"train_{name}": float(metric.compute()) for name, metric in self.metrics.items()},
            "learning_rate": float(self.step.optimizer.param_groups[0]["lr"]),
            "images_per_second": seen / seconds,
            "data_wait_share": waited / seconds,
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
        self.epoch, self.batch = self.epoch + 1, 0
        for metric in self.metrics.values():
            metric.reset()

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        if not len(self.data.splits["validation"]):
            return {}
        module = self.data.module(self.step.evaluated).eval()
        loss = MeanMetric().to(self.device)
        accuracy = MulticlassAccuracy(self.network.classes, average="micro").to(self.device)
        for batch in self.data.validation():
            if len(batch.labels):  # a process may have none of a small batch
                labels = batch.labels.to(self.device)
                logits = module(batch.inputs.to(self.device))
                loss.update(F.cross_entropy(logits, labels, reduction="none"))
                accuracy.update(logits, labels)
        return {"validation_loss": float(loss.compute()), "validation_accuracy": float(accuracy.compute())}

    def _track_best(self, loss: float) -> None:
        self.since_best += 1
        if loss < self.best:
            self.best, self.since_best = loss, 0
            self.best_weights = {key: value.clone() for key, value in trained_tensors(self.step.evaluated).items()}

    def _not_a_number(self, error: NonFiniteLoss) -> DivergedError:
        origins = self.data.splits["train"].origins
        names = [origins[index] for index in error.indices]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return DivergedError(
            f"{self.name}: in epoch {self.epoch}, batch {self.batch + 1}, the loss is not a number for {shown}. Lower "
            f"`candidates.{self.name}.learning_rate`, set `clip_norm`, or look at these photographs. The checkpoint "
            "before it is kept."
        )

    def _print(self, values: Mapping[str, float]) -> None:
        epochs = self.candidate.epochs
        if self.epoch in {1, epochs} or self.epoch % max(1, epochs // 10) == 0:
            line = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())
            print(f"{self.name} epoch {self.epoch}/{epochs}: {line}", flush=True)

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.checkpoints is None or distributed.rank() != 0:
            return
        if distributed.world() > 1 and self.batch > 0:
            return  # within an epoch each process has counted photographs of its own
        tensors, values = self.step.state()
        tensors |= prefixed("best", self.best_weights)
        for key, metric in self.metrics.items():
            tensors |= prefixed(key, metric.state_dict())
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        values |= {
            "epoch": self.epoch,
            "batch": self.batch,
            "best": repr(self.best),  # JSON has no infinity
            "since_best": self.since_best,
            "seconds": self.seconds + self.saved - self.started,
        }
        self.checkpoints.save(Checkpoint({key: value.contiguous() for key, value in tensors.items()}, values))

    def _restore(self) -> None:
        checkpoint = self.checkpoints.load() if self.checkpoints else None
        if checkpoint is None:
            return
        tensors, values = checkpoint.tensors, checkpoint.values
        self.step.load_state(tensors, values)
        self.best_weights = {key: value.to(self.device) for key, value in without_prefix("best", tensors).items()}
        for key, metric in self.metrics.items():
            metric.load_state_dict(without_prefix(key, tensors))
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), self.device)
        self.epoch, self.batch = values["epoch"], values["batch"]
        self.best, self.since_best, self.seconds = float(values["best"]), values["since_best"], values["seconds"]
        if (self.epoch, self.batch) != (1, 0) and distributed.rank() == 0:
            print(f"{self.name}: resumes in epoch {self.epoch} after {self.batch} batches", flush=True)


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

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()
