"""Nearest neighbors by cosine similarity, in memory that grows with N and not with N^2.

    neighbors, similarity = find_neighbors(features, k=20)

Up to 100,000 rows all pairs are compared (mining/exact.py). Of more, each row meets those around it
(mining/inverted_lists.py): as many as it takes to find 0.97 of the neighbors of a sample of these
very rows. What that takes on two cores is in docs/speed.md.
"""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from src_py.mining.exact import most_similar
from src_py.mining.inverted_lists import FEWEST_PER_CENTROID, InvertedLists, Workspace
from src_py.mining.ranking import cosine_similarity, rank
from src_py.run.bars import progress_bar
from src_py.run.cores import working_threads
from src_py.run.distributed import ALONE, World
from src_py.run.errors import UserError
from src_py.run.writing import scratch_array

CPU = torch.device("cpu")
LARGEST_EXACT = 100_000  # rows; the exact search is quadratic
# Above, rows without any clusters to go by are searched as broadly as memory allows: to compare all
# pairs would take days.
LARGEST_WITHOUT_CLUSTERS = 2_000_000
# The breadth of a search of lists is doubled until a sample reaches this recall. It leaves room
# above the promised 0.95 for the sample's own error (a standard error below 0.008).
RECALL_AIMED_AT = 0.97
RECALL_SAMPLE = 500  # rows
NARROWEST = 4  # lists around a row that are searched, at least
# Candidates beyond k + 1. A search breaks ties in its own order; the surplus lets near-ties at the
# end of a row be decided by similarity and then by index.
SURPLUS = 8
BLOCK = 8192  # rows at once: faiss is fastest with a few thousand queries
SAME_DIRECTION = 1e-6  # largest difference of any coordinate, at length 1
LISTS_AT_ONCE = 64  # of each process, until they exchange what they have found
UNKNOWN = -1  # in the place of a neighbor that has yet to be found


class Neighbors(NamedTuple):
    """
    Attributes:
        indices: (N, k) int64, the most similar first and ties by index; UNKNOWN where a row's have
            yet to be found.
        similarity: (N, k) float32.
    """

    indices: np.ndarray
    similarity: np.ndarray

    @staticmethod
    def unknown(rows: int, k: int) -> "Neighbors":
        indices = np.full((rows, k), UNKNOWN, dtype=np.int64)
        return Neighbors(indices, np.empty((rows, k), dtype=np.float32))

    def missing(self) -> np.ndarray:
        """Which rows have yet to be found, (N,) bool: also those that are there only in part."""
        parts = (self.indices[rows] == UNKNOWN for rows in _blocks(len(self.indices)))
        return np.concatenate([part.any(axis=1) for part in parts])

    def put(self, rows: np.ndarray, indices: np.ndarray, similarity: np.ndarray) -> None:
        self.similarity[rows] = similarity  # first: known is what has both
        self.indices[rows] = indices


class ListSearch(NamedTuple):
    """
    Attributes:
        lists: that have rows whose neighbors have yet to be found.
        rows: how many such rows there are.
        k: neighbors of each.
        breadth, wanted: see InvertedLists.search.
    """

    lists: list[int]
    rows: int
    k: int
    breadth: int
    wanted: int


def l2_normalize(features: np.ndarray) -> np.ndarray:
    """(N, D) features of any real dtype -> (N, D) float32 rows of length 1.

    Raises:
        ValueError: if the array is not two-dimensional, is empty, or holds rows that are not
            finite or all zero: they have no direction, so the message says how many there are.
    """
    largest = _require_directions(features)
    features = features.astype(np.result_type(features.dtype, np.float32), copy=False)
    # Dividing by the largest magnitude first keeps the squares of very large or very small rows in
    # range.
    unit = (features / largest[:, None]).astype(np.float32, copy=False)
    unit /= np.sqrt(np.einsum("nd,nd->n", unit, unit))[:, None]
    return unit


def with_directions(features: np.ndarray, scratch: Path | None = None) -> np.ndarray:
    """(N, D) features, of which those that are all zero get a direction of their own.

    A picture that a network answers with zeros only, such as a black one, is like others of that
    kind and unlike the rest. Without such rows the features are given back as they are, else with
    one more column: (N, D + 1).

    Args:
        scratch: folder for a temporary file, where they are many; None keeps them in memory.
    """
    zero = np.asarray(~features.any(axis=1))  # (N,)
    if not zero.any():
        return features
    rows, width = features.shape
    found = scratch_array((rows, width + 1), scratch).astype(features.dtype, copy=False)
    for block in _blocks(rows):
        found[block, :width], found[block, width] = features[block], zero[block]
    return found


def are_all_alike(features: np.ndarray) -> bool:
    """Whether (N, D) features have one direction, so that nothing tells the images apart."""
    lowest = np.full(features.shape[1], np.inf)
    highest, zeros = -lowest, 0
    for rows in _blocks(len(features)):
        block = features[rows]
        without = ~block.any(axis=1)
        zeros += int(np.count_nonzero(without))
        if not without.all():
            unit = l2_normalize(block[~without])
            lowest = np.minimum(lowest, unit.min(axis=0))
            highest = np.maximum(highest, unit.max(axis=0))
    if zeros:
        return zeros == len(features)
    return bool((highest - lowest).max() < SAME_DIRECTION)


def find_neighbors(
    features: np.ndarray,
    k: int,
    threads: int | None = None,
    exact: bool | None = None,
    found: Neighbors | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
    world: World = ALONE,
    device: torch.device = CPU,
) -> Neighbors:
    """The k most similar other rows of every row, by cosine similarity.

    A row is left out of its own neighbors by its index, so exact duplicates of it stay in. Among
    more than k + 8 duplicates of one row, which of them are listed is chance.

    Args:
        features: (N, D), any length of rows.
        threads: that work, None for as many as torch has.
        exact: True compares all pairs; False searches lists, unless the rows are very few; None is
            True up to 100,000 rows, False above.
        found: what an interrupted search has found: the rest of it is found, and put there.
        folder: where features at length 1 are kept in a file, or the lists in files, as large as
            the features together, for an interrupted search and for other processes; None keeps
            them in memory.
        say: is told how broadly lists are searched.
        world: whose other processes call `help_find_neighbors` meanwhile.
        device: that compares all pairs; lists are searched on the CPU.

    Raises:
        ValueError: if k < 1, k >= N, or l2_normalize refuses the features.
    """
    _require_directions(features)
    rows = len(features)
    if not 1 <= k < rows:
        raise ValueError(
            f"k must be at least 1 and below the number of rows, got k = {k} for {rows} rows"
        )
    found = found or Neighbors.unknown(rows, k)
    wanted = min(k + 1 + SURPLUS, rows)
    if exact is None:
        exact = rows <= LARGEST_EXACT
    plan = None
    with working_threads(threads):
        if not exact and rows >= 4 * NARROWEST * FEWEST_PER_CENTROID:
            lists = InvertedLists.of(lambda some: l2_normalize(features[some]), rows, folder)
            plan = _plan(lists, found, wanted, say)
        world.of_the_first(plan)
        if plan is None:
            _search_all(features, found, wanted, folder, device)
    if plan is not None:
        alone = threads if world.size == 1 else None  # others have their share of the cores
        with working_threads(alone), progress_bar("neighbors", plan.rows) as bar:
            for some, indices, similarity in _answers(lists, plan, world):
                found.put(some, indices, similarity)
                bar.update(len(some))
    return found


def help_find_neighbors(folder: Path, world: World) -> None:
    """What other processes do while the first one is in `find_neighbors`: a part of the search."""
    plan = world.of_the_first(None)
    if plan is not None:
        lists = InvertedLists.kept_in(folder)
        if lists is None:
            raise UserError(f"{folder} is not the same for all processes: all need one folder")
        deque(_answers(lists, plan, world), maxlen=0)


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
    candidates = most_similar(unit[queries], unit, neighbors.shape[1] + 1, CPU)
    _, similarity = rank(unit, queries, candidates, neighbors.shape[1])
    found = cosine_similarity(unit, queries, neighbors[queries])
    return float(np.mean(found >= similarity[:, -1:] - 1e-6))


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))


def _require_directions(features: np.ndarray) -> np.ndarray:
    """The largest magnitude of each row, (N,), which is above 0; raises as l2_normalize does."""
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must be a non-empty (N, D) array, got shape {features.shape}")
    # max and min see NaN and infinity without an (N, D) temporary.
    lowest = features.min(axis=1).astype(np.result_type(features.dtype, np.float32))
    largest = np.maximum(features.max(axis=1), -lowest)  # (N,)
    _require_no_rows(~np.isfinite(largest), "are not finite")
    _require_no_rows(largest == 0, "are all zero")
    return largest


def _require_no_rows(bad: np.ndarray, what: str) -> None:
    """Raise ValueError if any of the (N,) flags is set, saying how many and where the first is."""
    if bad.any():
        raise ValueError(
            f"{np.count_nonzero(bad)} of {len(bad)} feature rows {what}, "
            f"the first is row {int(bad.argmax())}"
        )


def _search_all(
    features: np.ndarray,
    found: Neighbors,
    wanted: int,
    folder: Path | None,
    device: torch.device,
) -> None:
    """Compares all pairs."""
    unit, k = scratch_array(features.shape, folder), found.indices.shape[1]
    for block in _blocks(len(features)):
        unit[block] = l2_normalize(features[block])
    left = np.flatnonzero(found.missing())
    with progress_bar("neighbors", len(left)) as bar:
        for block in _blocks(len(left)):
            queries = left[block]
            candidates = most_similar(unit[queries], unit, wanted, device)
            found.put(queries, *rank(unit, queries, candidates, k))
            bar.update(len(queries))


def _plan(
    lists: InvertedLists, found: Neighbors, wanted: int, say: Callable[[str], None] | None
) -> ListSearch:
    """How lists are searched: all with all where rows have no clusters to go by, unless they are
    too many."""
    breadth, recall = _choose_breadth(lists, wanted)
    if recall < RECALL_AIMED_AT and len(lists.order) <= LARGEST_WITHOUT_CLUSTERS:
        breadth, recall = len(lists), 1.0
    if say:
        say(
            f"neighbors: the {breadth} lists around each of {len(lists):,} are searched, which "
            f"finds {recall:.3f} of those of {RECALL_SAMPLE} rows"
        )
    left = np.flatnonzero(found.missing()[lists.order])  # places
    numbers = np.unique(lists.list_of(left)).tolist()
    return ListSearch(numbers, len(left), found.indices.shape[1], breadth, wanted)


def _answers(
    lists: InvertedLists, plan: ListSearch, world: World
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields rows, their neighbors and similarity, of the lists that all processes search."""
    sought = (plan.k, plan.breadth, plan.wanted, torch.get_num_threads())
    at_once = LISTS_AT_ONCE * world.size
    for start in range(0, len(plan.lists), at_once):
        own = plan.lists[start : start + at_once][world.rank :: world.size]
        yield from world.gathered(list(lists.search(own, *sought)))


def _choose_breadth(lists: InvertedLists, wanted: int) -> tuple[int, float]:
    """How many lists around one to search, and the recall of that on a sample."""
    places = _sample_rows(len(lists.unit), RECALL_SAMPLE)
    queries = lists.unit[places]
    truth = most_similar(queries, lists.unit, wanted, CPU)
    lowest = cosine_similarity(lists.unit, places, truth)[:, -1:] - 1e-6  # (Q, 1)
    numbers, workspace = lists.list_of(places).tolist(), Workspace()
    breadth = NARROWEST
    while True:
        found = [
            lists.candidates(number, query[None], breadth, wanted, workspace)
            for number, query in zip(numbers, queries, strict=True)
        ]
        similarity = cosine_similarity(lists.unit, places, np.concatenate(found))
        recall = float(np.mean(similarity >= lowest))
        if recall >= RECALL_AIMED_AT or 2 * breadth > lists.broadest:
            return breadth, recall
        breadth *= 2


def _sample_rows(rows: int, sample: int) -> np.ndarray:
    """At most sample distinct row indices, sorted."""
    chosen = np.random.default_rng(0).choice(rows, size=min(sample, rows), replace=False)
    return np.sort(chosen)
