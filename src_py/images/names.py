"""Names and paths of many images, in little memory: one text for all of them."""

import bisect
import operator
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

END = 0xFF  # follows each name; no byte of UTF-8 is that

Item = TypeVar("Item", covariant=True)


class Rows(Sequence[Item]):
    """A sequence whose items are made when they are asked for; equal to others of equal items."""

    def _at(self, row: int) -> Item:
        raise NotImplementedError

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> list[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | list[Item]:
        if isinstance(row, slice):
            return [self._at(each) for each in range(len(self))[row]]
        return self._at(range(len(self))[row])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Names(Rows[str]):
    """About nine bytes for each name beside its own: as strings they would take 60.

    Attributes:
        text: (M,) uint8, the names in UTF-8, each followed by END.
    """

    def __init__(self, text: np.ndarray) -> None:
        self.text = text
        self._ends = np.flatnonzero(text == END)

    @staticmethod
    def of(names: Iterable[str]) -> "Names":
        text = bytearray()
        for name in names:
            text += name.encode("utf-8", "surrogatepass")  # whatever bytes a file's name holds
            text.append(END)
        return Names(np.frombuffer(text, np.uint8))

    def __len__(self) -> int:
        return len(self._ends)

    def _at(self, row: int) -> str:
        return self._bytes(row).decode("utf-8", "surrogatepass")

    def _bytes(self, row: int) -> bytes:
        start = self._ends[row - 1] + 1 if row else 0
        return self.text[start : self._ends[row]].tobytes()

    def take(self, rows: np.ndarray) -> "Names":
        """Those of some rows, (n,) int64, in their order."""
        return Names.of(map(self._at, rows))

    def path_order(self) -> np.ndarray:
        """The rows in the order of their paths, folder by folder: (N,) int64; of equal names in
        their own."""
        rows = range(len(self))
        if all(one <= other for one, other in pairwise(map(self._key, rows))):
            return np.arange(len(rows))
        return np.fromiter(sorted(rows, key=self._key), np.int64, len(rows))

    def find(self, name: str, order: np.ndarray) -> int | None:
        """The row of a name; None where there is none.

        Args:
            order: as `path_order` gives it.
        """
        key = _path_key(name.encode("utf-8", "surrogatepass"))
        place = bisect.bisect_left(order, key, key=self._key)
        found = place < len(order) and self._key(order[place]) == key
        return int(order[place]) if found else None

    def _key(self, row: int) -> bytes:
        return _path_key(self._bytes(row))


class Paths(Rows[Path]):
    """Files below a folder, by their names."""

    def __init__(self, root: Path, names: Names) -> None:
        """
        Args:
            names: paths relative to `root`.
        """
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def _at(self, row: int) -> Path:
        return self.root / self.names[row]


def names_below(root: Path, paths: Iterable[Path]) -> Names:
    """Of paths that lead through `root`, as it is written: the rest of each."""
    if isinstance(paths, Paths) and paths.root == root:
        return paths.names
    cut = len((root / "_").as_posix()) - 1
    return Names.of(path.as_posix()[cut:] for path in paths)


def _path_key(name: bytes) -> bytes:
    """Orders names as the tuples of their parts are ordered: a slash before any other character."""
    return name.replace(b"/", b"\0")
