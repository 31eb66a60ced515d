"""What a person says about single images: the cluster that each belongs to.

It is kept in ckp/<run>/corrections.csv, beside the names of the clusters (labels.json):

    path,cluster
    beach/0012.jpg,3
    beach/0047.jpg,12

The path is that of rows.csv; deleting a line takes a correction back. Clusters that were added by
splitting one have the numbers after the classifier's own. labels.json tells how many there are, and
which training numbered them.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src_py.run.addresses import as_text
from src_py.run.csv_tables import path_from_cell, write_table
from src_py.run.errors import UserError

HEADER = ("path", "cluster")
NOTHING_SAID = -1  # in the place of a cluster
SPLIT_ITERATIONS, SPLIT_STARTS = 30, 10  # of 2-means


@dataclass(frozen=True)
class Corrections:
    """The clusters that a person has put single images into.

    Attributes:
        clusters: how many there are, with those that splits have added.
        given: the cluster of each corrected image, by its path in rows.csv.

    Raises:
        UserError: for a cluster that does not exist.
    """

    clusters: int
    given: dict[str, int]

    def __post_init__(self) -> None:
        for path, cluster in self.given.items():
            if not 0 <= cluster < self.clusters:
                raise UserError(
                    f"{path}: there is no cluster {cluster}: they are 0 to {self.clusters - 1}"
                )

    @staticmethod
    def load(path: Path, clusters: int) -> "Corrections":
        """What `path` says; where there is no such file, nothing is corrected.

        Args:
            clusters: that are known; the file may add the next ones.

        Raises:
            UserError: when the file is damaged, or names a cluster that does not exist.
        """
        try:
            # Some editors begin with a mark; a file's name may hold bytes that are no text.
            text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        except FileNotFoundError:
            return Corrections(clusters, {})
        try:
            given = _parse(text)
            return Corrections(_with_added(clusters, given.values()), given)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Writes them, all or nothing, a line each; without any correction there is no file."""
        if self.given:
            write_table(path, HEADER, sorted(self.given.items()))
        else:
            path.unlink(missing_ok=True)

    def of_rows(self, names: Sequence[str]) -> np.ndarray:
        """(N,) int64: the cluster said of each image of a run, -1 where nothing is said."""
        given = (self.given.get(name, NOTHING_SAID) for name in names)
        return np.fromiter(given, np.int64, len(names))

    def gone(self, names: Iterable[str]) -> int:
        """How many corrected images are not among those of the run (any more)."""
        return len(self.given.keys() - names)

    def of_files(self, paths: Sequence[Path], root: Path | None) -> dict[Path, int]:
        """The cluster of each file that is a corrected image of the run.

        Args:
            root: the folder of the run's images; None where they are no files.
        """
        if root is None or not self.given:
            return {}
        folders: dict[Path, str] = {}

        def place(path: Path) -> tuple[str, str]:
            if path.parent not in folders:
                folders[path.parent] = os.path.realpath(as_text(path.parent))
            return folders[path.parent], path.name

        given = {place(root / name): cluster for name, cluster in self.given.items()}
        return {path: given[place(path)] for path in paths if place(path) in given}

    def with_moved(self, names: Iterable[str], cluster: int) -> "Corrections":
        """These with the images `names` in `cluster`."""
        return replace(self, given=self.given | dict.fromkeys(names, cluster))

    def with_split(self, names: Iterable[str]) -> "Corrections":
        """These with the images `names` in a new cluster, the next."""
        given = self.given | dict.fromkeys(names, self.clusters)
        return Corrections(self.clusters + 1, given)

    def without(self, names: Iterable[str]) -> "Corrections":
        """These with nothing said of the images `names`."""
        taken_back = set(names)
        left = {name: c for name, c in self.given.items() if name not in taken_back}
        return replace(self, given=left)


def correct(probabilities: np.ndarray, given: np.ndarray, clusters: int) -> np.ndarray:
    """(N, C) probabilities as (N, clusters), with 1 for what a person said.

    Args:
        given: (N,) int64, the cluster said of each image, -1 where nothing is said.
        clusters: C, and those that splits have added.
    """
    wide = np.zeros((len(probabilities), clusters), probabilities.dtype)
    wide[:, : probabilities.shape[1]] = probabilities
    rows = np.flatnonzero(given != NOTHING_SAID)
    wide[rows] = 0
    wide[rows, given[rows]] = 1
    return wide


def second_half(features: np.ndarray, rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Of the images `rows` of a cluster, those that 2-means puts apart: the smaller half.

    Args:
        features: (N, D) of all images; compared at length 1, as everywhere.

    Raises:
        UserError: when the images cannot be told apart.
    """
    from src_py.clusters.kmeans import kmeans_centers
    from src_py.neighbors import l2_normalize, with_directions

    if len(rows) < 2:
        raise UserError("a cluster needs two images to be split")
    unit = l2_normalize(with_directions(np.asarray(features[rows])))
    if np.ptp(unit, axis=0).max() < 1e-6:
        raise UserError("the images of this cluster are all alike: it cannot be split")
    first, second = kmeans_centers(unit, 2, seed, SPLIT_ITERATIONS, SPLIT_STARTS)
    half = (unit @ (second - first) > (second @ second - first @ first) / 2).astype(int)
    return rows[half == np.bincount(half, minlength=2).argmin()]


def _parse(text: str) -> dict[str, int]:
    """The rows of the file.

    Raises:
        UserError: naming the line that is wrong.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    given: dict[str, int] = {}
    try:
        header = next(lines, [])
        if tuple(header) != HEADER:
            raise UserError(f"line 1: expected the columns {','.join(HEADER)}")
        for row in filter(None, lines):
            name, cluster = _fields(row, lines.line_num)
            if name in given:
                raise UserError(f"line {lines.line_num}: {name} is there twice: delete one line")
            given[name] = cluster
    except csv.Error as error:
        raise UserError(f"line {lines.line_num}: not CSV ({error})") from None
    return given


def _fields(row: list[str], line: int) -> tuple[str, int]:
    if len(row) != len(HEADER) or not row[0]:
        raise UserError(f"line {line}: expected a path and a cluster")
    name, cluster = path_from_cell(row[0]), row[1]
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", cluster.strip()):
        raise UserError(f"line {line}: '{cluster}' is not the number of a cluster")
    return name, int(cluster)


def _with_added(clusters: int, given: Iterable[int]) -> int:
    """How many clusters there are with those that the file adds, which follow each other."""
    added = {cluster for cluster in given if cluster >= clusters}
    while clusters in added:
        clusters += 1
    return clusters
