"""What the loop is fed: batches in a seeded order, the next one made ready while this one is computed."""

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
Augment = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]
Draw = Callable[[str], bool]
AHEAD = 2  # batches kept ready


class Rows(Protocol):
    """An array, or what is read from a file when it is asked for."""

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
    split: Split, pieces: list[NDArray[np.int64]], augment: Augment | None, alone: bool = False
) -> Iterator[Batch]:
    """Batches of pixels, this process's share of each piece, or the whole where it works `alone`.

    `augment` is given each photograph and its hash.
    """

    def make() -> Iterator[Batch]:
        for piece in pieces:
            indices = piece if alone else distributed.share(piece)
            pixels = split.images(indices)
            if augment is not None:
                pixels = np.stack(
                    [augment(one, split.hashes[index]) for one, index in zip(pixels, indices, strict=True)]
                )
            yield Batch(torch.from_numpy(pixels), torch.from_numpy(split.labels[indices]), indices, len(piece))

    return ahead(make())


def kept(
    split: Split, pieces: list[NDArray[np.int64]], plain: Rows, mirrored: Rows | None = None, draw: Draw | None = None
) -> Iterator[Batch]:
    """Batches of what was computed before, this process's share of each piece.

    Where there are mirror images too, `draw` says of a photograph's hash whether it is their turn.
    """
    for piece in pieces:
        indices = distributed.share(piece)
        inputs = plain[indices]
        if mirrored is not None and draw is not None:
            turned = np.array([draw(split.hashes[index]) for index in indices], bool)
            inputs[turned] = mirrored[indices[turned]]
        yield Batch(torch.from_numpy(inputs), torch.from_numpy(split.labels[indices]), indices, len(piece))


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, up to AHEAD of them made ready by a thread. An error in the thread is raised here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(AHEAD)
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
