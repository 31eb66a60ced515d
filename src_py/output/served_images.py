"""The images of a run by their row, as a page asks for them: small, or the files themselves."""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from src_py.images.files import (
    read_format,
    read_image,
    read_shorter_side,
    read_square,
)
from src_py.images.loaders import ImageLoader
from src_py.images.ranges import Ranges, stored_range
from src_py.images.tars import File, file_at
from src_py.output.thumbnails import thumbnail

SIDE = 160  # px of a thumbnail
LARGEST_SHOWN = 2048  # px of the shorter side; larger images may be sent reduced
LONGEST_SENT = 16_384  # px; a side of more than 65,500 cannot be written as JPEG
QUALITY = 85  # of 100, JPEG
CACHE_BYTES = 64 * 2**20  # of thumbnails kept in memory: some eight thousand
# What browsers show, as it is; all else is sent as a JPEG.
TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "DIB": "image/bmp",
    "AVIF": "image/avif",
}


class ServedImages:
    """Pictures of a run's images. May be used by several threads."""

    def __init__(
        self,
        names: Sequence[str],
        root: Path | None,
        loader: ImageLoader,
        ranges: Ranges | None = None,
    ) -> None:
        """
        Args:
            names: paths below `root`, a row each.
            root: the folder of the images; None where they are no files.
            loader: of the same rows, for images that are no files.
            ranges: of numbers of more than 8 bits, as the network sees them (DataSettings).
        """
        self._names, self._root, self._loader = names, root, loader
        self._choose = stored_range(ranges or {})
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # the one used last at the end
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(os.cpu_count() or 1)

    def thumbnail(self, row: int) -> bytes:
        """A JPEG of the centred square, at most 160 px.

        Raises:
            UnreadableImage: when the file is gone, or damaged.
        """
        with self._lock:
            if row in self._kept:
                self._kept.move_to_end(row)
                return self._kept[row]
        with self._decoding:
            found = self._make_thumbnail(row)
        with self._lock:
            if row not in self._kept:
                self._kept[row] = found
                self._kept_bytes += len(found)
            while self._kept_bytes > CACHE_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return found

    def original(self, row: int) -> tuple[File | bytes, str]:
        """The file of an image, or what a browser can show in its place, and its content type.

        Raises:
            UnreadableImage: when the file is gone, or damaged.
        """
        if self._root is None:
            return _as_jpeg(thumbnail(self._pixels(row), 2 * SIDE)), TYPES["JPEG"]
        path = self._root / self._names[row]
        kind = read_format(path)
        if kind in TYPES:
            return file_at(path), TYPES[kind]
        with self._decoding:
            pixels = read_image(path, at_least=LARGEST_SHOWN, choose=self._choose)
            picture = Image.fromarray(pixels)
            picture.thumbnail((LONGEST_SENT, LONGEST_SENT))
            return _as_jpeg(picture), TYPES["JPEG"]

    def _make_thumbnail(self, row: int) -> bytes:
        if self._root is None:
            return _as_jpeg(thumbnail(self._pixels(row), SIDE))
        path = self._root / self._names[row]
        side = min(SIDE, read_shorter_side(path))
        return _as_jpeg(Image.fromarray(read_square(path, side, channels=3, choose=self._choose)))

    def _pixels(self, row: int) -> np.ndarray:
        """(H, W, C) uint8."""
        ((_, images),) = self._loader.batches([torch.tensor([row])])
        return images[0].permute(1, 2, 0).cpu().numpy()


def _as_jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
