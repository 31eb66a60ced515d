"""Neighbors among more rows than can all be compared: each meets those of its part of the space.

K-means (faiss) puts the rows into lists, and the rows of a list are compared, all with all, with
those of the lists around it: one matrix product, and the best of each of its rows.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src_py.mining.ranking import rank
from src_py.run.writing import Reserved, quick_digest, reserve, write_array, write_atomically

ROWS_PER_CENTROID = 48  # that k-means sees: a fifth of faiss's default
FEWEST_PER_CENTROID = 39  # or it warns
KMEANS_ITERATIONS = 8
BLOCK = 16_384  # rows that are read and put into lists at a time
COMPARED_AT_ONCE = 2**22  # pairs: 16 MiB of similarities
LARGEST_GATHER = 2**28  # bytes of the rows of the lists around one
DIGEST = "lists.digest"
FILES = {name: f"lists.{name}.npy" for name in ("centroids", "unit", "order", "starts")}

# Row numbers (n,), ascending -> their features (n, D) float32 at length 1.
UnitRows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class InvertedLists:
    """
    Attributes:
        centroids: (L, D) float32.
        unit: (N, D) float32 at length 1, those of one list together. A row's number in it is its
            place.
        order: (N,) int64, the row at each place.
        starts: (L + 1,) int64, the first place of each list.
    """

    centroids: np.ndarray
    unit: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(unit_rows: UnitRows, rows: int, folder: Path | None = None) -> "InvertedLists":
        """
        Args:
            unit_rows: reads features.
            rows: N, at least FEWEST_PER_CENTROID.
            folder: where the lists are kept in files, and taken from if they are there; None keeps
                them in memory.
        """
        if folder is not None and (kept := InvertedLists.kept_in(folder)):
            return kept
        centroids = _centroids(unit_rows, rows)
        count, width = centroids.shape
        workspace = Workspace()
        blocks = [np.arange(at, min(at + BLOCK, rows)) for at in range(0, rows, BLOCK)]
        found = (most_similar(unit_rows(block), centroids, 1, workspace)[1] for block in blocks)
        assigned = np.concatenate([each[:, 0].astype(np.int32) for each in found])
        order = np.argsort(assigned, kind="stable")
        starts = np.concatenate([[0], np.bincount(assigned, minlength=count).cumsum()])
        place = np.empty(rows, dtype=np.int64)
        place[order] = np.arange(rows)
        unit = _reserved((rows, width), folder)
        for block in blocks:
            unit[place[block]] = unit_rows(block)
        lists = InvertedLists(centroids, unit, order, starts)
        if folder is not None:
            lists._keep(folder)
        return lists

    @staticmethod
    def kept_in(folder: Path) -> "InvertedLists | None":
        """Those whose files another process, or an earlier one, has made; None where they are not
        all there, or not whole."""
        try:
            parts = {name: np.load(folder / file, mmap_mode="r") for name, file in FILES.items()}
            told = (folder / DIGEST).read_text()
        except (OSError, ValueError, EOFError):
            return None
        lists = InvertedLists(**parts)
        return lists if told == lists._digest() else None

    def _keep(self, folder: Path) -> None:
        if isinstance(self.unit, np.memmap):
            self.unit.flush()
        for name in ("centroids", "starts", "order"):
            write_array(folder / FILES[name], getattr(self, name))
        told = self._digest()
        write_atomically(folder / DIGEST, lambda temporary: temporary.write_text(told))

    def _digest(self) -> str:
        return "\n".join(quick_digest(getattr(self, name)) for name in FILES)

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def broadest(self) -> int:
        """The most lists around one that are worth it: a quarter, or what memory allows."""
        bytes_of_a_list = self.unit.nbytes // len(self)
        return min(len(self) // 4, LARGEST_GATHER // max(1, bytes_of_a_list))

    def list_of(self, places: np.ndarray) -> np.ndarray:
        """The list of each of the places, (n,) -> (n,)."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def search(
        self, lists: list[int], k: int, breadth: int, wanted: int, threads: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the rows (n,) of each of the lists, their neighbors (n, k) and similarity (n, k).

        Args:
            breadth: lists around one that are searched.
            wanted: candidates that are ranked, above k.
        """
        own = threading.local()

        def answer(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            if not hasattr(own, "workspace"):
                own.workspace = Workspace()
            places = np.arange(self.starts[number], self.starts[number + 1])
            found = self.candidates(number, self.unit[places], breadth, wanted, own.workspace)
            return self.order[places], *rank(self.unit, places, found, k, self.order)

        before = torch.get_num_threads()
        # A thread for each list, and none within one.
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield from pool.map(answer, lists)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)

    def candidates(
        self, number: int, queries: np.ndarray, breadth: int, wanted: int, workspace: "Workspace"
    ) -> np.ndarray:
        """Places (Q, wanted) of the most similar rows in the lists around list `number`.

        Where these have too few rows, more lists are searched.
        """
        near = self.centroids @ self.centroids[number]  # (L,)
        while True:
            lists = np.sort(np.argpartition(-near, breadth - 1)[:breadth])
            sizes = self.starts[lists + 1] - self.starts[lists]
            if sizes.sum() >= wanted or breadth == len(self):
                break
            breadth = min(2 * breadth, len(self))
        most = max(wanted, LARGEST_GATHER // self.unit[:1].nbytes)  # rows at once
        best: tuple[np.ndarray, np.ndarray] | None = None
        for piece in _pieces(self.starts[lists], self.starts[lists + 1], most):
            rows = workspace.rows(sum(last - first for first, last in piece), self.unit.shape[1])
            np.concatenate([self.unit[first:last] for first, last in piece], out=rows)
            seen = np.concatenate([np.arange(first, last) for first, last in piece])
            similarity, found = most_similar(queries, rows, wanted, workspace)
            best = _best_of(best, (similarity, seen[found]), wanted)
        assert best is not None, "there is at least one row"
        return best[1]


class Workspace:
    """Memory that is used again: a large new array must first be given by the system."""

    def __init__(self) -> None:
        self._rows = np.empty(0, dtype=np.float32)
        self._similarity = torch.empty(0)

    def rows(self, count: int, width: int) -> np.ndarray:
        """(count, width) float32."""
        if self._rows.size < count * width:
            self._rows = np.empty(count * width, dtype=np.float32)
        return self._rows[: count * width].reshape(count, width)

    def similarity(self, queries: int, count: int) -> Tensor:
        """(queries, count) float32."""
        if self._similarity.numel() < queries * count:
            self._similarity = torch.empty(queries * count)
        return self._similarity[: queries * count].view(queries, count)


def most_similar(
    queries: np.ndarray, unit: np.ndarray, count: int, workspace: Workspace
) -> tuple[np.ndarray, np.ndarray]:
    """For (Q, D) queries the similarity (Q, count) of the most similar rows, or of all that there
    are, and their indices (Q, count)."""
    rows, count = torch.from_numpy(unit).T, min(count, len(unit))
    found = []
    for part in torch.from_numpy(queries).split(max(1, COMPARED_AT_ONCE // len(unit))):
        similarity = torch.mm(part, rows, out=workspace.similarity(len(part), len(unit)))
        if count == 1:  # half of the time
            found.append(tuple(similarity.max(dim=1, keepdim=True)))
        else:
            found.append(tuple(similarity.topk(count, dim=1)))
    similarities, indices = zip(*found, strict=True)
    return torch.cat(similarities).numpy(), torch.cat(indices).numpy()


def _pieces(starts: np.ndarray, ends: np.ndarray, most: int) -> Iterator[list[tuple[int, int]]]:
    """Spans of at most so many rows together; a longer one is cut."""
    piece: list[tuple[int, int]] = []
    room = most
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        while first < last:
            end = min(last, first + room)
            piece.append((first, end))
            room -= end - first
            first = end
            if not room:
                yield piece
                piece, room = [], most
    if piece:
        yield piece


def _best_of(
    best: tuple[np.ndarray, np.ndarray] | None, more: tuple[np.ndarray, np.ndarray], wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `wanted` most similar of both: similarity and places, (Q, n) each."""
    if best is None:
        return more
    similarity, places = (np.concatenate(both, axis=1) for both in zip(best, more, strict=True))
    kept = np.argpartition(-similarity, min(wanted, similarity.shape[1]) - 1, axis=1)[:, :wanted]
    return np.take_along_axis(similarity, kept, 1), np.take_along_axis(places, kept, 1)


def _centroids(unit_rows: UnitRows, rows: int) -> np.ndarray:
    import faiss

    count = min(int(2 * rows**0.5), rows // FEWEST_PER_CENTROID)
    random = np.random.default_rng(0)
    chosen = random.choice(rows, min(rows, count * ROWS_PER_CENTROID), replace=False)
    sample = unit_rows(np.sort(chosen))
    kmeans = faiss.Kmeans(
        sample.shape[1],
        count,
        niter=KMEANS_ITERATIONS,
        spherical=True,
        seed=1,
        max_points_per_centroid=ROWS_PER_CENTROID,
    )
    kmeans.train(sample)
    assert kmeans.centroids is not None, "train() has set them"
    return kmeans.centroids


def _reserved(shape: tuple[int, int], folder: Path | None) -> np.ndarray:
    """float32 to be filled, in memory or in a file."""
    if folder is None:
        return np.empty(shape, dtype=np.float32)
    path = folder / FILES["unit"]
    reserve(path, Reserved(shape, np.float32))
    return np.load(path, mmap_mode="r+")
