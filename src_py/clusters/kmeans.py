"""K-means by faiss: the centers that heads begin at, and that SCAN is compared with."""

import numpy as np
import torch

SAMPLE = 20_000  # rows that k-means sees; its prototypes hardly move with more
FEWEST_POINTS = 2  # for each of many clusters


def sample_size(clusters: int) -> int:
    """How many rows k-means is to see, at most."""
    return max(SAMPLE, FEWEST_POINTS * clusters)


def kmeans_centers(
    points: np.ndarray, clusters: int, seed: int, iterations: int, starts: int = 1
) -> np.ndarray:
    """(C, D) float32 centers of the points (M, D), the best of `starts`."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())  # which are those of idle cores

    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=starts,
        seed=seed % 2**31,  # a C int
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(points)),
    )
    kmeans.train(np.ascontiguousarray(points))
    assert kmeans.centroids is not None, "train() has set them"
    return kmeans.centroids
