"""Large arrays that are needed only meanwhile, and room on the disk for those that stay."""

import math
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

LARGEST_IN_MEMORY = 2**28  # bytes


def scratch_array(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """float32: in memory, or, where it is large, in a temporary file that ends with it.

    Args:
        folder: of the file; None keeps the array in memory.
    """
    size = 4 * math.prod(shape)
    if folder is None or size <= LARGEST_IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (the map keeps it open)
    file.truncate(size)
    take_room(file, size)
    return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)


def take_room(file: BinaryIO, size: int) -> None:
    """Of the disk, at once: where it is full later, writing to a map ends the process.

    Raises:
        OSError: when the disk is too full.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        os.posix_fallocate(file.fileno(), 0, size)
