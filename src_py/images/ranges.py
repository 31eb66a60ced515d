"""Which values are black and white, in images whose numbers use a part of their type.

A camera of 12 bits stores 0 to 4,095 in 16; heights, X-rays and reflectances have units of their
own. One range is found for all images of a sort in a folder, from their values alone, stored with
the run, and used wherever its images are read. An image of a sort that a run has no range for is
seen by its own.

Extremes that stand for no value (-9999, NaN, the largest float) do not count, and become black.
"""

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# The sorts of pixels that have a range.
INTEGER, FLOAT, COLOUR = "integer grey", "floating-point grey", "16-bit colour"
DEEP_RGB = "RGB;16"  # what a header says of colour in 16 bits; Pillow has no name for it

Range = tuple[float, float]  # the values that become black and white
Ranges = Mapping[str, Sequence[float]]  # of each sort, as JSON holds them
# What an image's range is, from its sort and its values.
ChooseRange = Callable[[str, np.ndarray], Range]

NO_VALUES = (-9999, -999, -99999, -999999, -32768, -32767, -(2**31), -(2**31) + 1)
HUGE = 1e19  # larger magnitudes are no measurements: 3.4e38, 9.97e36, 1e20
LISTED_GAP, NEGATIVE_GAP, ANY_GAP = 0.1, 2.0, 1000.0  # from the other values, in their spread
MOST_NO_VALUES = 16  # different ones in an image
PIXELS_DROPPED = 1 / 1000  # at either end, where they lie far from the others
FILES_DROPPED = 1 / 20  # of a folder, likewise
FEWEST_PIXELS, FEWEST_FILES = 100, 8  # of which some may be dropped
CEILINGS = {FLOAT: (1.0, 255.0, 65535.0)}  # the usual ones, for images of one single value
NEARLY_ALL = 0.8  # of 255, 1023, 4095, 65535, ...: then that is the camera's white
DARK = 1 / 16  # of the range; an image that stays below it looks black


def sort_of(mode: str) -> str | None:
    """The sort of a header's mode; None for modes of 8 bits, whose numbers are grey levels."""
    if mode == DEEP_RGB:
        return COLOUR
    if mode == "F":
        return FLOAT
    return INTEGER if mode.startswith("I") else None


def own_range(sort: str, values: np.ndarray) -> Range:
    """The range of an image by itself."""
    extent = extent_of(values)
    return (0.0, 1.0) if extent is None else _black_and_white(sort, *extent)


def stored_range(ranges: Ranges) -> ChooseRange:
    """The ranges of a run; those of an image itself where the run has none for its sort."""

    def choose(sort: str, values: np.ndarray) -> Range:
        if sort not in ranges:
            return own_range(sort, values)
        black, white = ranges[sort]
        return black, white

    return choose


class RangeFinder:
    """Sees a folder's images by their own ranges, and finds the common ones. For many threads."""

    def __init__(self) -> None:
        self._extents: dict[str, array[float]] = defaultdict(lambda: array("d"))

    def __call__(self, sort: str, values: np.ndarray) -> Range:
        extent = extent_of(values)
        if extent is None:
            return 0.0, 1.0
        self._extents[sort].extend(extent)
        return _black_and_white(sort, *extent)

    def common(self) -> dict[str, list[float]]:
        """One range for each sort that was seen."""
        return {
            sort: list(_black_and_white(sort, *_common_extent(self._extents_of(sort))))
            for sort in sorted(self._extents)
        }

    def dark(self) -> int:
        """How many images stay so far below their common range that they look black."""
        count = 0
        for sort, (black, white) in self.common().items():
            highest = self._extents_of(sort)[:, 1]
            count += int(np.count_nonzero(highest - black < DARK * (white - black)))
        return count

    def _extents_of(self, sort: str) -> np.ndarray:
        """(N, 2)"""
        return np.array(self._extents[sort]).reshape(-1, 2)


def extent_of(values: np.ndarray) -> Range | None:
    """The lowest and the highest value of an image, without what stands for no value, and without
    single pixels far from all others; None where no value is left."""
    known = values[is_known(values, no_values(values))].astype(np.float64)
    if not known.size:
        return None
    low, high = known.min(), known.max()
    if low == high and (low in NO_VALUES or abs(low) >= HUGE):  # nothing else is there
        return None
    dropped = math.ceil(known.size * PIXELS_DROPPED) if known.size >= FEWEST_PIXELS else 0
    ordered = np.partition(known, (dropped, known.size - 1 - dropped))
    inner = float(ordered[dropped]), float(ordered[known.size - 1 - dropped])
    return _without_strays((float(low), float(high)), inner, inner[1] - inner[0])


def no_values(values: np.ndarray) -> list[float]:
    """The extremes of an image that stand for no value, for they lie apart from all others."""
    found: list[float] = []
    rest = np.unique(values[np.isfinite(values)]).astype(np.float64)
    while rest.size > 1 and len(found) < MOST_NO_VALUES:
        if _stands_apart(rest[0], rest[1:]):
            found, rest = [*found, float(rest[0])], rest[1:]
        elif _stands_apart(rest[-1], rest[:-1]):
            found, rest = [*found, float(rest[-1])], rest[:-1]
        else:
            break
    return found


def is_known(values: np.ndarray, unknown: Sequence[float]) -> np.ndarray:
    """Which values are finite, and not among the `unknown`: bool, of the same shape."""
    known = np.isfinite(values)
    for value in unknown:
        known &= values != value
    return known


def to_8_bit(values: np.ndarray, limits: Range, unknown: Sequence[float] = ()) -> np.ndarray:
    """Values of any numeric type as uint8, those outside the range as black or white."""
    black, white = limits
    known = is_known(values, unknown)
    grey = (np.where(known, values, black).astype(np.float64) - black) / (white - black)
    return np.rint(grey.clip(0, 1) * 255).astype(np.uint8)


def _stands_apart(value: float, others: np.ndarray) -> bool:
    """
    Args:
        others: (N,) in rising order, all above `value` or all below.
    """
    spread = others[-1] - others[0]
    gap = max(others[0] - value, value - others[-1])
    if value in NO_VALUES or abs(value) >= HUGE:
        return bool(gap > LISTED_GAP * spread)
    return bool(spread > 0 and gap > (NEGATIVE_GAP if value < 0 else ANY_GAP) * spread)


def _without_strays(outer: Range, inner: Range, reach: float) -> Range:
    """The outer limits, or the inner one where the outer lies further from it than `reach`."""
    if reach <= 0:
        return outer
    low = outer[0] if outer[0] >= inner[0] - reach else inner[0]
    high = outer[1] if outer[1] <= inner[1] + reach else inner[1]
    return low, high


def _common_extent(extents: np.ndarray) -> Range:
    """Of those of all images, (N, 2), without the few that lie far from the others."""
    lows, highs = np.sort(extents, axis=0).T
    dropped = math.ceil(len(lows) * FILES_DROPPED) if len(lows) >= FEWEST_FILES else 0
    inner = float(lows[dropped]), float(highs[-1 - dropped])
    return _without_strays((float(lows[0]), float(highs[-1])), inner, inner[1] - inner[0])


def _black_and_white(sort: str, low: float, high: float) -> Range:
    """Zero is black, unless the values lie so far from it that they would all look alike; white is
    the highest value, or where all bits of it are in use the largest that they could hold."""
    if low == high:
        ceiling = next((c for c in CEILINGS.get(sort, (65535.0,)) if c >= high), high)
        return (0.0, ceiling) if low >= 0 and ceiling > 0 else (low, low + 1)
    if not 0 <= low < high / 2:
        return low, high
    ceiling = 2.0 ** math.ceil(math.log2(high + 1)) - 1
    is_white = sort != FLOAT and ceiling < 2**16 and high >= NEARLY_ALL * ceiling
    return 0.0, ceiling if is_white else high
