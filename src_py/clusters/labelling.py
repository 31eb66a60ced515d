"""What a person says of a run, step by step: saved as it is said, and every step can be undone.

    labelling = Labelling(files, images, predicted, features, said)
    labelling.move(version, rows, cluster)      # both files are written before it returns

Each step tells the version of what the person has seen; a step that builds on another one, because
a second page has been at work, is refused.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from src_py.clusters.corrections import NOTHING_SAID, Corrections, second_half
from src_py.clusters.names import MOST_ADDED, ClusterNames
from src_py.run.claim import editing
from src_py.run.errors import UserError
from src_py.run.files import RunFiles
from src_py.run.stages import LABELS_FILE

MOST_STEPS = 200  # that can be undone


class OutOfDate(Exception):
    """The step builds on what is not so any more. The message says why, in one line."""


class Said(NamedTuple):
    """All that a person has said at one time."""

    names: ClusterNames
    corrections: Corrections


class Step(NamedTuple):
    """What was done, in words, and what has been said since."""

    told: str
    said: Said


class Labelling:
    """The clusters of a run as a person names, merges and mends them.

    Attributes:
        images: (N) paths, as in rows.csv.
        predicted: (N,) int64, the cluster of each image by the classifier.
        version: changes with every step, also with one that is undone.
    """

    def __init__(
        self,
        files: RunFiles,
        images: Sequence[str],
        predicted: np.ndarray,
        features: np.ndarray,
        said: Said,
    ) -> None:
        """
        Args:
            features: (N, D), by which a cluster is split.
            said: what labels.json and corrections.csv hold now.
        """
        self.images, self.predicted = images, predicted
        self._features = features
        self._files = files
        self._labels, self._corrections = files.checkpoints / LABELS_FILE, files.corrections
        self._steps, self._at = [Step("", said)], 0
        self._trained = files.config("scan")  # another training numbers the clusters anew
        self._on_disk = self._read()
        self._lock = threading.Lock()
        self.version = 0

    @property
    def said(self) -> Said:
        return self._steps[self._at].said

    def state(self) -> dict[str, Any]:
        """What a page shows beside the images, as JSON can hold it."""
        with self._lock:
            names, corrections = self.said
            given = corrections.of_rows(self.images)
            corrected = np.flatnonzero(given != NOTHING_SAID)
            told = [step.told for step in self._steps]
            return {
                "version": self.version,
                "groups": [_as_shown(names, group) for group in names.groups],
                "corrections": [[int(row), int(given[row])] for row in corrected],
                "gone": corrections.gone(self.images),
                "undo": told[self._at] if self._at else "",
                "redo": told[self._at + 1] if self._at + 1 < len(told) else "",
            }

    def name(self, version: int, cluster: int, name: str) -> None:
        """Calls a cluster's group `name`; "" takes its name away."""

        def change(said: Said) -> tuple[str, Said]:
            if not name.strip():
                names = said.names.without_name(cluster)
                return f"no name for cluster {cluster}", said._replace(names=names)
            names = said.names.with_name(cluster, name)
            return f"cluster {cluster} named {name.strip()}", said._replace(names=names)

        self._do(version, change)

    def merge(self, version: int, clusters: Sequence[int]) -> None:
        """Makes clusters, and what they are merged with, one."""

        def change(said: Said) -> tuple[str, Said]:
            names = said.names.with_merge(tuple(clusters))
            told = f"clusters {', '.join(map(str, names.group_of(clusters[0])))} merged"
            return told, said._replace(names=names)

        self._do(version, change)

    def take_apart(self, version: int, cluster: int) -> None:
        """Makes each cluster of a merged group one of its own again."""

        def change(said: Said) -> tuple[str, Said]:
            group = said.names.group_of(cluster)
            told = f"clusters {', '.join(map(str, group))} taken apart"
            return told, said._replace(names=said.names.without_merge(cluster))

        self._do(version, change)

    def move(self, version: int, rows: Sequence[int], cluster: int | None, name: str = "") -> None:
        """Puts the images `rows` into a cluster, or into a new one where that is None.

        Args:
            name: of the new one; "" gives it none.
        """

        def change(said: Said) -> tuple[str, Said]:
            images = self._names_of(rows)
            if cluster is not None:
                corrections = said.corrections.with_moved(images, cluster)
                told = f"{_images(images)} moved to {said.names.name_of(cluster)}"
                return told, said._replace(corrections=corrections)
            return self._split_off(said, images, name)

        self._do(version, change)

    def take_back(self, version: int, rows: Sequence[int]) -> None:
        """Leaves the images `rows` where the classifier puts them."""

        def change(said: Said) -> tuple[str, Said]:
            images = self._names_of(rows)
            told = f"{_images(images)} as the classifier has it"
            return told, said._replace(corrections=said.corrections.without(images))

        self._do(version, change)

    def split(self, version: int, cluster: int) -> None:
        """Puts the part of a cluster's group that its features set apart into a new cluster."""

        def change(said: Said) -> tuple[str, Said]:
            if not 0 <= cluster < said.names.clusters:
                raise UserError(f"there is no cluster {cluster}")
            given = said.corrections.of_rows(self.images)
            assigned = np.where(given == NOTHING_SAID, self.predicted, given)
            rows = np.flatnonzero(np.isin(assigned, said.names.group_of(cluster)))
            return self._split_off(said, self._names_of(second_half(self._features, rows)), "")

        self._do(version, change)

    def undo(self, version: int) -> None:
        """Takes the last step back."""
        self._go(version, -1, "undo")

    def redo(self, version: int) -> None:
        """Takes the last step that was taken back again."""
        self._go(version, 1, "do again")

    def _do(self, version: int, change: Callable[[Said], tuple[str, Said]]) -> None:
        """One step: saved, and only then true."""
        with self._writing():
            self._require_current(version)
            step = Step(*change(self.said))
            self._save(step.said)
            self._steps = [*self._steps[: self._at + 1], step][-MOST_STEPS - 1 :]
            self._at = len(self._steps) - 1

    def _go(self, version: int, steps: int, what: str) -> None:
        with self._writing():
            self._require_current(version)
            if not 0 <= self._at + steps < len(self._steps):
                raise UserError(f"there is nothing to {what}")
            self._save(self._steps[self._at + steps].said)
            self._at += steps

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """No other thread or program writes meanwhile.

        Raises:
            UserError: when another program does not come to an end.
        """
        try:
            with self._lock, editing(self._files):
                yield
        except filelock.Timeout:
            raise UserError("another program is writing; try again") from None

    def _require_current(self, version: int) -> None:
        if version != self.version:
            raise OutOfDate("another page has changed it meanwhile; shown as it is now")
        now = self._read()
        if now[self._trained] != self._on_disk[self._trained]:
            raise OutOfDate(
                f"scan.py has trained run '{self._files.run}' again, and its clusters are others: "
                f"nothing is saved; end label.py and start it again"
            )
        if now != self._on_disk:
            raise OutOfDate(
                f"{self._labels} or {self._corrections} was changed by another program: nothing is "
                f"saved over it; end label.py and start it again"
            )

    def _save(self, said: Said) -> None:
        """Writes both files. Where one cannot be written, the other is put back."""
        try:
            said.corrections.write(self._corrections)
            said.names.write(self._labels)
        except OSError:
            with contextlib.suppress(OSError):
                self.said.corrections.write(self._corrections)
            self._on_disk = self._read()
            raise
        self._on_disk = self._read()
        self.version += 1

    def _read(self) -> dict[Path, bytes | None]:
        """What must stay as it is until the next step."""
        watched = (self._labels, self._corrections, self._trained)
        return {path: _bytes_of(path) for path in watched}

    def _names_of(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        if len(rows) == 0 or min(rows) < 0 or max(rows) >= len(self.images):
            raise UserError(f"images are numbered from 0 to {len(self.images) - 1}")
        return [self.images[row] for row in rows]

    def _split_off(self, said: Said, images: list[str], name: str) -> tuple[str, Said]:
        """The images in a new cluster."""
        new = said.corrections.clusters
        if new > self.predicted.max() + MOST_ADDED:
            raise UserError(f"{MOST_ADDED} clusters have been split off: no more can be")
        names = replace(said.names, clusters=new + 1)
        if name.strip():
            names = names.with_name(new, name)
        told = f"{_images(images)} split off as {names.name_of(new)}"
        return told, Said(names, said.corrections.with_split(images))


def _as_shown(names: ClusterNames, group: tuple[int, ...]) -> dict[str, Any]:
    named = names.names.keys() & set(group)
    suggested = sorted(
        {(score, word) for cluster in group for word, score in names.suggestions.get(cluster, ())},
        reverse=True,
    )
    return {
        "members": list(group),
        "name": names.name_of(group[0]) if named else "",
        "suggestions": [[word, score] for score, word in suggested],
    }


def _images(images: Sequence[str]) -> str:
    return images[0] if len(images) == 1 else f"{len(images)} images"


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
