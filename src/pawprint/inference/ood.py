"""Out-of-distribution score of a picture: how similar its embedding is to those of training photographs.

Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors (2022): mean cosine similarity to the k nearest.
"""

import numpy as np
from numpy.typing import NDArray


def unit(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, d] -> the same directions, each of length 1."""
    lengths = np.linalg.norm(embedding, axis=1, keepdims=True)
    directions: NDArray[np.float32] = embedding / np.maximum(lengths, 1e-12)
    return directions


def knn_similarity(bank: NDArray[np.float32], embedding: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Mean cosine similarity of each of `embedding` [n, d] to its k nearest of the unit vectors `bank` [m, d]: [n]."""
    cosine = unit(embedding) @ bank.T
    nearest = np.partition(cosine, -k, axis=1)[:, -k:]
    mean: NDArray[np.float32] = nearest.mean(axis=1, dtype=np.float32)
    return mean
