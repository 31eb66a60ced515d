"""From image files of any kind to uint8 arrays: finding them, decoding them, fitting a square."""

import contextlib
import functools
import os
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError, features

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
    ".avif", ".heic", ".heif",
})
# A closed list: Pillow's other plugins include some that run outside programs (EPS).
# An image under a wrong extension is still read, as long as it is one of these.
FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM",
)
# fmt: on

SMALL_SIDE = 64  # px; where images up to this side are grey, they are mostly signs, not photographs
GREY_TOLERANCE = 8  # levels that the channels of a grey JPEG may differ by
LOOKED_AT = 100  # images of a folder

# One odd EXIF block in a hundred would otherwise bury a run's own messages.
warnings.filterwarnings("ignore", module=r"PIL\.")
pillow_heif.register_heif_opener()  # which also turns images upright as the file tells


class UnreadableImage(Exception):
    """A file that cannot be decoded. The message is the reason, in one line."""


class ImageHeader(NamedTuple):
    """What a file says of itself, before anything is decoded, turned or converted."""

    width: int  # px
    height: int  # px
    mode: str  # kind of pixels, by Pillow's name: 'RGB', 'L', 'P', 'CMYK', 'I;16', ...


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """The entries of FORMATS that this installation of Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """The entries of IMAGE_EXTENSIONS that this installation of Pillow can open."""
    return IMAGE_EXTENSIONS - (set() if features.check("avif") else {".avif"})


def find_images(root: Path) -> list[Path]:
    """Every readable kind of image below `root`, sorted by path relative to it."""
    return find_files(root, readable_extensions())


def find_files(root: Path, extensions: frozenset[str]) -> list[Path]:
    """Every file that walk_files finds below `root`, sorted by path relative to it."""
    return sorted(walk_files(root, extensions), key=lambda path: path.parts)


def walk_files(root: Path, extensions: frozenset[str]) -> Iterator[Path]:
    """Every regular file below `root` with one of `extensions`, in no particular order.

    Extensions are lower-case with their dot and match in any case. Hidden files and folders are
    left out, and so is what cannot be listed: a missing `root` gives nothing. Linked folders are
    followed, but no real folder is entered twice.
    """
    visited: set[str] = set()
    pending = deque([Path(root)])
    while pending:
        folder = pending.popleft()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        for entry in _visible_entries(folder):
            # The entries know what they are: asking the paths would cost a system call each.
            if entry.is_dir():
                # Links wait until all real folders are seen, so that a folder which is reachable
                # both ways is listed under its own name.
                add = pending.append if entry.is_symlink() else pending.appendleft
                add(folder / entry.name)
            elif os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
                yield folder / entry.name


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What `folder` holds, without hidden entries and links that lead nowhere."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []
    return [entry for entry in visible if not entry.is_symlink() or os.path.exists(entry.path)]


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Decode the first frame of `path`, upright, as uint8 (H, W, channels).

    Transparent parts become white; 16-bit and float pixels are scaled to 0..255.

    Args:
        channels: 3 for RGB or 1 for luminance.

    Raises:
        UnreadableImage: with the reason, as all readers here do.
    """
    image, _ = _decode(path, channels)
    return _as_array(image)


def read_square(path: Path, size: int, channels: int) -> np.ndarray:
    """Decode `path` and fit it to a centred square: uint8 (size, size, channels).

    An image that already is size x size keeps its pixels.
    """
    square, _ = read_square_and_header(path, size, channels)
    return square


def read_square_and_header(path: Path, size: int, channels: int) -> tuple[np.ndarray, ImageHeader]:
    """What read_square gives, and what the file says of itself."""
    # Twice the size asked for leaves the final antialiased step enough detail.
    image, header = _decode(path, channels, at_least=2 * size)
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
    try:
        with Image.open(path, formats=_readable_formats()) as image:
            return min(image.size)
    except Exception as error:  # see _decode
        raise UnreadableImage(_reason(path, error)) from error


def read_format(path: Path) -> str:
    """Which of FORMATS `path` is, whatever its extension.

    Raises:
        UnreadableImage: when it is none of them.
    """
    try:
        with Image.open(path, formats=_readable_formats()) as image:
            return image.format or ""
    except Exception as error:  # see _decode
        raise UnreadableImage(_reason(path, error)) from error


def are_small_and_grey(root: Path) -> bool:
    """Whether the images below `root` are small, and grey whatever the files say of their channels.

    Judged by up to 100 of them, spread evenly; files that cannot be read are passed over. The first
    large or coloured one ends it, so that a folder of photographs costs no more than its listing.
    """
    paths = find_images(root)
    looked_at = 0
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        try:
            if read_shorter_side(path) > SMALL_SIDE:
                return False
            pixels = read_image(path)  # (H, W, 3)
        except UnreadableImage:
            continue
        if (pixels.max(axis=2).astype(int) - pixels.min(axis=2) > GREY_TOLERANCE).any():
            return False
        looked_at += 1
    return looked_at > 0


def _decode(
    path: Path, channels: int, at_least: int | None = None
) -> tuple[Image.Image, ImageHeader]:
    """`path` as an upright 8-bit image of mode L or RGB, and its header.

    With `at_least`, a JPEG may come reduced by 2, 4 or 8 while both its sides keep that length,
    which decodes large photos several times faster.
    """
    try:
        with Image.open(path, formats=_readable_formats()) as image:
            header = ImageHeader(*image.size, image.mode)
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            # A damaged EXIF block does not make the pixels unreadable.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            return _to_8_bit(image).convert("L" if channels == 1 else "RGB"), header
    # Decoders answer damaged data with almost any exception (OSError, SyntaxError, struct.error,
    # ValueError, ...), and one bad file must not end a run over thousands.
    except Exception as error:
        raise UnreadableImage(_reason(path, error)) from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """An image without transparency, 8 bits per channel."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_scale_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image


def _scale_to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values of any numeric type as uint8; Pillow's own conversion clips them at 255.

    Integers are taken as 16-bit; floats as 0..1, 0..255 or 0..65535, the first that holds
    them all. Values outside are stretched from their own minimum to their own maximum.
    """
    ceilings = (1, 255, 65535) if values.dtype.kind == "f" else (65535,)
    values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    ceiling = next((c for c in ceilings if low >= 0 and high <= c), None)
    if ceiling is None:
        values, ceiling = values - low, max(high - low, np.float32(1e-30))
    return np.rint(values / ceiling * 255).astype(np.uint8)


def _as_array(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB as uint8 (H, W, C)."""
    return np.array(image).reshape(image.height, image.width, -1)


def _reason(path: Path, error: Exception) -> str:
    """Why `path` could not be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return "empty file"
        return "not an image, or of a kind that Pillow cannot read"
    if isinstance(error, Image.DecompressionBombError):
        assert Image.MAX_IMAGE_PIXELS is not None, "Pillow raises it only where there is a limit"
        return f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text or type(error).__name__
