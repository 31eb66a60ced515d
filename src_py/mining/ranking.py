"""Of candidates for a row's neighbors the best, whatever search has found them."""

import numpy as np

BLOCK_BYTES = 64 * 2**20  # of features gathered at a time


def rank(
    unit: np.ndarray,
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int,
    names: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of (Q, m) candidates for Q rows, without the rows themselves, m > k.

    Args:
        unit: (N, D) float32 rows of length 1.
        names: (N,) int64, what each row is called in the result, and ordered by where two are as
            similar; None for its number.

    Returns:
        (Q, k) int64 and their cosine similarities (Q, k) float32, the most similar first.
    """
    at_once = max(1, BLOCK_BYTES // (4 * unit.shape[1] * candidates.shape[1]))
    if len(queries) > at_once:
        starts = range(0, len(queries), at_once)
        parts = [slice(start, start + at_once) for start in starts]
        ranked = [rank(unit, queries[part], candidates[part], k, names) for part in parts]
        indices, similarities = zip(*ranked, strict=True)
        return np.concatenate(indices), np.concatenate(similarities)
    similarity = cosine_similarity(unit, queries, candidates)
    # Moving self behind everything drops it wherever it stands; where duplicates crowded it out
    # of the candidates, the least similar of them is dropped in its place.
    similarity[candidates == queries[:, None]] = -np.inf
    called = candidates if names is None else names[candidates]
    order = np.lexsort((called, -similarity))[:, :k]
    return np.take_along_axis(called, order, 1), np.take_along_axis(similarity, order, 1)


def cosine_similarity(unit: np.ndarray, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(Q,) rows and (Q, m) candidates -> (Q, m) float32.

    Summed in the same order for every pair, unlike a matrix product in blocks, so that identical
    rows have identical similarities and ties are ties.
    """
    similarity = np.einsum("qd,qmd->qm", unit[queries], unit[candidates])
    return np.clip(similarity, -1, 1, out=similarity)
