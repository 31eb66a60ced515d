"""Merging clusters without labels: those whose images are each other's nearest neighbors."""

import numpy as np

EMPTY = 1e-6  # images; a smaller cluster is none, and joined first


def neighbor_affinity(probabilities: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """How many images' worth of neighbors lead from one cluster to another.

    With p_i the probabilities of image i and q_i the mean of those of its neighbors, this is the
    symmetric part of the sum over i of p_i q_i^T.

    Args:
        probabilities: (N, C).
        neighbors: (N, k) rows.

    Returns:
        (C, C) float64, symmetric, whose sum is N.
    """
    of_neighbors = np.zeros(probabilities.shape)
    for column in neighbors.T:  # one column at a time: (N, k, C) may be too large
        of_neighbors += probabilities[column]
    one_way = probabilities.T.astype(np.float64) @ (of_neighbors / neighbors.shape[1])
    return (one_way + one_way.T) / 2


def merge_by_neighbors(
    probabilities: np.ndarray, neighbors: np.ndarray, groups: int
) -> list[tuple[int, ...]]:
    """Joins clusters, two groups at a time, until `groups` are left.

    Each time those two are joined of which the smaller has the largest share of its neighbors in
    the larger. Parts of one kind have most of their neighbors in each other; a small cluster that
    is a kind of its own has few in any other.

    Args:
        probabilities: (N, C), C at least `groups`.
        neighbors: (N, k) rows.

    Returns:
        the clusters of each group, ascending, by their lowest.
    """
    affinity = neighbor_affinity(probabilities, neighbors)
    sizes = probabilities.sum(axis=0, dtype=np.float64)
    members: list[tuple[int, ...]] = [(cluster,) for cluster in range(len(sizes))]
    while len(members) > groups:
        smaller = np.minimum.outer(sizes, sizes)
        shares = np.where(smaller < EMPTY, np.inf, affinity / np.maximum(smaller, EMPTY))
        np.fill_diagonal(shares, -1)
        kept, joined = sorted(np.unravel_index(shares.argmax(), shares.shape))
        affinity[kept] += affinity[joined]
        affinity[:, kept] += affinity[:, joined]
        affinity = np.delete(np.delete(affinity, joined, axis=0), joined, axis=1)
        sizes[kept] += sizes[joined]
        sizes = np.delete(sizes, joined)
        members[kept] = tuple(sorted(members[kept] + members.pop(joined)))
    return sorted(members)
