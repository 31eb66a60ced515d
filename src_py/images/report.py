"""What a folder of images holds, told before training: sizes, kinds of pixels, duplicates.

Nothing here changes what is trained on: duplicates are listed, and stay in.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from src_py.images.decoding import Skipped
from src_py.images.names import Names, Paths
from src_py.images.ranges import DARK, DEEP_RGB, Ranges
from src_py.images.tars import file_at

# Pillow's names of pixel modes, in words.
MODE_NAMES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "RGBA": "RGB with transparency",
    "I": "32-bit grey",
    "F": "floating-point grey",
    DEEP_RGB: "16-bit colour",
}
# Two images look alike when, between their thumbnails, at most this many of the 64 signs of
# differences disagree, and the mean difference is at most this share of their contrast.
LARGEST_DISTANCE = 10
LARGEST_DIFFERENCE = 0.12
FLAT_CONTRAST = 8.0  # grey levels; a floor, so that noise does not count as contrast
NEXT_IN_ORDER = 3
HASHED_AT_ONCE = 16_384
PAIRS_AT_ONCE = 20_000  # bounds the memory where all images look alike


class Duplicate(NamedTuple):
    """A row of duplicates.csv."""

    path: str  # relative to the folder of images
    duplicate_of: str  # an image earlier in the order of rows
    kind: Literal["exact", "near"]  # the same bytes, or the same looks


def describe_files(facts: np.ndarray) -> list[str]:
    """Sizes and kinds of pixels as found, in two lines.

    Args:
        facts: (N,) of folders.facts_type, N at least 1.
    """
    sides = np.stack([facts["width"], facts["height"]])  # (2, N) px
    shorter, longer = sides.min(0), sides.max(0)
    smallest, largest = (_size(facts[row]) for row in (shorter.argmin(), longer.argmax()))
    elongation = float((longer / shorter).max())
    modes = Counter(map(str, facts["mode"])).most_common()
    return [
        f"smallest {smallest}, median shorter side {np.median(shorter):.0f} px, largest {largest}, "
        f"most elongated {elongation:.3g} : 1",
        ", ".join(f"{count} {_mode_name(mode)}" for mode, count in modes),
    ]


def _size(fact: np.void) -> str:
    return f"{fact['width']} x {fact['height']} px"


def _mode_name(mode: str) -> str:
    return "16-bit grey" if mode.startswith("I;16") else MODE_NAMES.get(mode, mode)


def describe_ranges(ranges: Ranges, dark: int) -> list[str]:
    """Which values of numbers of more than 8 bits are black and white, in a line for each sort.

    Args:
        dark: images that stay so far below their range that they look black.
    """
    lines = [
        f"{sort}: values from {black:.6g} to {white:.6g}, as found here, become black to white"
        for sort, (black, white) in ranges.items()
    ]
    if dark:
        lines.append(
            f"{dark} of them stay below {DARK:.0%} of that range and look black: if their numbers "
            "have another unit, train on them apart"
        )
    return lines


def count_left_out(
    unreadable: Skipped, left_out: Skipped, others: Counter[str], table: Path
) -> list[str]:
    """What of a folder is not read, by kind and reason: one line for what `table` lists, and one
    for files that are no pictures.

    Args:
        unreadable, left_out: (path, reason).
        others: by extension.
    """
    lines = []
    told = [f"{count} ({reason})" for reason, count in _by_reason(left_out)]
    if unreadable:
        told.append(f"{len(unreadable)} unreadable files skipped")
    if told:
        line = f"not read: {', '.join(told)}, listed in {table}"
        reasons = ", ".join(f"{count} {reason}" for reason, count in _by_reason(unreadable))
        lines.append(f"{line}: {reasons}" if reasons else line)
    if others:
        kinds = ", ".join(
            f"{count} {kind or 'without one'}" for kind, count in others.most_common()
        )
        lines.append(f"{others.total()} files are no pictures, by extension: {kinds}")
    return lines


def _by_reason(listed: Skipped) -> list[tuple[str, int]]:
    """How often each reason is given, without its details, the most frequent first."""
    return Counter(re.split(r"[:(]", reason)[0].strip() for _, reason in listed).most_common()


def find_duplicates(root: Path, names: Sequence[str], facts: np.ndarray) -> list[Duplicate]:
    """Every image that repeats an earlier one, in the order of rows.

    Args:
        names: (N,) paths relative to `root`.
        facts: (N,) of folders.facts_type.
    """
    thumbnails = facts["thumbnail"]
    exact = find_equal_files(Paths(root, Names.of(names)), thumbnails)
    is_single = exact == np.arange(len(names))
    first = exact.copy()
    first[is_single] = find_lookalikes(thumbnails, np.flatnonzero(is_single))
    return [
        Duplicate(names[row], names[first[row]], "near" if is_single[row] else "exact")
        for row in np.flatnonzero(first != np.arange(len(names))).tolist()
    ]


def find_equal_files(paths: Sequence[Path], thumbnails: np.ndarray) -> np.ndarray:
    """The row of the first file with the same bytes, for each of N: (N,) int64.

    Only files whose thumbnails (N, 8, 8, C) are equal are read.
    """
    first = np.arange(len(paths))
    # Two thumbnails of one hash that differ by chance cost two files that are read for nothing.
    hashes = (hash(thumbnail.tobytes()) for thumbnail in thumbnails)
    hashed = np.fromiter(hashes, np.int64, len(paths))
    order = hashed.argsort(kind="stable")
    hashed = hashed[order]
    starts = np.flatnonzero(np.concatenate([[True], hashed[1:] != hashed[:-1], [True]]))
    for group in np.flatnonzero(np.diff(starts) > 1).tolist():
        row_by_content: dict[bytes, int] = {}
        for row in order[starts[group] : starts[group + 1]].tolist():
            first[row] = row_by_content.setdefault(_content(paths[row]), row)
    return first


def _content(path: Path) -> bytes:
    """A digest of a file's bytes; of a file that is gone by now, one of its own."""
    try:
        with file_at(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return bytes(path)


def find_lookalikes(thumbnails: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The row of an earlier image that looks the same, or its own row, for each of M: (M,) int64.

    Images are sorted by a 64-bit difference hash (is a pixel lighter than the one to its left?)
    and compared with the next few in that order. A second order begins with the hash's second
    byte, and so on: where two hashes differ in a few bits, one of the eight orders has them
    late and the two images close together. This takes M log M steps, and finds most, not all.

    Args:
        thumbnails: (N, 8, 8, C) uint8.
        rows: (M,) ascending, of the images that are looked at; None for all.
    """
    rows = np.arange(len(thumbnails)) if rows is None else rows
    earliest = rows.copy()
    hashes, brightness = _difference_hashes(thumbnails, rows)
    for pairs in _near_in_order(hashes, brightness):
        distance = np.unpackbits(hashes[pairs[0]] ^ hashes[pairs[1]], axis=1).sum(1)
        pairs = pairs[:, distance <= LARGEST_DISTANCE]
        pairs = pairs[:, _look_alike(*(thumbnails[rows[side]] for side in pairs))]
        np.minimum.at(earliest, pairs.max(0), rows[pairs.min(0)])
    return earliest


def _difference_hashes(thumbnails: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some rows the difference hash, (M, 8) uint8, and the mean grey level, (M,) float32."""
    hashes, brightness = np.empty((len(rows), 8), np.uint8), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), HASHED_AT_ONCE):
        block = slice(start, start + HASHED_AT_ONCE)
        grey = thumbnails[rows[block]].mean(-1, dtype=np.float32)  # (B, 8, 8)
        # The margin keeps noise in flat parts of a picture from setting bits.
        lighter = grey > np.roll(grey, 1, axis=2) + 2
        hashes[block] = np.packbits(lighter.reshape(len(grey), 64), axis=1)
        brightness[block] = grey.mean((1, 2))
    return hashes, brightness


def _near_in_order(hashes: np.ndarray, brightness: np.ndarray) -> Iterator[np.ndarray]:
    """Yields pairs of rows (2, P) that are close in one of the orders.

    Args:
        hashes: (M, 8) uint8.
        brightness: (M,), which orders equal hashes: those of flat pictures are all zero.
    """
    for turn in range(hashes.shape[1]):
        turned = np.roll(hashes, turn, axis=1).view(">u8")[:, 0]
        order = np.lexsort((brightness, turned))
        for step in range(1, NEXT_IN_ORDER + 1):
            for start in range(0, len(order) - step, PAIRS_AT_ONCE):
                later = order[start + step : start + step + PAIRS_AT_ONCE]
                yield np.stack([order[start : start + len(later)], later])


def _look_alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which of P pairs of thumbnails (P, 8, 8, C) differ little for their contrast: (P,) bool."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    contrast = np.maximum(first.std((1, 2, 3)), FLAT_CONTRAST)
    return np.abs(first - second).mean((1, 2, 3)) <= LARGEST_DIFFERENCE * contrast
