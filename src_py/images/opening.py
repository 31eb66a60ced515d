"""Opening image files as viewers do: what is no pixel may be odd, what is may not be missing.

Pillow refuses sound pictures for what stands beside them (a megabyte of text, a wrong checksum of
a comment, a missing end marker), and takes pictures whose greater part is missing for whole ones.
All its settings are global, so that what depends on a file is done to the opened image instead.
"""

import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import pillow_heif
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from src_py.images.kinds import Openable, is_targa, other_kind, readable_formats

PIXEL_LIMIT = 178_956_970  # beyond it Pillow's own limit refuses an image as a bomb
LARGEST_TEXT = 16 * 2**20  # bytes of one text or colour profile of a PNG, unpacked
LARGEST_TEXTS = 64 * 2**20  # bytes of all of a PNG's texts

PNG_START = b"\x89PNG\r\n\x1a\n"
# Beside the critical chunks: transparency, and the camera's orientation.
PNG_KEPT = (b"tRNS", b"eXIf")

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # within a scan 00 and D0 to D7 are data
JPEG_SCAN, JPEG_LAST, JPEG_FRAMES = 0xDA, 0xD9, frozenset({0xC2, 0xCA})
ENDS = 8  # markers given to a decoder that goes on asking
UNCODED_GREY = (127, 128)  # what libjpeg gives where there is no data
MOST_MISSING = 0.02  # of a picture; a few lost bytes at the end are no reason to refuse it
MOST = 0.5
FILLER = bytes(range(1, 129))
PADDING = 64  # zero bytes at the end of a file of which only a part was stored

CUT_OFF = re.compile(r"truncat|too short|not enough|unexpected end|incomplete|end of file", re.I)
BROKEN = re.compile(r"broken|decoder error|unrecognized data|cannot load|corrupt|decod", re.I)

Result = TypeVar("Result")

# One odd EXIF block in a hundred would otherwise bury a run's own messages.
warnings.filterwarnings("ignore", module=r"PIL\.")
pillow_heif.register_heif_opener()  # which also turns images upright as the file tells
PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_TEXT
PngImagePlugin.MAX_TEXT_MEMORY = LARGEST_TEXTS


class UnreadableImage(Exception):
    """A file that cannot be decoded. The message is the reason, in one line."""


class TooManyPixels(Exception):
    """An image that would take too much memory, as it cannot be decoded smaller."""


class Damaged(Exception):
    """What Pillow would not notice: a picture of which a part is missing. In plain words."""


def use_image(file: Openable, use: Callable[[ImageFile], Result]) -> Result:
    """What `use` makes of the opened, not yet decoded image in `file`.

    Raises:
        UnreadableImage: whatever goes wrong: decoders answer damaged data with almost any
            exception (OSError, SyntaxError, struct.error, ValueError, ...), and one bad file must
            not end a run over thousands.
    """
    try:
        try:
            with _open(file) as image:
                return use(image)
        except Exception:
            bare = _bare_png(file)
            if bare is None:
                raise
            with Image.open(io.BytesIO(bare), formats=("PNG",)) as image:
                return use(image)
    except Exception as error:
        raise UnreadableImage(_reason(file, error)) from error


def load_pixels(image: ImageFile) -> None:
    """Decodes an opened image.

    Raises:
        Damaged: when a JPEG lacks more of its picture than viewers would forgive.
    """
    if not isinstance(image, JpegImageFile):
        image.load()
        return
    # The file is closed once it is loaded.
    source = Path(os.fsdecode(image.filename)) if image.filename else image.fp
    image.load()
    _require_whole(image, lambda: _content(source))


def _open(file: Openable) -> ImageFile:
    if isinstance(file, Path) and stat.S_ISFIFO(os.stat(file).st_mode):
        raise Damaged("not a regular file")  # to open a pipe is to wait for its writer
    source = file if isinstance(file, Path) else file.open("rb")
    try:
        image = Image.open(source, formats=readable_formats())
    except UnidentifiedImageError:
        if not is_targa(file):
            raise
        return Image.open(source, formats=("TGA",))
    except Image.DecompressionBombError:
        with file.open("rb") as opened:
            if opened.read(len(JPEG_START)) != JPEG_START:
                raise
        image = JpegImageFile(source)  # it can be decoded at an eighth of its size
    if isinstance(image, JpegImageFile):
        return _with_an_end(image)
    return image


# --- PNG -----------------------------------------------------------------------------------------


def _bare_png(file: Openable) -> bytes | None:
    """A PNG without what is no pixel, where that may be what is wrong with it; None for others.

    Critical chunks stay as they are, so that damage to pixels is still found.
    """
    try:
        with file.open("rb") as opened:
            if opened.read(len(PNG_START)) != PNG_START:
                return None
            chunks = list(_sound_chunks(opened.read()))
    except OSError:
        return None
    return PNG_START + b"".join(chunks)


def _sound_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks that make up the picture, without those beside it."""
    start = 0
    while start + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[start : start + 8])
        chunk = content[start : start + 12 + length]
        is_critical = not kind[0] & 0x20
        if is_critical or (
            kind in PNG_KEPT and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        ):
            yield chunk
        start += 12 + length
    yield content[start:]


# --- JPEG ----------------------------------------------------------------------------------------


def _with_an_end(image: JpegImageFile) -> JpegImageFile:
    """The image, with an end marker after the file's last byte: without one libjpeg waits for it,
    and Pillow refuses the whole picture."""
    file = image.fp
    assert file is not None, "it has just been opened"
    if not any(_last_bytes(file)):
        file.seek(0)
        content = file.read()
        if not _end_of_picture(content):
            image.close()
            image = JpegImageFile(io.BytesIO(content.rstrip(b"\0")))
    ends = iter(ENDS * [JPEG_END])

    def read_or_end(read_bytes: int) -> bytes:
        assert image.fp is not None, "it is open while it is decoded"
        return image.fp.read(read_bytes) or next(ends, b"")

    image.load_read = read_or_end  # type: ignore[method-assign]
    return image


def _last_bytes(file: IO[bytes]) -> bytes:
    """The last PADDING bytes; where the system can, without moving in the file, whose beginning
    would have to be read again."""
    if hasattr(os, "pread") and not isinstance(file, io.BytesIO):
        start = os.fstat(file.fileno()).st_size - PADDING
        return os.pread(file.fileno(), PADDING, max(0, start))
    file.seek(0, io.SEEK_END)
    file.seek(max(0, file.tell() - PADDING))
    return file.read()


def _content(source: Path | IO[bytes] | None) -> bytes:
    if isinstance(source, Path):
        return source.read_bytes()
    assert source is not None, "an opened image has a file"
    source.seek(0)
    return source.read()


def _require_whole(image: JpegImageFile, content: Callable[[], bytes]) -> None:
    """
    Args:
        content: reads the file again.

    Raises:
        Damaged: when too much of the picture is missing.
    """
    if image.info.get("progressive"):
        if not _has_all_scans(content()):
            raise Damaged("damaged: the finer part of the picture is missing")
        return
    last = image.getpixel((image.width - 1, image.height - 1))
    if not all(value in UNCODED_GREY for value in (last if isinstance(last, tuple) else [last])):
        return
    uncoded = np.isin(np.asarray(image), UNCODED_GREY)
    missing = float(uncoded.reshape(image.height, image.width, -1).all(2).mean())
    if missing > MOST_MISSING and not _ends_in_grey(image, content()):
        part = "most" if missing > MOST else "a part"
        raise Damaged(f"damaged: {part} of the picture is missing")


def _ends_in_grey(image: JpegImageFile, content: bytes) -> bool:
    """Whether the grey at the end of a picture is its own: more data would change it, if it stood
    for data that are missing."""
    data = content[: _end_of_picture(content)]
    with JpegImageFile(io.BytesIO(data + FILLER + JPEG_END)) as other:
        scale = image.decoderconfig[0] if image.decoderconfig else 1
        other.draft(None, (other.width // scale, other.height // scale))
        other.load()
        return np.array_equal(np.asarray(image), np.asarray(other))


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """The marker of each segment of the first picture in a JPEG file, and where it stands."""
    start = 2
    while (found := JPEG_MARKER.search(content, start)) is not None:
        at, marker = found.start(), content[found.start() + 1]
        yield marker, at
        if marker == JPEG_LAST:
            return
        start = at + 2 + int.from_bytes(content[at + 2 : at + 4])


def _end_of_picture(content: bytes) -> int | None:
    """Where a JPEG's end marker stands; None where there is none."""
    return next((at for marker, at in _segments(content) if marker == JPEG_LAST), None)


def _has_all_scans(content: bytes) -> bool:
    """Whether a progressive JPEG has every coefficient of every component to its last bit."""
    missing: set[tuple[int, int]] = set()  # component, coefficient
    for marker, at in _segments(content):
        if marker in JPEG_FRAMES:
            parts = content[at + 10 : at + 10 + 3 * content[at + 9] : 3]
            missing = {(part, coefficient) for part in parts for coefficient in range(64)}
        elif marker == JPEG_SCAN:
            count = content[at + 4]
            first, last, bits = content[at + 5 + 2 * count : at + 8 + 2 * count]
            if not bits & 15:  # those that a later scan refines
                done = content[at + 5 : at + 5 + 2 * count : 2]
                missing -= {(part, number) for part in done for number in range(first, last + 1)}
    return not missing


# --- reasons -------------------------------------------------------------------------------------


def _reason(file: Openable, error: Exception) -> str:
    """Why `file` could not be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return _not_an_image(file)
    if isinstance(error, Image.DecompressionBombError | TooManyPixels):
        return f"more than {PIXEL_LIMIT // 10**6} megapixels"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, Damaged):
        return text
    if CUT_OFF.search(text) or isinstance(error, EOFError):
        return "damaged: the file ends before the picture does"
    if isinstance(error, OSError | SyntaxError) and BROKEN.search(text):
        return "damaged: the picture's data cannot be decoded"
    return f"damaged, or of a kind that is not read ({text or type(error).__name__})"


def _not_an_image(file: Openable) -> str:
    with file.open("rb") as opened:
        if not opened.read(1):
            return "empty file"
    kind = other_kind(file)
    if kind is not None:
        return f"not an image of a kind that is read, but {kind}"
    return "not an image, or of a kind that Pillow cannot read"
