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

from src_py.neighbors import UNKNOWN
from src_py.run import records
from src_py.run.arrays import MINING, quick_digest
from src_py.run.claim import new, require_room, switch
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, read_record, sha256, write_record
from src_py.run.writing import Reserved, reserve

PROGRESS = "progress.json"
KEEP_EVERY = 30.0  # s


@dataclass
class UnfinishedMining:
    """
    Attributes:
        made_from: all that the result depends on, as the stage's record keeps it.
        arrays: to be filled, by their names.
        rows: whose features are stored.
        random: uint8, state of the generator of random views after these rows.
        parts: the last row and the digest of each part that was stored at once.
    """

    files: RunFiles
    made_from: dict[str, Any]
    arrays: dict[str, Reserved]
    rows: int = 0
    random: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    parts: list[tuple[int, str]] = field(default_factory=list)

    @staticmethod
    def of(
        files: RunFiles,
        made_from: dict[str, Any],
        images: int,
        dim: int,
        neighbors: int,
        views: int,
    ) -> "UnfinishedMining":
        """What there is of it; its beginning where there is nothing, or of something else.

        Args:
            views: random views of each image; 0 stores none.

        Raises:
            UserError: when what there is of it is damaged, or the disk is too full.
        """
        arrays = {
            "features": Reserved((images, dim), np.float32),
            "neighbors": Reserved((images, neighbors), np.int64, UNKNOWN),
            "similarity": Reserved((images, neighbors), np.float32),
        }
        if views:
            arrays["views"] = Reserved((images, views, dim), np.float16)
        mining = UnfinishedMining(files, made_from, arrays)
        if not mining._goes_on():
            mining._begin()
        return mining

    @property
    def folder(self) -> Path:
        return self.files.mining

    def array(self, name: str) -> np.memmap:
        """To be written to."""
        return np.load(self._path(name), mmap_mode="r+")

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
        """Puts all of it in its place, at once.

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
        seconds = round(time.monotonic() - started, 1)
        write_record(new(record), self.made_from | {"seconds": seconds, "outputs": outputs})
        moves.append((new(record).name, record.name))
        switch(files, moves, [] if "views" in mined else [files.views.name])
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _features(self) -> list[np.memmap]:
        return [self.array(name) for name in ("features", "views") if name in self.arrays]

    @property
    def _made_of(self) -> str:
        return records.digest(self.made_from)

    def _goes_on(self) -> bool:
        """Whether there is something to go on from; it is read then."""
        remedy = f"delete {self.folder}, and run this again"
        found = read_record(self.folder / PROGRESS, records.MINING, remedy)
        if found is None or found["made_of"] != self._made_of:
            return False
        if not all(self._path(name).exists() for name in self.arrays):
            return False  # they were put in their places, and the folder is what was left
        stored = self._features()
        for last, digest in found["parts"]:
            if not self.rows < last <= len(stored[0]) or digest != _digest(stored, self.rows, last):
                raise UserError(f"{self.folder} is damaged; {remedy}")
            self.rows = last
            self.parts.append((last, digest))
        neighbors = self.array("neighbors")
        if neighbors.min() < UNKNOWN or neighbors.max() >= len(neighbors):
            raise UserError(f"{self.folder} is damaged; {remedy}")
        self.random = torch.tensor(list(bytes.fromhex(found["random"])), dtype=torch.uint8)
        return True

    def _begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        require_room(self.files, sum(each.nbytes for each in self.arrays.values()))
        self.folder.mkdir()
        for name, reserved in self.arrays.items():
            reserve(self._path(name), reserved)
        self._write()

    def _write(self) -> None:
        random = bytes(self.random.tolist()).hex()
        told = {"made_of": self._made_of, "random": random, "parts": self.parts}
        write_record(self.folder / PROGRESS, told)


def _digest(arrays: Sequence[np.ndarray], first: int, last: int) -> str:
    return records.digest([quick_digest(array[first:last]) for array in arrays])
