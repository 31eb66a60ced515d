"""Writing a file so that it is never half there."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path


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
