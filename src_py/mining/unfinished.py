"""What extract_features.py has made so far: where it is interrupted, it goes on from there.

Features and neighbors are memory maps in ckp/<run>/mining.partial/, so that they may be larger than
the memory.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src_py.neighbors import LARGEST_EXACT, UNKNOWN
from src_py.run import records
from src_py.run.arrays import MINING, load_array
from src_py.run.claim import new, require_room, switch
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, read_record, sha256, write_record
from src_py.run.writing import Reserved, quick_digest, reserve

PROGRESS = "progress.json"
FEATURES, SEARCHED = ("features", "views"), ("neighbors", "similarity")
# Options that each of both depends on, beside the network and the images.
VIEW_OPTIONS = ("views", "augment", "batch_size")
SEARCH_OPTIONS = ("features", "components", "neighbors")
KEEP_EVERY = 30.0  # s


@dataclass
class UnfinishedMining:
    """
    Attributes:
        made_from: all that the result depends on, as the stage's record keeps it.
        device: the kind that random views are drawn on.
        arrays: to be filled, by their names.
        rows: whose features are stored.
        random: uint8, state of the generator of random views after these rows.
        parts: the last row and the digest of each part that was stored at once.
        seconds: that earlier starts have taken.
        began: when this one did, by time.monotonic.
    """

    files: RunFiles
    made_from: dict[str, Any]
    device: str
    arrays: dict[str, Reserved]
    rows: int = 0
    random: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    parts: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @staticmethod
    def of(
        files: RunFiles,
        made_from: dict[str, Any],
        device: torch.device,
        images: int,
        dim: int,
        neighbors: int,
        views: int,
    ) -> "UnfinishedMining":
        """What there is of it; its beginning where there is nothing, or of something else.

        Args:
            device: that views are drawn on: another one's random numbers are others.
            views: random views of each image; 0 stores none.

        Raises:
            UserError: when what there is of it is damaged, or the disk is too full.
        """
        arrays = {"features": Reserved((images, dim), np.float32)}
        if views:
            arrays["views"] = Reserved((images, views, dim), np.float16)
        arrays["neighbors"] = Reserved((images, neighbors), np.int64, UNKNOWN)
        arrays["similarity"] = Reserved((images, neighbors), np.float32)
        mining = UnfinishedMining(files, made_from, device.type, arrays)
        mining._open()
        return mining

    @property
    def folder(self) -> Path:
        return self.files.mining

    def array(self, name: str) -> np.memmap:
        """To be written to.

        Raises:
            UserError: when it is damaged.
        """
        reserved = self.arrays[name]
        dtype = np.dtype(reserved.dtype)
        found = load_array(self._path(name), dtype.kind, len(reserved.shape), "r+", self._remedy)
        if (found.shape, found.dtype) != (reserved.shape, dtype):
            raise UserError(f"{self._path(name)} is damaged (another shape); {self._remedy}")
        assert isinstance(found, np.memmap), "it was asked for"
        return found

    def store(self, batches: Iterable[Tensor], generator: torch.Generator) -> None:
        """Adds the features of the images that come next, batch by batch.

        Args:
            batches: (B, D) float32, or with V random views of each (B, 1 + V, D).
            generator: that the views are drawn from.
        """
        at, kept, stored = self.rows, time.monotonic(), self._features()
        for batch in batches:
            rows = slice(at, at + len(batch))
            parts = (batch[:, 0], batch[:, 1:]) if batch.dim() == 3 else (batch,)
            for array, part in zip(stored, parts, strict=True):
                array[rows] = part.cpu().numpy()
            at = rows.stop
            if at == len(stored[0]) or time.monotonic() - kept > KEEP_EVERY:
                for array in stored:
                    array.flush()
                self.parts.append((at, _digest(stored, self.rows, at)))
                self.rows, self.random = at, generator.get_state()
                self._write()
                kept = time.monotonic()

    def finish(self, names: Sequence[str], started: float) -> None:
        """Puts all of it in its place, at once. No map of it may be open: Windows would refuse.

        Args:
            names: of the images.
            started: when the script began, by time.monotonic.
        """
        files, record = self.files, self.files.config(MINING)
        mined = [name for name in self.arrays if name != "similarity"]
        write_table(new(files.rows), ("row", "path"), enumerate(names))
        moves = [(f"{self.folder.name}/{name}.npy", f"{name}.npy") for name in mined]
        moves.append((new(files.rows).name, files.rows.name))
        outputs = {target: sha256(files.checkpoints / source) for source, target in moves}
        seconds = round(self.seconds + time.monotonic() - started, 1)
        write_record(new(record), self.made_from | {"seconds": seconds, "outputs": outputs})
        moves.append((new(record).name, record.name))
        switch(files, moves, [] if "views" in mined else [files.views.name])
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _remedy(self) -> str:
        return f"delete {self.folder}, and run this again"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _features(self) -> list[np.memmap]:
        return [self.array(name) for name in FEATURES if name in self.arrays]

    def _features_of(self) -> str:
        """Digest of what the features depend on."""
        if "views" in self.arrays:
            return self._of_options(VIEW_OPTIONS, device=self.device)
        return self._of_options(())

    def _searched_as(self) -> str:
        """Digest of what else the neighbors depend on."""
        return self._of_options(SEARCH_OPTIONS)

    def _of_options(self, names: Sequence[str], **more: str) -> str:
        told = {name: self.made_from[name] for name in ("made_from", "settings", "images")}
        options = {name: self.made_from["config"][name] for name in names}
        return records.digest(told | options | more)

    def _open(self) -> None:
        found = read_record(self.folder / PROGRESS, records.MINING, self._remedy)
        # Without its arrays the folder is what was left when they had been put in their places.
        if found is not None and not all(self._path(name).exists() for name in self.arrays):
            found = None
        if found is not None and found["features_of"] != self._features_of():
            print("features: begun again, for they are of other images, options or device")
            found = None
        if found is None:
            self._reserve(tuple(self.arrays))
        else:
            self.seconds = found.get("seconds", 0.0)
            self._go_on(found)
            if found["searched_as"] != self._searched_as():
                self._reserve(SEARCHED)
        self._write()

    def _go_on(self, found: dict[str, Any]) -> None:
        stored = self._features()
        for last, digest in found["parts"]:
            if not self.rows < last <= len(stored[0]) or digest != _digest(stored, self.rows, last):
                raise UserError(f"{self.folder} is damaged; {self._remedy}")
            self.rows = last
            self.parts.append((last, digest))
        self.random = torch.tensor(list(bytes.fromhex(found["random"])), dtype=torch.uint8)
        if found["searched_as"] == self._searched_as():
            neighbors = self.array("neighbors")
            if neighbors.min() < UNKNOWN or neighbors.max() >= len(neighbors):
                raise UserError(f"{self.folder} is damaged; {self._remedy}")

    def _reserve(self, names: Sequence[str]) -> None:
        """Makes arrays anew. What is of earlier ones goes."""
        wanted = sum(self.arrays[name].nbytes for name in names)
        features = self.arrays["features"]
        if features.shape[0] > LARGEST_EXACT:
            wanted += features.nbytes  # of lists, at most
        there = [*self.folder.glob("lists.*"), *(self._path(name) for name in names)]
        freed = sum(path.stat().st_size for path in there if path.exists())
        require_room(self.files, max(0, wanted - freed))
        self.folder.mkdir(exist_ok=True)
        for path in (self.folder / PROGRESS, *there):
            path.unlink(missing_ok=True)
        for name in names:
            reserve(self._path(name), self.arrays[name])

    def _write(self) -> None:
        random = bytes(self.random.tolist()).hex()
        told = {"features_of": self._features_of(), "searched_as": self._searched_as()}
        seconds = round(self.seconds + time.monotonic() - self.began, 1)
        content = {"random": random, "parts": self.parts, "seconds": seconds}
        write_record(self.folder / PROGRESS, told | content)


def _digest(arrays: Sequence[np.ndarray], first: int, last: int) -> str:
    return records.digest([quick_digest(array[first:last]) for array in arrays])
