"""K-means by faiss: the centers that heads begin at, and that SCAN is compared with."""

import numpy as np
import torch
from torch import Tensor

from src_py.run.cores import working_threads

SAMPLE = 20_000  # rows that k-means sees; its prototypes hardly move with more
FEWEST_POINTS = 2  # for each of many clusters


def sample_of(rows: int, clusters: int, seed: int) -> Tensor:
    """(M,) int64: those of so many rows that k-means is to see, in random order."""
    random = torch.Generator().manual_seed(seed)
    return torch.randperm(rows, generator=random)[: max(SAMPLE, FEWEST_POINTS * clusters)]


def kmeans_centers(
    points: np.ndarray, clusters: int, seed: int, iterations: int, starts: int = 1
) -> np.ndarray:
    """(C, D) float32 centers of the points (M, D), the best of `starts`."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=starts,
        seed=seed % 2**31,  # a C int
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(points)),
    )
    with working_threads():
        kmeans.train(np.ascontiguousarray(points))
    assert kmeans.centroids is not None, "train() has set them"
    return kmeans.centroids
