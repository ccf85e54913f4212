"""Batches in a seeded order; the next one is prepared while the current one is computed."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawprint.data.dataset import Split
from pawprint.training import distributed

T = TypeVar("T")
PREFETCH = 2  # batches


class Rows(Protocol):
    """An array, or one that is read from a file row by row."""

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.float32]:
        """float32 [k, ...], a copy."""


class Batch(NamedTuple):
    """Some photographs, or their features."""

    inputs: Tensor  # uint8 [n, 300, 300, 3], or float32 [n, d] or [n, c, h, w]
    labels: Tensor  # int64 [n]
    indices: NDArray[np.int64]  # [n], in the split
    whole: int  # photographs of this batch in all processes together


def order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(count) that depends on nothing but seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def chunks(indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Pieces of `size`; the last may be smaller."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def photographs(
    split: Split,
    order: list[NDArray[np.int64]],
    augment: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] | None,
    alone: bool = False,
) -> Iterator[Batch]:
    """Batches of pixels: this process's share of each, or the whole where it works `alone`.

    `augment` takes a photograph and its hash.
    """

    def make() -> Iterator[Batch]:
        for batch in order:
            indices = batch if alone else distributed.share(batch)
            pixels = split.images(indices)
            if augment is not None:
                pairs = zip(pixels, indices, strict=True)
                pixels = np.stack([augment(one, split.hashes[index]) for one, index in pairs])
            yield Batch(torch.from_numpy(pixels), torch.from_numpy(split.labels[indices]), indices, len(batch))

    return prefetch(make())


def features(
    split: Split,
    order: list[NDArray[np.int64]],
    rows: Rows,
    flipped: Rows | None = None,
    flip: Callable[[str], bool] | None = None,
) -> Iterator[Batch]:
    """Batches of cached features, this process's share of each.

    With the features of mirror images, `flipped`, `flip` says of a photograph's hash whether they are taken.
    """
    for batch in order:
        indices = distributed.share(batch)
        inputs = rows[indices]
        if flipped is not None and flip is not None:
            chosen = np.array([flip(split.hashes[index]) for index in indices], bool)
            inputs[chosen] = flipped[indices[chosen]]
        yield Batch(torch.from_numpy(inputs), torch.from_numpy(split.labels[indices]), indices, len(batch))


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, up to PREFETCH of them prepared by a thread. An error in the thread is raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(PREFETCH)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()
