"""Reading .npy files that may be damaged or foreign, before any memory is asked for."""

import math
import os
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from src_py.run.errors import UserError
from src_py.run.files import RunFiles

MINING = "extract_features"


def load_features(files: RunFiles) -> np.ndarray:
    """(N, D) float32 of a run's images, as the mining has left them: a memory map, whose pages are
    read when they are used.

    Raises:
        UserError: naming the command that makes them, when they are missing, damaged or foreign.
    """
    path = files.made(files.features, MINING)
    return load_array(path, "f", 2, "c", files.remedy(MINING))


def load_neighbors(files: RunFiles) -> np.ndarray:
    """(N, k) int64 of a run's images; as `load_features`."""
    return load_array(files.made(files.neighbors, MINING), "i", 2, "c", files.remedy(MINING))


def load_views(files: RunFiles) -> np.ndarray:
    """(N, V, D) float16 of a run's images, where its weights are frozen; as `load_features`."""
    return load_array(files.made(files.views, MINING), "f", 3, "c", files.remedy(MINING))


def load_array(
    path: Path,
    kind: str = "",
    dimensions: int | None = None,
    mapped: Literal["r", "c", "r+"] | None = None,
    remedy: str = "make it again",
) -> np.ndarray:
    """The array in a .npy file.

    Args:
        kind: of its numbers, by numpy's letter: "f" or "i"; "" for any.
        mapped: as numpy.memmap takes it, to read pages when they are used.
        remedy: what to do about a damaged file, for the message.

    Raises:
        UserError: naming the file, when it does not hold just that.
        FileNotFoundError: when there is none.
    """
    try:
        with path.open("rb") as file:
            shape, dtype = _header(file)
            wanted = file.tell() + math.prod(shape) * dtype.itemsize
            size = file.seek(0, os.SEEK_END)
        if dtype.hasobject or size != wanted:
            raise ValueError(f"{size} bytes, its header tells of {wanted}")
        if kind not in ("", dtype.kind) or dimensions not in (None, len(shape)):
            raise ValueError(f"it holds {dtype}, {len(shape)} dimensions")
        return np.load(path, mmap_mode=mapped if math.prod(shape) else None, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, SyntaxError, TypeError, OSError, OverflowError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{path} is damaged ({reason}); {remedy}") from None


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[version[0]](file)
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"shape {shape}")
    return shape, dtype
