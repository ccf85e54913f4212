"""A linear head on cached features by L-BFGS: a convex problem, solved to its optimum.

    HeadSolver(network, data, logger).run()

Adam takes a hundred epochs to come near the same optimum. Each feature is divided by its root mean square first: the L2
penalty then does what dropout does to a linear model (Wager, Wang and Liang, Dropout Training as Adaptive
Regularization, 2013), and the log loss is a tenth lower than without (docs/decisions/training.md). What matters then is
the strength of the penalty: with `weight_decay: auto` it is chosen on a part of the training photographs that is held
out for that, and the head is fitted to all of them with it. Validation and test photographs have no part in the choice.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pawprint.data.dataset import Split
from pawprint.data.splits import draw
from pawprint.errors import DivergedError
from pawprint.models.backbone import Network
from pawprint.progress import say
from pawprint.training import distributed
from pawprint.training.dataloader import TrainingData
from pawprint.training.step import class_weights
from pawprint.training.trainer import OBJECTIVE, NullLogger, Objective, RunLogger

STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)  # tried in this order, each from the solution of the one before
HELD_OUT = 0.2  # of the training photographs choose the strength
REPORTED = 5  # iterations between two reports
TOLERANCE = 1e-5  # of the gradient's largest entry


class HeadSolver:
    """Fits the head of a network to the features of `data`: mean cross-entropy and strength / 2 times the squared
    weights of the scaled features; the bias is free. At most `epochs` iterations.

    It takes seconds, so it has no checkpoints, and every process of several does all of it.
    """

    def __init__(
        self, network: Network, data: TrainingData, logger: RunLogger, objective: Objective | None = None
    ) -> None:
        self.network, self.data, self.candidate, self.objective = network, data, data.candidate, objective
        self.logger = None if isinstance(logger, NullLogger) or distributed.rank() else logger
        train, validation = (data.splits[name] for name in ("train", "validation"))
        rows = [data.rows["train"], *([data.flipped] if data.flipped is not None else [])]
        features = torch.from_numpy(np.concatenate([one[np.arange(len(train))] for one in rows]))
        self.scale = features.square().mean(dim=0).sqrt()  # [d]
        self.scale.clamp_(min=1e-3 * float(self.scale.mean()) + 1e-12)  # of a feature that is zero everywhere
        self.features = features / self.scale
        self.labels = torch.from_numpy(train.labels).repeat(len(rows))
        self.unseen = torch.from_numpy(data.rows["validation"][np.arange(len(validation))]) / self.scale
        self.unseen_labels = torch.from_numpy(validation.labels)
        self.seconds = 0.0  # of processes that were killed; it starts anew
        self.kept_epoch = self.candidate.epochs

    def run(self) -> None:
        """Fit; then `network` holds the weights.

        Raises:
            DivergedError: The loss is not a number.
        """
        began = time.monotonic()
        strength = self.candidate.weight_decay
        if strength == "auto":
            strength = self._chosen()
        weights = self._solve(self.features, self.labels, strength, self._zeros(), self._report)
        with torch.no_grad():
            self.network.head.weight.copy_(weights[:, :-1] / self.scale)
            self.network.head.bias.copy_(weights[:, -1])
        self.network.eval()
        if self.logger:
            self.logger.metrics({"weight_decay_chosen": strength})
            say(f"  L2 {strength:g}, solved in {time.monotonic() - began:.1f} s", weight_decay=strength)

    def _solve(
        self,
        features: Tensor,
        labels: Tensor,
        strength: float,
        start: Tensor,
        report: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """[width, d + 1]: the weights, then the bias."""
        of_classes = class_weights(self.candidate, labels.numpy(), self.network.classes)
        weights = start.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=REPORTED,
            max_eval=20 * REPORTED,
            history_size=10,
            tolerance_grad=TOLERANCE,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            losses = F.cross_entropy(
                self._logits(features, weights),
                labels,
                of_classes,
                reduction="none",
                label_smoothing=self.candidate.label_smoothing,
            )
            loss = losses.mean() + strength / 2 * weights[:, :-1].square().sum()
            if not torch.isfinite(loss):
                raise DivergedError(f"{self.data.name}: the head's loss is not a number; a feature of it is none.")
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        done, before = 0, -REPORTED
        while done < self.candidate.epochs and done - before == REPORTED:
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            before, done = done, optimizer.state[weights]["n_iter"]
            if report:
                report(done, weights.detach())
        return weights.detach()

    def _chosen(self) -> float:
        """The strength with the smallest log loss on photographs that it was not fitted to."""
        held_out = _held_out(self.data.splits["train"], self.data.params.seed)
        held_out = np.tile(held_out, len(self.labels) // len(held_out))  # a mirror image goes with its photograph
        kept, tried = torch.from_numpy(~held_out), torch.from_numpy(held_out)
        inside, labels, outside, outside_labels = (
            self.features[kept], self.labels[kept], self.features[tried], self.labels[tried],
        )  # fmt: skip
        weights, losses = self._zeros(), []
        for strength in STRENGTHS if len(outside) else STRENGTHS[:1]:
            weights = self._solve(inside, labels, strength, weights)
            losses.append(float(F.cross_entropy(self._logits(outside, weights), outside_labels)))
        return STRENGTHS[int(np.argmin(losses))]

    def _zeros(self) -> Tensor:
        return torch.zeros(self.network.width, self.network.features + 1)

    def _logits(self, features: Tensor, weights: Tensor) -> Tensor:
        return self.network.logits(torch.addmm(weights[:, -1], features, weights[:, :-1].T))

    def _report(self, iterations: int, weights: Tensor) -> None:
        """Losses and accuracies after so many iterations, as an epoch's."""
        if not self.logger:
            return
        values = self._measure("train", self.features, self.labels, weights)
        if len(self.unseen):
            values |= self._measure("validation", self.unseen, self.unseen_labels, weights)
            if self.objective:
                logits = self._logits(self.unseen, weights).numpy()
                values[OBJECTIVE] = self.objective(logits, self.unseen_labels.numpy())
        self.logger.metrics(values, step=iterations)

    def _measure(self, split: str, features: Tensor, labels: Tensor, weights: Tensor) -> dict[str, float]:
        logits = self._logits(features, weights)
        right = (logits.argmax(dim=1) == labels).float().mean()
        return {f"{split}_loss": float(F.cross_entropy(logits, labels)), f"{split}_accuracy": float(right)}


def _held_out(train: Split, seed: int) -> NDArray[np.bool_]:
    """Which photographs are held out: whole groups, and never all of a class."""
    chosen = np.array([draw(row.unit, seed, "strength") < HELD_OUT for row in train.rows], np.bool_)
    whole = np.setdiff1d(train.labels, train.labels[~chosen])
    return chosen & ~np.isin(train.labels, whole)
