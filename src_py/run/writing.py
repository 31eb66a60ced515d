"""Writing a file so that it is never half there, and large arrays in files."""

import contextlib
import errno
import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

SUMMED_TOGETHER = 512  # words of 8 bytes
FILLED_AT_ONCE = 2**16  # rows
LARGEST_IN_MEMORY = 2**22  # bytes of an array that is needed only meanwhile


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary)` and moves the result to `path`, making folders that are missing.

    A crash leaves either the old file or the new one, never a part.

    Raises:
        OSError: naming `path`, when it cannot be written.
    """
    # The suffix is kept because numpy and matplotlib choose or add one by the name.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or f"{error}: is the disk full?"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_array(path: Path, array: "np.ndarray") -> None:
    """Writes a numpy array as .npy, all or nothing."""
    import numpy as np

    write_atomically(path, lambda temporary: np.save(temporary, array))


class Reserved(NamedTuple):
    """
    Attributes:
        unknown: of its numbers, as long as they are not known.
    """

    shape: tuple[int, ...]
    dtype: "DTypeLike"
    unknown: int = 0

    @property
    def nbytes(self) -> int:
        import numpy as np

        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def reserve(path: Path, array: Reserved) -> None:
    """Makes a .npy file that is to be filled.

    Raises:
        OSError: when the disk is too full for it.
    """

    from numpy.lib.format import open_memmap

    def write(temporary: Path) -> None:
        made = open_memmap(temporary, "w+", array.dtype, array.shape)
        with temporary.open("r+b") as file:
            _take_room(file, made.nbytes)
        for start in range(0, len(made) if array.unknown else 0, FILLED_AT_ONCE):
            made[start : start + FILLED_AT_ONCE] = array.unknown

    write_atomically(path, write)


def scratch_array(
    shape: tuple[int, ...], folder: Path | None, dtype: "DTypeLike" = "float32"
) -> "np.ndarray":
    """To be filled: in memory, or, where it is large, in a temporary file that ends with it.

    Args:
        folder: of the file; None keeps the array in memory, and so does a disk that is too full.
    """
    import numpy as np

    size = np.dtype(dtype).itemsize * math.prod(shape)
    if folder is not None and size > LARGEST_IN_MEMORY:
        with contextlib.suppress(OSError):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (the map keeps it open)
            file.truncate(size)
            _take_room(file, size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    return np.empty(shape, dtype=dtype)


def _take_room(file: BinaryIO, size: int) -> None:
    """Of the disk, at once: where it is full later, writing to a map ends the process.

    Raises:
        OSError: when the disk is too full.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        os.posix_fallocate(file.fileno(), 0, size)


def quick_digest(array: "np.ndarray") -> str:
    """Tells a damaged array from a whole one at the speed of memory: no guard against malice.

    SHA-256 of the sums, modulo 2^64, of each 4 KiB: one flipped bit changes just one of them.
    """
    import numpy as np

    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(content) // (8 * SUMMED_TOGETHER) * (8 * SUMMED_TOGETHER)
    words = content[:whole].view(np.uint64).reshape(-1, SUMMED_TOGETHER)
    digest = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())
    digest.update(words.sum(axis=1, dtype=np.uint64).tobytes())
    digest.update(content[whole:].tobytes())
    return digest.hexdigest()
