"""Images whose pixels have more than 8 bits, as numbers and not as Pillow rounds them.

Pillow keeps the upper byte of colours in 16 bits. Read in the other byte order, the same file gives
the lower one.
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile, _Tile
from PIL.TiffImagePlugin import TiffImageFile

from src_py.images.ranges import (
    COLOUR,
    DEEP_RGB,
    INTEGER,
    ChooseRange,
    is_known,
    no_values,
    sort_of,
    to_8_bit,
)

MOST_LOOKED_AT = 2**20  # pixels of an image, by which its range is found
DEEP_COLOURS = ("RGB;16", "RGBA;16", "RGBX;16")  # Pillow's names of what a file holds, less order
NATIVE = "L" if sys.byteorder == "little" else "B"
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if NATIVE == "L" else "L"}
BITS_PER_SAMPLE, SAMPLE_FORMAT, NO_VALUE = 258, 339, 42113  # TIFF's tags; the last is GDAL's
UNSIGNED = 1  # as SAMPLE_FORMAT
PLANES, SEPARATE = 284, 2  # the tag, and what it says of a plane for each colour
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0

Box = tuple[int, int, int, int]  # left, top, right, bottom in px


class DeepImage:
    """The numbers of an image's pixels, to be seen by a range.

    Made before the image is decoded, and used after it has been.

    Attributes:
        mode: of the image's header: Pillow's, or one of our own for colours.
    """

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self._lower: Image.Image | None = None
        self._unsigned = _is_unsigned_32_bit(image)
        self._inverted = _is_white_zero(image)
        self._declared = _declared_no_value(image)
        self.mode = image.mode
        tiles = _tiles_of_bytes(image)
        if tiles is not None:
            upper, lower = tiles
            self._source = Path(os.fsdecode(image.filename)) if image.filename else image.fp
            self._lower_tiles = lower
            image.tile = upper
            self.mode = DEEP_RGB
        self.sort = sort_of(self.mode)

    def load_rest(self) -> None:
        """Decodes what Pillow leaves away of colours."""
        if self.sort == COLOUR:
            assert self._source is not None, "an opened image has a file"
            if not isinstance(self._source, Path):
                self._source.seek(0)
            with Image.open(self._source, formats=(self._image.format or "",)) as lower:
                assert isinstance(lower, ImageFile), "it has just been opened"
                lower.tile = self._lower_tiles
                lower.load()
                self._lower = lower.convert(lower.mode)

    def find_range(self, choose: ChooseRange) -> None:
        """Settles what is black and white, by a sample of the pixels."""
        assert self.sort is not None, "images of 8 bits have no range"
        step = int(max(1, (self._image.width * self._image.height / MOST_LOOKED_AT) ** 0.5))
        width, height = self._image.size
        rows = step * max(1, MOST_LOOKED_AT // (step * width))  # at a time
        parts = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
        sample = np.concatenate([self._values(part)[::step, ::step].ravel() for part in parts])
        self._unknown = no_values(sample)
        if self._declared is not None:
            self._unknown.append(self._declared)
            sample = sample[sample != self._declared]
        self._range = choose(self.sort, sample)

    def part(self, box: Box) -> Image.Image:
        """A part of the image in 8 bits a channel, without transparency's effect."""
        values, image = self._values(box), self._image
        seen = to_8_bit(values, self._range, self._unknown)
        if self._inverted:
            seen = np.where(is_known(values, self._unknown), 255 - seen, 0).astype(np.uint8)
        grey = Image.fromarray(seen)
        if grey.mode == "RGB" and image.mode == "RGBA":
            grey.putalpha(image.getchannel("A").crop(box))
        return grey

    def _values(self, box: Box) -> np.ndarray:
        """(H, W) or (H, W, 3) of the part within `box`."""
        values = np.asarray(self._image.crop(box))
        if self._lower is not None:
            lower = np.asarray(self._lower.crop(box))[..., :3]
            return values[..., :3].astype(np.uint16) << 8 | lower
        return values.view(np.uint32) if self._unsigned else values


def _tiles_of_bytes(image: ImageFile) -> tuple[list[_Tile], list[_Tile]] | None:
    """How to read the upper bytes of colours in 16 bits, and the lower; None for other images."""
    upper, lower = [], []
    for tile in image.tile:
        codec, arguments = tile.codec_name, tile.args
        if codec == "ppm" and arguments == ("RGB", 65535):
            codec, arguments = "raw", ("RGB;16B", 0, 1)
        name, *others = [arguments] if isinstance(arguments, str) else arguments or [""]
        if not isinstance(name, str) or name[:-1] not in DEEP_COLOURS:
            return None
        swapped = name[:-1] + OTHER_ORDER[name[-1]]
        other = swapped if isinstance(arguments, str) else (swapped, *others)
        upper.append(tile._replace(codec_name=codec, args=arguments))
        lower.append(tile._replace(codec_name=codec, args=other))
    return (upper, lower) if upper else None


def has_deep_planes(image: ImageFile) -> bool:
    """Whether colours in 16 bits stand a plane after the other, which Pillow reads wrongly."""
    if not isinstance(image, TiffImageFile) or image.tag_v2.get(PLANES) != SEPARATE:
        return False
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
    return len(bits) > 1 and max(bits) > 8


def _is_white_zero(image: ImageFile) -> bool:
    """Whether a TIFF says that 0 is white, which Pillow heeds in 8 bits alone."""
    if not isinstance(image, TiffImageFile) or sort_of(image.mode) != INTEGER:
        return False
    return image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _is_unsigned_32_bit(image: ImageFile) -> bool:
    """Whether a TIFF's numbers are unsigned, though Pillow takes them for signed ones."""
    if not isinstance(image, TiffImageFile) or image.mode != "I":
        return False
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
    return bits == (32,) and image.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,)


def _declared_no_value(image: ImageFile) -> float | None:
    """The number that a TIFF says to stand for no value."""
    if isinstance(image, TiffImageFile):
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return float(str(image.tag_v2[NO_VALUE]).strip("\0 "))
    return None
