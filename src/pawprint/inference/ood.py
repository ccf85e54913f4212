"""Out-of-distribution score of a picture: how similar it is to training photographs.

    bank = Bank.of(embeddings, class_scores)
    bank.typicality(embedding, probabilities)       # [n], at most 1
    threshold(bank.left_out(...), share=0.01)

Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors (2022): the cosine similarity to the k-th nearest.
Where the backbone is a pretrained one as it was, neighbours are looked for among its own class scores and class
probabilities, half and half: both change less with a photograph's origin than its features do. The scores know what a
picture resembles among all classes, most of which it is not, the probabilities only the few that it may be.
docs/decisions/evaluation.md has what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
NEIGHBOUR = 10  # the k-th
NUMBERS = 2**24  # similarities in memory at a time
SURE, SUREST = 0.015, 6.0  # similarity that a unit of log-odds is worth, and the log-odds that count at most


@dataclass(frozen=True)
class Bank:
    """Directions of training photographs, in the space where neighbours are looked for."""

    directions: Floats  # [m, s], of length 1; [m, 2 s] where it has class probabilities too
    k: int
    class_scores: Floats | None = None  # [s, d + 1]: embedding and 1 -> class scores; None: the embedding itself, s = d
    probabilities: bool = True  # beside class scores; a model of before has none
    mean_of_nearest: bool = False  # of a model of before: mean similarity to the k nearest, and of confidence nothing

    @classmethod
    def of(cls, embeddings: Floats, class_scores: Floats | None) -> Self:
        """The bank of training photographs with these embeddings [m, d], as its file holds it."""
        rounded = None if class_scores is None else class_scores.astype(np.float16).astype(np.float32)
        empty = cls(np.empty((0, 0), np.float32), min(NEIGHBOUR, len(embeddings)), rounded)
        return cls(empty._directions(embeddings).astype(np.float16).astype(np.float32), empty.k, rounded)

    @property
    def dimensions(self) -> int:
        return int(self.directions.shape[1] if self.class_scores is None else self.class_scores.shape[1] - 1)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """What its file holds."""
        held: dict[str, NDArray[np.generic]] = {
            "directions": self.directions.astype(np.float16), "k": np.array([self.k], np.int64)
        }  # fmt: skip
        return held if self.class_scores is None else held | {"class_scores": self.class_scores.astype(np.float16)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """KeyError or IndexError where they are not a bank's."""
        old = "embeddings" in tensors
        directions = tensors["embeddings" if old else "directions"].astype(np.float32)
        scores = tensors.get("class_scores")
        k = min(int(tensors["k"].reshape(-1)[0]), len(directions))
        both = scores is not None and directions.shape[1] == 2 * len(scores)
        return cls(directions, k, None if scores is None else scores.astype(np.float32), both, old)

    def typicality(self, embedding: Floats, probabilities: NDArray[np.floating]) -> Floats:
        """Similarity [n] to the k-th nearest, raised where the model is sure; at most 1.

        A picture of something else is rarely one that the model is sure of, and a photograph of another origin often
        is. `embedding` is [n, d], `probabilities` [n, classes].
        """
        parts = self._parts(len(embedding))
        found = [self.typicality_of(self.cosine(embedding[part]), probabilities[part]) for part in parts]
        return np.concatenate(found)

    def cosine(self, embedding: Floats) -> Floats:
        """[n, d] -> cosine similarity [n, m] to each direction; ValueError at another d."""
        return self._directions(embedding) @ self.directions.T

    def typicality_of(self, cosine: Floats, probabilities: NDArray[np.floating]) -> Floats:
        """`typicality` from the cosine similarities [n, m]."""
        nearest = np.partition(cosine, -self.k, axis=1)[:, -self.k :]
        if self.mean_of_nearest:
            return np.asarray(nearest.mean(axis=1, dtype=np.float32))
        return _raised(nearest[:, 0], probabilities)

    def left_out(self, embedding: Floats, probabilities: NDArray[np.floating]) -> Floats:
        """The typicality of photographs that are in the bank themselves, each without itself."""
        if len(self.directions) < 2:
            return np.empty(0, np.float32)
        k = min(self.k + 1, len(self.directions))  # the nearest is the photograph itself
        parts = self._parts(len(embedding))
        nearest = [np.partition(self.cosine(embedding[part]), -k, axis=1)[:, -k].copy() for part in parts]
        return _raised(np.concatenate(nearest), probabilities)

    def _parts(self, count: int) -> list[slice]:
        """Of `count` photographs, one at least: as many at a time as have NUMBERS similarities to the bank."""
        rows = max(1, NUMBERS // max(1, len(self.directions)))
        return [slice(start, start + rows) for start in range(0, max(1, count), rows)]

    def _directions(self, embedding: Floats) -> Floats:
        if self.class_scores is None:
            return unit(embedding)
        scores: Floats = embedding @ self.class_scores[:, :-1].T + self.class_scores[:, -1]
        if not self.probabilities:
            return unit(scores)
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))  # class probabilities, but for their sum
        return unit(np.concatenate([unit(scores), unit(likely)], axis=1))


def unit(embedding: Floats) -> Floats:
    """[n, d] -> the same directions, each of length 1."""
    lengths = np.linalg.norm(embedding, axis=1, keepdims=True)
    directions: Floats = embedding / np.maximum(lengths, 1e-12)
    return directions


def threshold(typicality: NDArray[np.floating], share: float) -> float:
    """The conformal quantile: of photographs like these [n] at most `share` lie below it, on average over all sets of n
    (Vovk et al., Algorithmic Learning in a Random World, 2005). -1, which all pass, where n is too small to say."""
    rank = int(np.floor(share * (len(typicality) + 1)))
    return float(np.float32(np.sort(typicality)[rank - 1])) if rank else -1.0


def cheapest_threshold(own: NDArray[np.floating], strangers: NDArray[np.floating], stranger_costs: float) -> float:
    """The threshold with the smallest cost over these typicalities: a photograph of a class that is refused costs 1, an
    accepted stranger `stranger_costs`, and both come equally often. Of equal ones the lowest, which refuses least."""
    tried = np.unique(np.concatenate([own, strangers, [-1.0]]).astype(np.float32))
    refused, caught = (np.searchsorted(np.sort(part), tried, "left") / len(part) for part in (own, strangers))
    return float(tried[int(np.argmin(refused + stranger_costs * (1 - caught)))])


def _raised(similarity: Floats, probabilities: NDArray[np.floating]) -> Floats:
    best = np.clip(probabilities.max(axis=1), 1e-6, 1 - 1e-6)
    sure = np.clip(np.log(best / (1 - best)), 0, SUREST)
    return np.asarray((similarity + SURE * sure) / (1 + SURE * SUREST), np.float32)
