"""The temperature of a network's logits: one number that makes its confidence right.

temperature = fit_temperature(logits, labels)      # 1.3
tempered(logits, temperature)                      # probabilities
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

NUMBERS = 2**22  # logits in memory at a time, in a few copies of 64 bits
PROBABILITIES = 2**19  # likewise; a row's depend on no other row, so that smaller parts change none


@torch.inference_mode(False)  # it has a gradient of its own, also inside an evaluation
def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature that makes the log loss of softmax(logits / t) smallest; 1.0 where there are no labels.

    Guo et al., On Calibration of Modern Neural Networks (2017), with smoothed targets: of n answers one more could have
    been wrong (Laplace's rule of succession: the wrong classes share 1 / (n + 2)). Without that a validation split that
    holds no mistake makes every answer infinitely sure. Platt's rule, with one doubtful answer a class, was measured
    too: it makes answers too unsure (docs/decisions/training.md). `logits` [n, classes], `labels` [n].
    """
    if not len(labels):
        return 1.0
    count, classes = logits.shape
    parts = _parts(logits, NUMBERS)
    smoothing = min(1.0, classes / ((classes - 1) * (count + 2)))  # torch spreads it over the right class too
    log_inverse = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_inverse], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = []
        for part in parts:
            # copies: arrays that came through Ray cannot be written, of which torch warns
            scores, targets = torch.tensor(logits[part], dtype=torch.float64), torch.tensor(labels[part])
            loss = F.cross_entropy(scores * log_inverse.exp(), targets, label_smoothing=smoothing)
            losses.append(loss * (len(targets) / count))
            losses[-1].backward()
        return torch.stack(losses).detach().sum()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(np.clip(np.exp(-log_inverse.item()), 0.1, 10.0))


def tempered(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """softmax(logits / temperature), [n, classes]; beside it there is no copy of all of them."""
    probabilities = np.empty(logits.shape)
    for part in _parts(logits, PROBABILITIES):
        scaled = torch.tensor(logits[part], dtype=torch.float64).div_(temperature)
        probabilities[part] = F.softmax(scaled, dim=1).numpy()
    return probabilities


def _parts(logits: NDArray[np.float32], numbers: int) -> list[slice]:
    count, classes = logits.shape
    rows = max(1, numbers // classes)
    return [slice(start, start + rows) for start in range(0, count, rows)]
