"""Threads that decode: in order, not far ahead, and no longer than somebody listens."""

import threading
import time

import pytest

from src_py.images import decoding
from src_py.images.decoding import decode_in_threads
from src_py.images.opening import UnreadableImage


def test_results_and_reasons_keep_the_order():
    def decode(number):
        if number % 7 == 3:
            raise UnreadableImage(f"{number} is odd")
        return number

    expected = [f"{n} is odd" if n % 7 == 3 else n for n in range(1000)]
    assert list(decode_in_threads(decode, range(1000))) == expected
    assert list(decode_in_threads(decode, [])) == []


def test_what_is_decoded_ahead_is_bounded_and_the_rest_is_left_when_nobody_listens(monkeypatch):
    monkeypatch.setattr(decoding, "available_cores", lambda: 2)
    begun = []
    results = decode_in_threads(begun.append, range(10_000))
    next(results)
    results.close()
    assert len(begun) <= (decoding.CHUNKS_AHEAD + 2 * 2) * decoding.CHUNK


@pytest.mark.parametrize("seconds, threads", [(0.0, 1), (0.01, 4)])
def test_more_threads_are_begun_where_an_image_takes_long(monkeypatch, seconds, threads):
    """Tiny images hold the GIL for most of their time: threads would wait for one another."""
    monkeypatch.setattr(decoding, "available_cores", lambda: 4)
    used = set()

    def decode(number):
        time.sleep(seconds)
        used.add(threading.get_ident())
        return number

    assert list(decode_in_threads(decode, range(200))) == list(range(200))
    assert len(used - {threading.get_ident()}) == threads
