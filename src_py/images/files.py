"""From image files of any kind to uint8 arrays: decoding them, fitting a square."""

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from src_py.images.deep import Box, DeepImage, has_deep_planes
from src_py.images.memory import ByteBudget, decoding_limit
from src_py.images.opening import (
    PIXEL_LIMIT,
    Damaged,
    TooManyPixels,
    load_pixels,
    use_image,
)
from src_py.images.ranges import ChooseRange, own_range
from src_py.images.tars import file_at

PART_PIXELS = 2**20  # of an image, that are converted at a time
LARGE_PIXELS = 2**24  # of an image, that is reduced before anything else
EIGHTH = 8  # the smallest part of its sides that a JPEG can be decoded at
# Bytes of a pixel: as Pillow keeps it, and what decoders take besides.
STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}
DECODER_BYTES = {"WEBP": 8, "AVIF": 12, "HEIF": 8, "JPEG2000": 16, "GIF": 8, "ICO": 8, "PPM": 4}
COEFFICIENT_BYTES = 6  # a progressive JPEG's, of each pixel of its full size
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

budget = ByteBudget(decoding_limit())  # of this process; workers set their own


class ImageHeader(NamedTuple):
    """What a file says of itself, before anything is decoded, turned or converted."""

    width: int  # px
    height: int  # px
    mode: str  # kind of pixels, by Pillow's name: 'RGB', 'L', 'P', 'CMYK', 'I;16', ...


def read_image(
    path: Path,
    channels: int = 3,
    at_least: int | None = None,
    choose: ChooseRange = own_range,
) -> np.ndarray:
    """Decode the first frame of `path`, upright, as uint8 (H, W, channels).

    Transparent parts become white; numbers of more than 8 bits are seen by a range (ranges.py).

    Args:
        channels: 3 for RGB or 1 for luminance.
        at_least: px of the shorter side that are needed; a larger image may come reduced.
        choose: the range of numbers of more than 8 bits.

    Raises:
        UnreadableImage: with the reason, as all readers here do.
        UserError: when the shard that it lies in cannot be read.
    """
    image, _ = _decode(path, channels, at_least, choose)
    return _as_array(image)


def read_square(
    path: Path, size: int, channels: int, choose: ChooseRange = own_range
) -> np.ndarray:
    """Decode `path` and fit it to a centred square: uint8 (size, size, channels).

    An image that already is size x size keeps its pixels.

    Args:
        choose: the range of numbers of more than 8 bits.
    """
    square, _ = read_square_and_header(path, size, channels, choose)
    return square


def read_square_and_header(
    path: Path, size: int, channels: int, choose: ChooseRange = own_range
) -> tuple[np.ndarray, ImageHeader]:
    """What read_square gives, and what the file says of itself."""
    # Twice the size asked for leaves the final antialiased step enough detail.
    image, header = _decode(path, channels, 2 * size, choose)
    return fit_square(image, size), header


def shrink(square: np.ndarray, size: int) -> np.ndarray:
    """The means of a square's equal parts: uint8 (S, S, C) -> uint8 (size, size, C)."""
    image = Image.fromarray(square[..., 0] if square.shape[-1] == 1 else square)
    return fit_square(image, size, Image.Resampling.BOX)


def fit_square(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """The largest centred square of an L or RGB image, resized: uint8 (size, size, channels)."""
    side = min(image.size)
    # Cropping first, at whole pixels, is exact where no resizing is needed, and keeps a
    # 1 x 10,000 strip from growing to size x 10,000 size.
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return _as_array(square.resize((size, size), resample, reducing_gap=3.0))


def read_shorter_side(path: Path) -> int:
    """The shorter side of `path` in px, from its header alone."""
    return use_image(file_at(path), lambda image: min(image.size))


def read_format(path: Path) -> str:
    """Which of kinds.FORMATS `path` is, whatever its extension.

    Raises:
        UnreadableImage: when it is none of them.
    """
    return use_image(file_at(path), lambda image: image.format or "")


def _decode(
    path: Path,
    channels: int,
    at_least: int | None = None,
    choose: ChooseRange = own_range,
) -> tuple[Image.Image, ImageHeader]:
    """`path` as an upright 8-bit image of mode L or RGB, and its header.

    With `at_least`, a JPEG may come reduced by 2, 4 or 8 while both its sides keep that length,
    which decodes large photos several times faster; any very large image comes reduced.
    """
    mode = "L" if channels == 1 else "RGB"

    def use(image: ImageFile) -> tuple[Image.Image, ImageHeader]:
        if has_deep_planes(image):
            raise Damaged("16-bit colours in separate planes cannot be read: save them interleaved")
        deep = DeepImage(image)
        header = ImageHeader(*image.size, deep.mode)
        _draft(image, at_least)
        if image.width * image.height > PIXEL_LIMIT:
            raise TooManyPixels
        with budget.hold(_bytes_needed(image, header)):
            load_pixels(image)
            if deep.sort is not None:
                deep.load_rest()
                deep.find_range(choose)
            # A damaged EXIF block does not make the pixels unreadable.
            turn = None
            with suppress(Exception):
                turn = TURNS.get(image.getexif()[ExifTags.Base.Orientation])
            cut = functools.partial(_part, image) if deep.sort is None else deep.part
            flat = _flat(image, cut, mode, _reduction(image.size, at_least))
            return (flat if turn is None else flat.transpose(turn)), header

    return use_image(file_at(path), use)


def _draft(image: ImageFile, at_least: int | None) -> None:
    """Asks a JPEG's decoder for fewer pixels."""
    if image.width * image.height > PIXEL_LIMIT:
        image.draft(None, (image.width // EIGHTH, image.height // EIGHTH))
    elif at_least is not None:
        image.draft(None, (at_least, at_least))


def _bytes_needed(image: ImageFile, header: ImageHeader) -> int:
    """About what decoding and flattening take at the most, judged before it begins."""
    pixels = image.width * image.height
    each = STORED_BYTES.get(image.mode, 4) + DECODER_BYTES.get(image.format or "", 0) + 4
    if header.mode != image.mode:  # colours in 16 bits are decoded twice
        each += 8
    coefficients = 0
    if isinstance(image, JpegImageFile) and image.info.get("progressive"):
        coefficients = COEFFICIENT_BYTES * header.width * header.height
    return pixels * each + coefficients


def _reduction(size: tuple[int, int], at_least: int | None) -> int:
    """By what whole number a very large image is divided, so that fit_square still has three
    pixels for each of its own."""
    if at_least is None or size[0] * size[1] <= LARGE_PIXELS:
        return 1
    return max(1, 2 * min(size) // (3 * at_least))


def _flat(
    image: Image.Image, cut: Callable[[Box], Image.Image], mode: str, factor: int
) -> Image.Image:
    """A decoded image in 8 bits, without transparency, reduced by `factor`.

    Large ones are converted part by part, so that no second copy of them is made.

    Args:
        cut: gives a part of the image, in 8 bits.
        mode: 'L' or 'RGB'.
    """
    width, height = image.size
    if factor == 1 and width * height <= PART_PIXELS:
        return _opaque(cut((0, 0, width, height))).convert(mode)
    flat = Image.new(mode, (-(-width // factor), -(-height // factor)))
    for top, bottom in _parts(width, height, factor):
        part = _opaque(cut((0, top, width, bottom))).convert(mode)
        flat.paste(part.reduce(factor), (0, top // factor))
    return flat


def _part(image: Image.Image, box: Box) -> Image.Image:
    """A part of a decoded image; all of it as it is, without a copy."""
    return image if box == (0, 0, *image.size) else image.crop(box)


def _parts(width: int, height: int, factor: int) -> Iterator[tuple[int, int]]:
    """Top and bottom of parts of some PART_PIXELS, each a multiple of `factor` high."""
    rows = max(1, PART_PIXELS // width // factor) * factor
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _opaque(image: Image.Image) -> Image.Image:
    """An image of 8 bits per channel on white, of a mode that Pillow makes both L and RGB of."""
    if image.mode in ("LAB", "HSV"):
        return image.convert("RGB")
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _as_array(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB as uint8 (H, W, C)."""
    return np.array(image).reshape(image.height, image.width, -1)
