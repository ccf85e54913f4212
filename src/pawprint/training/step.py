"""One update of the weights from one batch: forward in parts, mixup, loss, gradient, optimizer, schedule, EMA."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel

from pawprint.config import Candidate
from pawprint.errors import DivergedError, PawprintError
from pawprint.models.backbone import Network
from pawprint.training import distributed
from pawprint.training.checkpoint import State
from pawprint.training.dataloader import Batch, TrainingData

# torch.compile loads code from its cache; torch's own place for it is a folder of /tmp that any user can make first.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(torch.hub.get_dir()).with_name("inductor")))
STAGES = 4  # of growing photographs
OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


class TrainingStep:
    """Network, optimizer and all that changes with a step.

    Parameters that `train` leaves out are frozen; in several processes gradients are averaged over all.
    """

    def __init__(self, network: Network, data: TrainingData) -> None:
        self.network, self.data, self.candidate, self.device = network, data, data.candidate, data.device
        blocks = self.candidate.trained_blocks
        backbone = [] if blocks is None else network.unfreeze_last(blocks)
        self.module = distributed.wrap(data.module(network), self.device)
        self.compiled = torch.compile(self.module) if self.candidate.compile else self.module
        self.optimizer = build_optimizer(self.candidate, network, backbone)
        self.schedule = build_schedule(self.candidate, self.optimizer, steps=data.batches * self.candidate.epochs)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=data.params.training.precision == "float16")
        decay = self.candidate.ema
        self.average = AveragedModel(network, avg_fn=_ema(decay), use_buffers=True) if decay else None
        self.class_weights = class_weights(self.candidate, data.labels, network.classes).to(self.device)
        self.parts = self.candidate.accumulate

    @property
    def evaluated(self) -> Network:
        """The network that is validated and kept: the running average where there is one."""
        return self.network if self.average is None else cast(Network, self.average.module)

    def __call__(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        """Update the weights; (losses [n], right [n]) of the batch. Under mixup a prediction is right by the share of
        the photograph that it names.

        Where memory is short and `batch_size` is auto, the batch is halved until it fits. The step stays the same, but
        for batch norm, which takes its statistics from each part.

        Raises:
            DivergedError: the loss is not a number; no weight has changed.
            PawprintError: memory is short.
        """
        while True:
            try:
                return self._update(batch, epoch, number)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                    raise
                if self.candidate.batch_size != "auto" or self.parts >= len(batch.labels):
                    name = self.data.name
                    raise PawprintError(
                        f"{name}: memory is short for {-(-len(batch.labels) // self.parts)} photographs at once. "
                        f"Raise `candidates.{name}.accumulate` (found {self.candidate.accumulate}; the step "
                        "stays the same but for batch norm), lower `batch_size`, or set `batch_size: auto`."
                    ) from None
            self.parts *= 2
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _update(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        inputs, labels = batch.inputs.to(self.device, non_blocking=True), batch.labels.to(self.device)
        if self.candidate.train_sizes:
            inputs = shrink(inputs, side(self.candidate, self.network.size, epoch))
        other, kept = labels, 1.0
        if self.candidate.mixup:
            # The order of an epoch is drawn from (seed, epoch): a stream ends in a number of its own, for
            # trailing zeros are nothing to a SeedSequence.
            rng = np.random.default_rng((self.data.params.seed, epoch, number, 0, 1))
            inputs, other, kept = mixup(inputs, labels, self.candidate.mixup, rng)
        count = max(1, min(self.parts, len(labels)))
        parts = zip(*(whole.tensor_split(count) for whole in (inputs, labels, other)), strict=True)
        losses: list[Tensor] = []
        correct = []
        for left, (part, right, wrong) in zip(reversed(range(count)), parts, strict=True):
            with self._no_sync() if left else nullcontext():
                logits = self.compiled(part)
                loss = self._loss(logits, right)
                if kept < 1:
                    loss = kept * loss + (1 - kept) * self._loss(logits, wrong)
                if not torch.isfinite(loss).all():
                    raise self._diverged(batch, torch.cat([*losses, loss.detach()]), epoch, number)
                # The mean over the whole batch of all processes; DDP itself divides by their number.
                self.scaler.scale(loss.sum() * distributed.world() / batch.whole).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            predicted = logits.detach().argmax(dim=1)
            correct.append(kept * (predicted == right).float() + (1 - kept) * (predicted == wrong).float())
        if self.candidate.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.candidate.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return torch.cat(losses), torch.cat(correct)

    def _no_sync(self) -> AbstractContextManager[None]:
        """Processes exchange gradients with the last part of a batch only."""
        return self.module.no_sync() if isinstance(self.module, DistributedDataParallel) else nullcontext()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each photograph, [n]."""
        smoothing = self.candidate.label_smoothing
        return F.cross_entropy(logits, labels, self.class_weights, reduction="none", label_smoothing=smoothing)

    def _diverged(self, batch: Batch, losses: Tensor, epoch: int, number: int) -> DivergedError:
        places = batch.indices[: len(losses)][~losses.isfinite().cpu().numpy()]
        names = [self.data.splits["train"].origins[index] for index in places]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        name = self.data.name
        return DivergedError(
            f"{name}: in epoch {epoch}, batch {number + 1}, the loss is not a number for {shown}. Lower "
            f"`candidates.{name}.learning_rate`, set `clip_norm`, or look at these photographs. The checkpoint before "
            "it is kept."
        )

    def state_dict(self) -> State:
        """What a checkpoint keeps of the step."""
        return {
            "network": trained_tensors(self.network),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "parts": self.parts,
        }

    def load_state_dict(self, state: State) -> None:
        """Resume from what `state_dict` gave, read from a checkpoint."""
        self.network.load_state_dict(state["network"], strict=False)  # frozen tensors are not in it
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        slots = {int(index): tensors for index, tensors in state["optimizer"]["state"].items()}
        self.optimizer.load_state_dict(state["optimizer"] | {"state": slots})
        for parameter, tensors in self.optimizer.state.items():
            for key, value in tensors.items():
                if value is not None and value.shape == parameter.shape:  # the file does not keep the memory format
                    tensors[key] = torch.empty_like(parameter).copy_(value)
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.parts = state["parts"]


def build_optimizer(candidate: Candidate, network: Network, backbone: list[nn.Parameter]) -> torch.optim.Optimizer:
    """All trained parameters at the learning rate; those of the pretrained `backbone` at its share of it."""
    slow = {id(parameter) for parameter in backbone}
    rest = [one for one in network.parameters() if one.requires_grad and id(one) not in slow]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": candidate.learning_rate}]
    if backbone:
        groups.append({"params": backbone, "lr": candidate.learning_rate * candidate.backbone_rate})
    assert candidate.weight_decay != "auto"  # config.py checks it
    own = {"momentum": 0.9, "nesterov": True} if candidate.optimizer == "sgd" else {"eps": candidate.epsilon}
    optimizer = OPTIMIZERS[candidate.optimizer]
    return optimizer(groups, lr=candidate.learning_rate, weight_decay=candidate.weight_decay, **own)


def build_schedule(candidate: Candidate, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning rate's schedule over `steps` updates."""
    if candidate.schedule == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        rise = max(0.2, 1.5 / (steps + 1))  # of a very short training it must be more than one step
        return OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=rise)
    if candidate.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return ConstantLR(optimizer, factor=1.0)


def trained_tensors(network: Network) -> dict[str, Tensor]:
    """The state that training changes: all but frozen parameters."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def side(candidate: Candidate, size: int, epoch: int) -> int:
    """Pixels a side of an epoch's photographs: from the first of `train_sizes` to the last in STAGES of equal length.

    Small photographs first cost less, and the weights are as good (Tan and Le, EfficientNetV2, 2021). Objects that are
    cropped larger in training than they are in the whole photograph make a smaller last size fit too (Touvron et al.,
    Fixing the train-test resolution discrepancy, 2019).
    """
    first, last = candidate.train_sizes
    stage = (epoch - 1) * STAGES // candidate.epochs
    return min(size, 16 * round(size * (first + (last - first) * stage / (STAGES - 1)) / 16))


def shrink(pixels: Tensor, side: int) -> Tensor:
    """[n, h, w, 3] -> [n, side, side, 3]."""
    inputs = pixels.permute(0, 3, 1, 2)
    inputs = inputs if inputs.device.type == "cpu" else inputs.float()  # torch reduces bytes on the CPU alone
    return F.interpolate(inputs, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def mixup(inputs: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """(mixed inputs, labels of the photographs mixed in, share that each keeps of itself) (Zhang et al., 2018)."""
    kept = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
    return inputs.float().lerp(inputs[other].float(), 1 - kept), labels[other], kept


def class_weights(candidate: Candidate, labels: NDArray[np.int64], classes: int) -> Tensor:
    """Weights of the loss; balanced: every class weighs the same in sum, and the mean over the split is 1.

    The network then learns the probabilities of a set in which all classes are equally frequent (Elkan, The Foundations
    of Cost-Sensitive Learning, 2001): on other photographs rare classes are predicted more often than they occur.
    """
    if candidate.class_weights == "none":
        return torch.ones(classes)
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.from_numpy(len(labels) / (classes * counts)).float()


def _ema(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The running average, quicker at the start, so that the random weights are soon forgotten."""

    def average(kept: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        if not kept.is_floating_point():
            return new.clone()
        return torch.lerp(new, kept, min(decay, (1 + float(count)) / (10 + float(count))))

    return average
