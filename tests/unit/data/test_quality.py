"""Checks of a photograph by itself."""

import time

import numpy as np

from pawprint.data import quality


def test_cut_pictures_are_hashed_without_threads_of_blas() -> None:
    """Where BLAS took threads for one product, they waited for each other: 6 to 15 ms of processor time each."""
    pixels = np.random.default_rng(2017).integers(0, 256, (300, 300, 3), np.uint8)
    quality._cuts(pixels)
    busy, own = time.process_time(), time.thread_time()
    for _ in range(50):
        quality._cuts(pixels)
    assert time.process_time() - busy < 1.5 * (time.thread_time() - own)
