"""Decoding many files at once: in order, in as many threads as help, and never far ahead of who
uses them."""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from src_py.images.opening import UnreadableImage
from src_py.run.cores import available_cores

Skipped = list[tuple[str, str]]  # path and reason of the files that cannot be read
Item = TypeVar("Item")
Decoded = TypeVar("Decoded")

TRIED = 3  # items that are decoded alone first, to see how long one takes
PYTHON_SECONDS = 5e-4  # for which an image of any size holds the GIL, roughly
CHUNK = 8  # items that a thread takes at once: makes tiny images (32 px) a fifth faster
CHUNKS_AHEAD = 64  # that wait for a slow user, beside two for each thread


def decode_in_threads(
    decode: Callable[[Item], Decoded], items: Sequence[Item], cores: int | None = None
) -> Generator[Decoded | str, None, None]:
    """What `decode` makes of each item, in order, or why it says that a file is unreadable.

    One thread per core for photos, which Pillow decodes without the GIL. Tiny images spend most of
    their time holding it, and more threads only take it from one another.

    Args:
        cores: that may be used; None: those that are available.
    """
    least = float("inf")
    for item in items[:TRIED]:
        started = time.perf_counter()
        result = _result_or_reason(decode, item)
        least = min(least, time.perf_counter() - started)
        yield result
    items = items[TRIED:]
    threads = max(1, min(cores or available_cores(), int(least / PYTHON_SECONDS))) if items else 1

    def decode_chunk(chunk: Sequence[Item]) -> list[Decoded | str]:
        return [_result_or_reason(decode, item) for item in chunk]

    size = min(CHUNK, 1 + len(items) // (8 * threads))
    pool = ThreadPoolExecutor(threads)
    begun: deque[Future[list[Decoded | str]]] = deque()
    try:
        for start in range(0, len(items), size):
            begun.append(pool.submit(decode_chunk, items[start : start + size]))
            if len(begun) == CHUNKS_AHEAD + 2 * threads:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C shall not wait for what is still queued


def none_readable(where: str, skipped: Skipped) -> str:
    """What is said where no file can be read."""
    path, reason = skipped[0]
    return f"{where}: none of the {len(skipped)} files can be read (the first, {path}: {reason})"


def _result_or_reason(decode: Callable[[Item], Decoded], item: Item) -> Decoded | str:
    try:
        return decode(item)
    except UnreadableImage as error:
        return str(error)
