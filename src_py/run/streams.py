"""Standard output that nobody reads, and signals: neither may cost a stage its work."""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `kill`, a cluster's scheduler or a shutdown send it."""


class LastingStream(io.TextIOBase):
    """A text stream that goes on as a silent one where it can no longer be written to.

    `| head` closes the pipe early, a terminal goes away, a disk that a log is written to is full:
    no reason for a training to end. What is no pipe is told once, by `complain`.
    """

    def __init__(self, stream: Any) -> None:
        """
        Args:
            stream: with write(text) at least; what a notebook or a test puts in the place of
                sys.stdout may have nothing else.
        """
        self._stream = stream
        self.problem = ""  # why it has fallen silent; "" also where a pipe has been closed

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError) as error:  # ValueError: a stream that has been closed
            self._fall_silent(error)
        return len(text)

    def flush(self) -> None:
        try:
            getattr(self._stream, "flush", bool)()
        except (OSError, ValueError) as error:
            self._fall_silent(error)

    def isatty(self) -> bool:
        try:
            return bool(getattr(self._stream, "isatty", bool)())
        except ValueError:
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def _fall_silent(self, error: Exception) -> None:
        broken, self._stream = self._stream, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if getattr(error, "errno", None) != errno.EPIPE:
            self.problem = getattr(error, "strerror", None) or str(error)
        # What is still in its buffer would be tried again, and fail again, when Python ends.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(self._stream.fileno(), broken.fileno())


@contextlib.contextmanager
def lasting_streams(script: str, silent: bool = False) -> Iterator[None]:
    """In here, sys.stdout and sys.stderr never raise; afterwards they are what they were.

    Args:
        silent: whether nothing is to be told.
    """
    _fill_standard_descriptors()
    before = sys.stdout, sys.stderr
    if silent:
        with open(os.devnull, "w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            try:
                yield
            finally:
                sys.stdout, sys.stderr = before
        return
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names are not always valid text
    out, err = (LastingStream(stream or io.StringIO()) for stream in before)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        for stream in (out, err):
            stream.flush()
        if out.problem:
            print(f"{script}.py: its output could not be written: {out.problem}", file=err)
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """In here, SIGTERM raises Terminated, so that what is half written is taken away again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread say what a signal does
        return

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fill_standard_descriptors() -> None:
    """Opens those of 0, 1 and 2 that a shell has closed (`>&-`): the next file opened would
    otherwise take the number, and what is printed would end up in it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
