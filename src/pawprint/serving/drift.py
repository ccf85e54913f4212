"""Do the pictures that people send come from where the photographs came from that the model was tested on?

    found = compare(held_out, traffic, seed=2017)
    found.p          # 0.003: pictures as different as these came by chance in 3 of 1,000 draws
    found.separation # 0.93: of a picture of each, the one that people sent is told in 93 % of all pairs
    label_shift(held_out_counts, traffic_counts, seed=2017).distance    # 0.2: a fifth is predicted as another class

A p-value says whether there is a difference, and falls with the number of pictures; the other two say how large it is.

Maximum mean discrepancy with Gaussian kernels (Gretton et al., A Kernel Two-Sample Test, 2012): it sees any difference
between two distributions of embeddings, not of their means only. Its p-value comes from permutations, so that it holds
for any number of pictures and any network; at 5 % one report in twenty is a false alarm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pawprint.inference.ood import unit

FEWEST = 20  # pictures; with fewer even a great drift may go unseen
_MOST = 1000  # pictures in each sample: the kernel is a table of all pairs
_PERMUTATIONS = 999
_WIDTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # near and far differences


@dataclass(frozen=True)
class Drift:
    """The result of the test."""

    training: int  # embeddings of photographs of ours that were compared
    traffic: int  # embeddings of pictures that people sent
    mmd: float  # squared maximum mean discrepancy; 0 is the same
    p: float  # how often chance alone gives as much
    separation: float  # area under the ROC curve of telling them apart; about 0.5 is the same, 1 altogether different


@dataclass(frozen=True)
class LabelShift:
    """How often each class is predicted, against held-out ones (BBSDh; Rabanser et al., Failing Loudly, 2019)."""

    distance: float  # total variation: the share of predictions that would have to be of another class; 0 is the same
    p: float  # how often chance alone gives as much


def compare(training: NDArray[np.floating], traffic: NDArray[np.floating], seed: int) -> Drift:
    """Embeddings [n, d] and [m, d] -> the test; more than 1,000 of either are thinned out at random.

    Raises:
        ValueError: one of them has fewer than two rows.
    """
    rng = np.random.default_rng(seed)
    samples = [unit(_thinned(each, rng).astype(np.float32)) for each in (training, traffic)]
    first, second = map(len, samples)
    if min(first, second) < 2:
        raise ValueError("each sample needs at least two photographs")
    kernel = _kernel(np.concatenate(samples))
    weights = np.concatenate([np.full(first, 1 / first), np.full(second, -1 / second)]).astype(np.float32)
    # row 0 is what was seen, the others are the same pictures with the samples shuffled
    shuffled = np.stack([weights, *(rng.permutation(weights) for _ in range(_PERMUTATIONS))])
    distances = np.einsum("pn,pn->p", shuffled @ kernel, shuffled)
    as_much = int((distances >= distances[0]).sum())
    return Drift(first, second, float(distances[0]), as_much / len(distances), _separation(kernel, first))


def label_shift(held_out: NDArray[np.integer], traffic: NDArray[np.integer], seed: int) -> LabelShift:
    """Counts of predicted classes [k], of held-out photographs and of traffic -> the chi-squared test by permutation.

    Raises:
        ValueError: one of them has no prediction.
    """
    both = np.stack([held_out, traffic]).astype(float)
    sizes = both.sum(axis=1, keepdims=True)
    if not sizes.all():
        raise ValueError("each sample needs at least one prediction")
    together = both.sum(axis=0)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(
        together.astype(np.int64), int(sizes[1, 0]), _PERMUTATIONS, method="count"
    )
    expected = np.maximum(together * sizes[1] / sizes.sum(), 1e-12)
    # Both samples' terms have the same numerators, so one sample's statistic orders the draws as the sum does.
    seen = ((both[1] - expected) ** 2 / expected).sum()
    as_much = int((((drawn - expected) ** 2 / expected).sum(axis=1) >= seen - 1e-9).sum())
    shares = both / sizes
    return LabelShift(float(np.abs(shares[0] - shares[1]).sum() / 2), (1 + as_much) / (1 + _PERMUTATIONS))


def _separation(kernel: NDArray[np.float32], first: int) -> float:
    """How well a point's likeness to either sample, itself left out, tells which one it is of."""
    others = kernel - np.diag(np.diag(kernel))
    second = len(kernel) - first
    of_second = np.arange(len(kernel)) >= first
    likeness = others[:, first:].sum(axis=1) / (second - of_second) - others[:, :first].sum(axis=1) / (
        first - ~of_second
    )
    order = np.sort(likeness[:first])
    below, up_to = (np.searchsorted(order, likeness[first:], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / first)


def _thinned(embeddings: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    if len(embeddings) <= _MOST:
        return embeddings
    return embeddings[rng.choice(len(embeddings), _MOST, replace=False)]


def _kernel(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, d] -> the mean of Gaussian kernels [n, n]: as wide as the median distance of two points, wider, narrower."""
    squares = np.maximum(2 - 2 * points @ points.T, 0)  # of unit vectors
    median = max(float(np.median(squares[np.triu_indices(len(points), 1)])), 1e-12)
    return np.asarray(np.mean([np.exp(-squares / (width * median)) for width in _WIDTHS], axis=0), np.float32)
