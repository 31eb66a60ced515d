"""K-means by faiss: the centers that heads begin at, and that SCAN is compared with."""

import numpy as np

SAMPLE = 20_000  # rows that k-means sees; its prototypes hardly move with more


def kmeans_centers(
    points: np.ndarray, clusters: int, seed: int, iterations: int, starts: int = 1
) -> np.ndarray:
    """(C, D) float32 centers of the points (M, D), at most SAMPLE of them; the best of `starts`."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=starts,
        seed=seed % 2**31,  # a C int
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLE,
    )
    kmeans.train(np.ascontiguousarray(points))
    assert kmeans.centroids is not None, "train() has set them"
    return kmeans.centroids
