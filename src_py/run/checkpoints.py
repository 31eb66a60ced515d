"""Reading and writing checkpoints: plain tensors and values, never pickled objects."""

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from src_py.run.errors import UserError, why_unreadable
from src_py.run.files import write_atomically

FORMAT = 3  # since heads have a space that they see features in


class _Stream(io.RawIOBase):
    """What torch.save writes to. Told of a full disk half-way, it would end in an exception of its
    own that names neither; so the first error is kept until it has ended."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self._file.write(content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        if self.error is None:
            try:
                self._file.flush()
            except OSError as error:
                self.error = error


def save_checkpoint(path: Path, content: dict) -> None:
    """Writes `content` (tensors, numbers, strings, lists, dicts) to `path`, all or nothing.

    Raises:
        OSError: naming `path`, when it cannot be written.
    """
    complete = {"format": FORMAT, **content}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            stream = _Stream(file)
            torch.save(complete, cast(BinaryIO, stream))  # it only writes
            if stream.error is not None:
                raise stream.error

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict:
    """Reads a checkpoint onto the CPU.

    Raises:
        UserError: when the file is missing, damaged, or of another program or version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise UserError(
            f"{path} cannot be read as a checkpoint ({why_unreadable(error)}); make it again with "
            "--restart"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version; make it again with --restart")
    return content
