"""The one loop that trains every candidate, and what it can take up again after a kill.

Whatever is drawn at random - the order, the variations, what is mixed with what - is a function of seed, epoch
and place, and torch's own generator stands in the checkpoint. So a training that went on from a checkpoint has
the bits of one that was never killed.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from pawprint.config import Candidate, Params
from pawprint.errors import PawprintError
from pawprint.models.backbone import Network
from pawprint.progress import Progress
from pawprint.training import distributed
from pawprint.training.checkpoint import Checkpoint, CheckpointManager
from pawprint.training.dataloader import Batch
from pawprint.training.logger import RunLogger

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, **rest: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **rest),
}
AUTO_BATCH = 128


@dataclass(frozen=True)
class Feed:
    """How photographs reach the part of a network that is trained."""

    module: Callable[[Network], nn.Module]  # its forward: inputs of a batch -> logits [n, classes]
    train: Callable[[int, int], Iterator[Batch]]  # (epoch, batches to leave out) -> this process's batches
    validation: Callable[[], Iterator[Batch]]
    labels: NDArray[np.int64]  # [n], of the training split
    validated: int  # photographs on the validation split
    batch_size: int
    batches: int  # an epoch
    names: Callable[[NDArray[np.int64]], list[str]]  # training photographs as a person knows them


class Loop:
    """A training: its state, and `run`."""

    def __init__(
        self, name: str, params: Params, network: Network, feed: Feed, device: torch.device,
        logger: RunLogger, checkpoints: CheckpointManager | None,
    ) -> None:  # fmt: skip
        self.name, self.params, self.candidate = name, params, params.candidate(name)
        self.network, self.feed, self.device = network, feed, device
        self.logger, self.checkpoints = logger, checkpoints
        candidate = self.candidate
        if candidate.early_stopping and not feed.validated:
            raise PawprintError(
                f"params.yaml: `candidates.{name}.early_stopping` needs a validation split, which is empty. Set it "
                "to 0 or `split.validation` above 0."
            )
        self.optimizer = _optimizer(candidate, network)  # first: it freezes what is not to be trained
        self.module = distributed.wrap(feed.module(network), device)
        self.step_module = torch.compile(self.module) if candidate.compile else self.module
        self.schedule = _schedule(candidate, self.optimizer, feed.batches * candidate.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=params.training.precision == "float16")
        self.average = AveragedModel(network, avg_fn=_ema(candidate.ema), use_buffers=True) if candidate.ema else None
        self.weights = _class_weights(candidate, feed.labels, network.classes).to(device)
        self.parts = candidate.accumulate
        self.epoch, self.batch = 1, 0  # where the next batch stands
        self.best, self.since_best = float("inf"), 0
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0  # of processes that were killed
        self.loss = MeanMetric().to(device)
        self.accuracy = MulticlassAccuracy(network.classes, average="micro").to(device)
        for metric in (self.loss, self.accuracy):
            metric.persistent(True)

    @property
    def evaluated(self) -> Network:
        """What is validated and kept: the running average where there is one."""
        return self.network if self.average is None else cast(Network, self.average.module)

    def run(self) -> None:
        """Train to the last epoch or until patience is over; then `network` holds the weights to keep.

        Raises:
            PawprintError: The loss is no number; memory is short; or a signal asked to stop (the checkpoint is
                saved, and the same command goes on).
        """
        self.started = self.saved = time.monotonic()
        self._restore()
        with _stop_on_signals() as stop:
            self._save()  # so that a kill before the first epoch ends finds its run again
            while self.epoch <= self.candidate.epochs and not self._patience_is_over():
                self._train_epoch(stop)
                self._save()
        self.network.load_state_dict(self.best_weights or self.evaluated.state_dict(), strict=False)
        self.network.eval()

    def _train_epoch(self, stop: threading.Event) -> None:
        began, waited, seen = time.monotonic(), 0.0, 0
        self.module.train()
        with ExitStack() as stack:
            label = f"{self.name} epoch {self.epoch}/{self.candidate.epochs}"
            progress = stack.enter_context(Progress(label, self.feed.batches)) if distributed.rank() == 0 else None
            batches = self.feed.train(self.epoch, self.batch)
            while True:
                asked = time.monotonic()
                batch = next(batches, None)
                waited += time.monotonic() - asked
                if batch is None:
                    break
                self._step(batch)
                self.batch += 1
                seen += len(batch.labels) * distributed.world()
                if progress:
                    progress.advance(1)
                if stop.is_set():
                    self._save()
                    raise PawprintError(
                        f"{self.name}: stopped by a signal in epoch {self.epoch}. The same command goes on from there."
                    )
                if time.monotonic() - self.saved > self.params.training.checkpoint_seconds:
                    self._save()
        trained = time.monotonic()
        values = {
            "train_loss": float(self.loss.compute()),
            "train_accuracy": float(self.accuracy.compute()),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "images_per_second": seen / (trained - began),
            "data_wait_share": waited / (trained - began),
            **self._validate(),
            "epoch_seconds": time.monotonic() - began,
        }
        if self.device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        if distributed.rank() == 0:
            self.logger.metrics(values, step=self.epoch)
            self._print(values)
        self._judge(values)
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss.reset()
        self.accuracy.reset()

    def _step(self, batch: Batch) -> None:
        """One update of the weights, from one batch, whatever the number of parts it goes through in."""
        while True:
            try:
                return self._update(batch)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                short = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
                if not short:
                    raise
                if self.candidate.batch_size != "auto" or self.parts >= len(batch.labels):
                    raise PawprintError(
                        f"{self.name}: memory is short for {-(-len(batch.labels) // self.parts)} photographs at once. "
                        f"Raise `candidates.{self.name}.accumulate` (found {self.candidate.accumulate}; the result "
                        "stays the same), lower `batch_size`, or set `batch_size: auto`."
                    ) from None
            self.parts *= 2
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _update(self, batch: Batch) -> None:
        inputs, labels = batch.inputs.to(self.device, non_blocking=True), batch.labels.to(self.device)
        inputs, others, kept = self._mix(inputs, labels)
        losses, logits = [], []
        pieces = [part for part in torch.arange(len(labels)).tensor_split(self.parts) if len(part)]
        for number, part in enumerate(pieces):
            last = number == len(pieces) - 1
            with (
                nullcontext() if last or not isinstance(self.module, DistributedDataParallel) else self.module.no_sync()
            ):
                rows = slice(int(part[0]), int(part[-1]) + 1)
                answer = self.step_module(inputs[rows])
                loss = self._loss(answer, labels[rows])
                if others is not None:
                    loss = kept * loss + (1 - kept) * self._loss(answer, others[rows])
                if not torch.isfinite(loss).all():
                    self._refuse(batch, rows, loss)
                # The mean over the whole batch of all processes; DDP itself divides by their number.
                self.scaler.scale(loss.sum() * distributed.world() / batch.whole).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            logits.append(answer.detach())
        if self.candidate.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.candidate.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.loss.update(torch.cat(losses))
        self.accuracy.update(torch.cat(logits), labels)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of each photograph, [n]."""
        return F.cross_entropy(
            logits, labels, self.weights, reduction="none", label_smoothing=self.candidate.label_smoothing
        )

    def _mix(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Mixup (Zhang et al., 2018): inputs with some of another each, the others' labels, the share kept."""
        if not self.candidate.mixup:
            return inputs, None, 1.0
        rng = np.random.default_rng((self.params.seed, self.epoch, self.batch))
        kept = float(rng.beta(self.candidate.mixup, self.candidate.mixup))
        other = torch.from_numpy(rng.permutation(len(labels))).to(self.device)
        return inputs.float().lerp(inputs[other].float(), 1 - kept), labels[other], kept

    def _refuse(self, batch: Batch, rows: slice, loss: Tensor) -> None:
        wrong = (~torch.isfinite(loss)).nonzero()[:, 0].cpu().numpy()
        names = self.feed.names(batch.indices[rows][wrong])
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise PawprintError(
            f"{self.name}: in epoch {self.epoch}, batch {self.batch + 1}, the loss is not a number for {shown}. Lower "
            f"`candidates.{self.name}.learning_rate`, set `clip_norm`, or look at these photographs. The checkpoint "
            "before it is kept."
        )

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        if not self.feed.validated:
            return {}
        module = self.feed.module(self.evaluated).eval()
        loss = MeanMetric().to(self.device)
        accuracy = MulticlassAccuracy(self.network.classes, average="micro").to(self.device)
        for batch in self.feed.validation():
            if len(batch.labels):  # a process may have none of a small batch
                labels = batch.labels.to(self.device)
                logits = module(batch.inputs.to(self.device))
                loss.update(F.cross_entropy(logits, labels, reduction="none"))
                accuracy.update(logits, labels)
        return {"validation_loss": float(loss.compute()), "validation_accuracy": float(accuracy.compute())}

    def _judge(self, values: Mapping[str, float]) -> None:
        if not self.candidate.early_stopping:
            return
        if values["validation_loss"] < self.best:
            self.best, self.since_best = values["validation_loss"], 0
            self.best_weights = {key: value.clone() for key, value in _changing(self.evaluated).items()}
        else:
            self.since_best += 1

    def _patience_is_over(self) -> bool:
        return 0 < self.candidate.early_stopping <= self.since_best

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
        tensors = _named("network", _changing(self.network)) | _named("best", self.best_weights)
        if self.average is not None:
            tensors |= _named("average", self.average.state_dict())
        for index, slots in (state := self.optimizer.state_dict())["state"].items():
            tensors |= _named(f"optimizer.{index}", {key: slot for key, slot in slots.items() if slot is not None})
        for key, metric in self._metrics().items():
            tensors |= _named(key, metric.state_dict())
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "epoch": self.epoch, "batch": self.batch, "parts": self.parts, "best": repr(self.best),
            "since_best": self.since_best, "seconds": self.seconds + self.saved - self.started,
            "groups": state["param_groups"], "schedule": self.schedule.state_dict(), "scaler": self.scaler.state_dict(),
        }  # fmt: skip
        self.checkpoints.save(Checkpoint({key: value.contiguous() for key, value in tensors.items()}, values))

    def _restore(self) -> None:
        checkpoint = self.checkpoints.load() if self.checkpoints else None
        if checkpoint is None:
            return
        tensors, values = checkpoint.tensors, checkpoint.values
        self.network.load_state_dict(_under("network", tensors), strict=False)  # what is frozen is not in it
        self.best_weights = {key: value.to(self.device) for key, value in _under("best", tensors).items()}
        if self.average is not None:
            self.average.load_state_dict(_under("average", tensors))
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(trained):
            for key, value in _under(f"optimizer.{index}", tensors).items():
                # In the parameter's own memory format, which the file does not keep.
                slot = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                state.setdefault(index, {})[key] = slot
        self.optimizer.load_state_dict({"state": state, "param_groups": values["groups"]})
        self.schedule.load_state_dict(values["schedule"])
        self.scaler.load_state_dict(values["scaler"])
        for key, metric in self._metrics().items():
            metric.load_state_dict(_under(key, tensors))
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), self.device)
        self.epoch, self.batch, self.parts = values["epoch"], values["batch"], values["parts"]
        self.best, self.since_best, self.seconds = float(values["best"]), values["since_best"], values["seconds"]
        if (self.epoch, self.batch) != (1, 0) and distributed.rank() == 0:
            print(f"{self.name}: goes on in epoch {self.epoch} after {self.batch} batches", flush=True)

    def _metrics(self) -> dict[str, Metric]:
        return {"loss": self.loss, "accuracy": self.accuracy}


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second one ends the process as it always does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for one, handler in before.items():
            signal.signal(one, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _optimizer(candidate: Candidate, network: Network) -> torch.optim.Optimizer:
    """All that is trained at the learning rate; of a pretrained backbone, at its share of that."""
    gentle = network.train_last(candidate.blocks) if candidate.train == "finetune" else []
    slow = {id(parameter) for parameter in gentle}
    rest = [one for one in network.parameters() if one.requires_grad and id(one) not in slow]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": candidate.learning_rate}]
    if gentle:
        groups.append({"params": gentle, "lr": candidate.learning_rate * candidate.backbone_rate})
    return OPTIMIZERS[candidate.optimizer](groups, lr=candidate.learning_rate, weight_decay=candidate.weight_decay)


def _schedule(candidate: Candidate, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    if candidate.schedule == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        rise = max(0.2, 1.5 / (steps + 1))  # of a very short training it must be more than one step
        return OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=rise)
    if candidate.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return ConstantLR(optimizer, factor=1.0)


def _ema(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The running average, quicker at the start, so that the random weights are soon forgotten."""

    def average(kept: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        if not kept.is_floating_point():
            return new.clone()
        return torch.lerp(new, kept, min(decay, (1 + float(count)) / (10 + float(count))))

    return average


def _class_weights(candidate: Candidate, labels: NDArray[np.int64], classes: int) -> Tensor:
    """Of the loss; balanced: every class weighs the same in sum, and the mean over the set is 1."""
    if candidate.class_weights == "none":
        return torch.ones(classes)
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.from_numpy(len(labels) / (classes * counts)).float()


def _changing(network: Network) -> dict[str, Tensor]:
    """What training changes: all but frozen parameters."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
