"""A common budget of bytes for all threads that decode, so that memory does not grow with cores."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

SHARE = 1 / 8  # of the machine's memory, within the two bounds
FEWEST, MOST = 2**28, 2**31  # bytes
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # bytes, of a container
UNKNOWN_MEMORY = 8 * 2**30  # bytes, assumed where the system does not tell


def machine_memory() -> int:
    """Bytes, of a container those that it may use."""
    if not hasattr(os, "sysconf"):  # Windows
        return UNKNOWN_MEMORY
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # none is told, or "max"
        memory = min(memory, int(MEMORY_LIMIT.read_text(encoding="ascii")))
    return memory


class ByteBudget:
    """Bytes that threads take and give back. One who asks for more than there are works alone."""

    def __init__(self, limit: int, alone: AbstractContextManager | None = None) -> None:
        """
        Args:
            limit: bytes that may be held at a time.
            alone: a lock for those who ask for more; of several processes, one for all of them.
        """
        self.limit = limit
        self._free = limit
        self._given_back = threading.Condition()
        self._alone = threading.Lock() if alone is None else alone

    @contextmanager
    def hold(self, wanted: int) -> Iterator[None]:
        """Waits until `wanted` bytes are free, and holds them."""
        is_alone = wanted > self.limit
        wanted = min(wanted, self.limit)
        with self._alone if is_alone else nullcontext():
            with self._given_back:
                self._given_back.wait_for(lambda: self._free >= wanted)
                self._free -= wanted
            try:
                yield
            finally:
                with self._given_back:
                    self._free += wanted
                    self._given_back.notify_all()


def decoding_limit() -> int:
    """Bytes that all decoding of a process may take at a time."""
    return int(min(max(SHARE * machine_memory(), FEWEST), MOST))
