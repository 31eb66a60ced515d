"""Nearest neighbors by cosine similarity, on a CPU, in memory that grows with N and not with N^2.

    neighbors, similarity = find_neighbors(features, k=20)

faiss does the search: exactly for up to 100,000 rows, above that in an inverted file whose
breadth is chosen by measuring its recall on a sample of these very features. What that takes on
two cores is in results/benchmark-2-cpu-cores.json.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from faiss import IndexIVFFlat

LARGEST_EXACT = 100_000  # rows; the exact search is quadratic
# The breadth of an approximate search is doubled until a sample reaches this recall. It leaves
# room above the promised 0.95 for the sample's own error (a standard error below 0.008).
RECALL_AIMED_AT = 0.97
RECALL_SAMPLE = 500  # rows
# Candidates beyond k + 1. faiss breaks ties in its own order; the surplus lets near-ties at the
# end of a row be decided here, by similarity and then by index.
SURPLUS = 8
BLOCK_BYTES = 64 * 2**20  # of features gathered at a time
SAME_DIRECTION = 1e-6  # largest difference of any coordinate, at length 1
DUPLICATE = 1 - 1e-6  # cosine similarity above which two rows count as the same


def l2_normalize(features: np.ndarray) -> np.ndarray:
    """(N, D) features of any real dtype -> (N, D) float32 rows of length 1.

    Raises:
        ValueError: if the array is not two-dimensional, is empty, or holds rows that are not
            finite or all zero: they have no direction, so the message says how many there are.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must be a non-empty (N, D) array, got shape {features.shape}")
    features = features.astype(np.result_type(features.dtype, np.float32), copy=False)
    # max and min see NaN and infinity without an (N, D) temporary; dividing by the largest
    # magnitude first keeps the squares of very large or very small rows in range.
    largest = np.maximum(features.max(axis=1), -features.min(axis=1))  # (N,)
    _require_no_rows(~np.isfinite(largest), "are not finite")
    _require_no_rows(largest == 0, "are all zero")
    unit = (features / largest[:, None]).astype(np.float32, copy=False)
    unit /= np.sqrt(np.einsum("nd,nd->n", unit, unit))[:, None]
    return unit


def with_directions(features: np.ndarray) -> np.ndarray:
    """(N, D) features, of which those that are all zero get a direction of their own.

    A picture that a network answers with zeros only, such as a black one, is like others of that
    kind and unlike the rest. Without such rows the features are given back as they are, else with
    one more column: (N, D + 1).
    """
    zero = ~features.any(axis=1)  # (N,)
    return np.column_stack([features, zero.astype(features.dtype)]) if zero.any() else features


def are_all_alike(features: np.ndarray) -> bool:
    """Whether (N, D) features have one direction, so that nothing tells the images apart."""
    unit = l2_normalize(with_directions(features))
    return bool(np.ptp(unit, axis=0).max() < SAME_DIRECTION)


def find_neighbors(
    features: np.ndarray, k: int, threads: int | None = None, exact: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar other rows of every row, by cosine similarity.

    A row is left out of its own neighbors by its index, so exact duplicates of it stay in. Among
    more than k + 8 duplicates of one row, which of them are listed is faiss's choice.

    Args:
        features: (N, D), any length of rows.
        threads: faiss's threads, None for its default.
        exact: True compares all pairs; False uses the inverted file, unless the features are so
            few or so evenly spread that all pairs are faster; None is True up to 100,000 rows,
            False above.

    Returns:
        Neighbors (N, k) int64 and similarity (N, k) float32, the most similar first and ties by
        index.

    Raises:
        ValueError: if k < 1, k >= N, or l2_normalize refuses the features.
    """
    unit = np.ascontiguousarray(l2_normalize(features))
    rows = len(unit)
    if not 1 <= k < rows:
        raise ValueError(
            f"k must be at least 1 and below the number of rows, got k = {k} for {rows} rows"
        )
    if exact is None:
        exact = rows <= LARGEST_EXACT
    wanted = min(k + 1 + SURPLUS, rows)
    with _faiss_threads(threads):
        index = None if exact else _build_index(unit, wanted)
        return _search_blocks(unit, k, wanted, index)


def neighbor_recall(features: np.ndarray, neighbors: np.ndarray) -> float:
    """The share of the true neighbors that (N, k) neighbors contain, from 1,000 rows.

    A listed row counts as true if it is as similar as the k-th true neighbor, so that the choice
    among exact duplicates does not matter. Costs 1,000 * N * D multiplications.

    Raises:
        ValueError: if the number of rows differs or l2_normalize refuses the features.
    """
    unit = np.ascontiguousarray(l2_normalize(features))
    if len(neighbors) != len(unit):
        raise ValueError(f"{len(neighbors)} rows of neighbors for {len(unit)} rows of features")
    queries = _sample_rows(len(unit), 1000)
    candidates = _search_exact(unit[queries], unit, neighbors.shape[1] + 1)
    _, similarity = _rank(unit, queries, candidates, neighbors.shape[1])
    found = _similarity(unit, queries, neighbors[queries])
    return float(np.mean(found >= similarity[:, -1:] - 1e-6))


def mutual_first(neighbors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts the neighbors that are mutual (j of i, and i of j) to the front of each row.

    Args:
        neighbors: (N, k).

    Returns:
        The reordered (N, k), otherwise in the same order, and how many of each row are mutual,
        (N,) int64; a row that has none counts its nearest neighbor.
    """
    rows = len(neighbors)
    anchors = np.arange(rows, dtype=np.int64)[:, None]
    mutual = np.isin(anchors * rows + neighbors, neighbors * rows + anchors)
    order = np.argsort(~mutual, axis=1, kind="stable")
    counts = np.maximum(mutual.sum(axis=1), 1)
    return np.take_along_axis(neighbors, order, axis=1), counts


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
    rows = len(neighbors)
    # Each pair as one number that forgets its direction: a mutual pair then occurs twice. One
    # sort of them is many times faster than looking up every reversed pair.
    anchors = np.arange(rows, dtype=np.int64)[:, None]
    pairs = (np.minimum(anchors, neighbors) * rows + np.maximum(anchors, neighbors)).ravel()
    pairs.sort()
    mutual = 2 * np.count_nonzero(pairs[1:] == pairs[:-1])
    in_degree = np.bincount(neighbors.ravel(), minlength=rows)
    return {
        "mean_similarity": float(similarity.mean(dtype=np.float64)),
        "min_similarity": float(similarity.min()),
        "mutual_share": float(mutual / pairs.size),
        "max_in_degree": int(in_degree.max()),
        "never_chosen": int(np.count_nonzero(in_degree == 0)),
        "exact_duplicates": int(np.count_nonzero(similarity.max(axis=1) > DUPLICATE)),
    }


def _require_no_rows(bad: np.ndarray, what: str) -> None:
    """Raise ValueError if any of the (N,) flags is set, saying how many and where the first is."""
    if bad.any():
        raise ValueError(
            f"{np.count_nonzero(bad)} of {len(bad)} feature rows {what}, "
            f"the first is row {int(bad.argmax())}"
        )


@contextmanager
def _faiss_threads(threads: int | None) -> Iterator[None]:
    """faiss keeps its number of threads in a global: set it, and put it back afterwards."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _search_exact(queries: np.ndarray, unit: np.ndarray, count: int) -> np.ndarray:
    """(Q, D) queries -> (Q, count) indices of the most similar of all rows."""
    import faiss

    # The same code as IndexFlatIP.search, without the index's copy of the features.
    return faiss.knn(queries, unit, min(count, len(unit)), metric=faiss.METRIC_INNER_PRODUCT)[1]


def _build_index(unit: np.ndarray, wanted: int) -> "IndexIVFFlat | None":
    """An inverted file over the rows that reaches RECALL_AIMED_AT on a sample of them.

    None where that would take more than a quarter of all lists: comparing all pairs as matrix
    products is then the faster way. So it is for small sets, and for features without clusters.
    """
    import faiss

    rows, width = unit.shape
    lists = min(int(4 * rows**0.5), rows // 39)  # k-means wants 39 rows a centroid
    broadest, probes = lists // 4, 8
    if probes > broadest:
        return None
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 64  # a quarter of faiss's default: four times faster
    index.train(unit)
    index.add(unit)

    queries = _sample_rows(rows, RECALL_SAMPLE)
    truth = _search_exact(unit[queries], unit, wanted)
    lowest = _similarity(unit, queries, truth)[:, -1:]  # (Q, 1)
    while probes <= broadest:
        index.nprobe = probes
        similarity, _ = index.search(unit[queries], wanted)
        # Missing results come back as -FLT_MAX, below any similarity.
        if np.mean(similarity >= lowest - 1e-6) >= RECALL_AIMED_AT:
            return index
        probes *= 2
    return None


def _order_by_list(unit: np.ndarray, index: "IndexIVFFlat") -> np.ndarray:
    """All (N,) row indices, those of one inverted list together.

    Neighbors in this order probe the same lists while these are in the cache: measured on
    300,000 x 128 with two threads, the search takes half the time.
    """
    nearest = index.quantizer.search(unit, 1)[1][:, 0]
    return np.argsort(nearest, kind="stable")


def _search_blocks(
    unit: np.ndarray, k: int, wanted: int, index: "IndexIVFFlat | None"
) -> tuple[np.ndarray, np.ndarray]:
    """find_neighbors on (N, D) unit rows, a block of rows at a time; index None is exact."""
    rows, width = unit.shape
    neighbors = np.empty((rows, k), dtype=np.int64)
    similarity = np.empty((rows, k), dtype=np.float32)
    # faiss is fastest with a few thousand queries at once; ranking gathers wanted * D values a row.
    search_block = 8192
    rank_block = max(1, BLOCK_BYTES // (4 * width * wanted))
    order = np.arange(rows) if index is None else _order_by_list(unit, index)
    for start in range(0, rows, search_block):
        queries = order[start : start + search_block]
        if index is None:
            candidates = _search_exact(unit[queries], unit, wanted)
        else:
            candidates = index.search(unit[queries], wanted)[1]
            # The probed lists may hold fewer rows than wanted; such queries see all rows instead.
            short = (candidates < 0).any(axis=1)
            if short.any():
                candidates[short] = _search_exact(unit[queries[short]], unit, wanted)
        for first in range(0, len(queries), rank_block):
            part = slice(first, first + rank_block)
            block = queries[part]
            neighbors[block], similarity[block] = _rank(unit, block, candidates[part], k)
    return neighbors, similarity


def _rank(
    unit: np.ndarray, queries: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of (Q, m) candidates for Q rows, without the rows themselves, m > k."""
    similarity = _similarity(unit, queries, candidates)
    # Moving self behind everything drops it wherever it stands; where duplicates crowded it out
    # of the candidates, the least similar of them is dropped in its place.
    similarity[candidates == queries[:, None]] = -np.inf
    order = np.lexsort((candidates, -similarity))[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(similarity, order, 1)


def _similarity(unit: np.ndarray, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(Q,) rows and (Q, m) candidates -> (Q, m) float32 cosine similarities.

    Summed in the same order for every pair, unlike a matrix product in blocks, so that identical
    rows have identical similarities and ties are ties.
    """
    similarity = np.einsum("qd,qmd->qm", unit[queries], unit[candidates])
    return np.clip(similarity, -1, 1, out=similarity)


def _sample_rows(rows: int, sample: int) -> np.ndarray:
    """At most sample distinct row indices, sorted."""
    chosen = np.random.default_rng(0).choice(rows, size=min(sample, rows), replace=False)
    return np.sort(chosen)
