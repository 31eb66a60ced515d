"""What a graph of neighbors looks like, and which of them are mutual."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src_py.run.writing import scratch_array

BLOCK = 8192  # rows at once, at most
GATHERED = 2**22  # neighbors' neighbors at once
DUPLICATE = 1 - 1e-6  # cosine similarity above which two rows count as the same


def mutual_first(
    neighbors: np.ndarray, scratch: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Puts the neighbors that are mutual (j of i, and i of j) to the front of each row.

    Args:
        neighbors: (N, k).
        scratch: folder for a temporary file, where they are many; None keeps them in memory.

    Returns:
        The reordered (N, k), otherwise in the same order, and how many of each row are mutual,
        (N,) int64; a row that has none counts its nearest neighbor.
    """
    reordered = scratch_array(neighbors.shape, scratch, neighbors.dtype)
    counts = np.empty(len(neighbors), dtype=np.int64)
    for rows in _blocks(*neighbors.shape):
        mutual = _are_mutual(neighbors, rows)
        order = np.argsort(~mutual, axis=1, kind="stable")
        counts[rows] = np.maximum(mutual.sum(axis=1), 1)
        reordered[rows] = np.take_along_axis(neighbors[rows], order, axis=1)
    return reordered, counts


def _are_mutual(neighbors: np.ndarray, rows: slice) -> np.ndarray:
    """Which of the neighbors (n, k) of some rows have the row among their own, (n, k) bool."""
    own = np.arange(rows.start, rows.stop)[:, None, None]
    return (neighbors[neighbors[rows]] == own).any(axis=2)


def neighbor_statistics(neighbors: np.ndarray, similarity: np.ndarray) -> dict[str, float | int]:
    """What a neighbor graph looks like, without labels, in O(N k) memory.

    The dictionary holds
      mean_similarity, min_similarity   over all pairs
      mutual_share       pairs i -> j for which j -> i too, as a fraction of all pairs
      max_in_degree      how often the most popular row is chosen (hubness; the mean is k)
      never_chosen       rows that are nobody's neighbor
      exact_duplicates   rows with a neighbor more similar than 1 - 1e-6

    Args:
        neighbors, similarity: (N, k), as find_neighbors returns them.

    Raises:
        ValueError: if the two shapes differ or are not (N, k).
    """
    if neighbors.shape != similarity.shape or neighbors.ndim != 2 or neighbors.size == 0:
        raise ValueError(
            "neighbors and similarity must be (N, k) arrays of one shape, "
            f"got {neighbors.shape} and {similarity.shape}"
        )
    rows, mutual, highest = len(neighbors), 0, np.empty(len(neighbors), np.float32)
    total, in_degree = 0.0, np.zeros(rows, dtype=np.int64)
    for block in _blocks(*neighbors.shape):
        mutual += int(np.count_nonzero(_are_mutual(neighbors, block)))
        np.add.at(in_degree, neighbors[block].ravel(), 1)
        total += float(similarity[block].sum(dtype=np.float64))
        highest[block] = similarity[block].max(axis=1)
    return {
        "mean_similarity": total / similarity.size,
        "min_similarity": float(similarity.min()),
        "mutual_share": mutual / neighbors.size,
        "max_in_degree": int(in_degree.max()),
        "never_chosen": int(np.count_nonzero(in_degree == 0)),
        "exact_duplicates": int(np.count_nonzero(highest > DUPLICATE)),
    }


def _blocks(rows: int, neighbors: int = 1) -> Iterator[slice]:
    """Of rows, fewer where the neighbors of each one's neighbors are gathered."""
    size = max(1, min(BLOCK, GATHERED // neighbors**2))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
