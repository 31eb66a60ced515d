"""Where images come from: a folder, or a set by name. Always pixels, never labels.

Nothing here returns a label. scikit-learn and torchvision read the labels of their sets together
with the images; only the pixels (`.images`, `.data`) are taken from them. Labels are the business
of scoring/class_labels.py, which no training stage imports.
"""

import gzip
import http.client
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from src_py.images.files import fit_square, read_shorter_side
from src_py.images.folders import read_folder
from src_py.images.image_set import ImageSet
from src_py.images.opening import UnreadableImage
from src_py.images.ranges import Ranges
from src_py.run.errors import UserError

SOURCES = ("digits", "folder", "cifar10", "cifar20", "stl10", "mnist", "fashion_mnist")
SPLITS = ("train", "test", "unlabelled")
IMAGE_SIZES = (16, 32, 64, 96, 128, 224)


def load_images(
    source: str,
    root: Path | None,
    split: str,
    image_size: int,
    channels: int,
    cache_dir: Path | None = None,
    show_progress: bool = False,
    keep_pixels: bool = True,
    ranges: Ranges | None = None,
    classes: Sequence[str] = (),
) -> ImageSet | None:
    """All images of one split, or None where the source has no such split.

    Args:
        root: the folder of images for 'folder', the folder of downloads for the named sets; unused
            for 'digits'.
        image_size: side in px.
        cache_dir: where what was read of a folder is kept for the next stage.
        keep_pixels: False for a folder that is too large to be kept decoded.
        ranges: of a folder's numbers of more than 8 bits; None finds them.
        classes: the only class folders that are read of a folder's split; () for all.

    Raises:
        UserError: for an unknown source, a missing or empty folder, or a failed download.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    if source not in SOURCES:
        raise UserError(f"unknown data source {source!r}: choose one of {', '.join(SOURCES)}")
    if split == "unlabelled" and source != "stl10":
        return None
    if source == "digits":
        return _load_digits(split, image_size, channels)
    root = needed_root(source, root)
    if source == "folder":
        how = (cache_dir, show_progress, keep_pixels, ranges, classes)
        return read_folder(root, split, image_size, channels, *how)
    return _load_named_set(source, root, split, image_size, channels)


def needed_root(source: str, root: Path | None) -> Path:
    """`root`, of a source that is read from there.

    Raises:
        UserError: when there is none.
    """
    if root is None:
        raise UserError(f"the data source {source!r} needs a folder: give one with --data")
    return root


def choose_image_size(paths: Sequence[Path], limit: int) -> int:
    """A side in px that suits these files: the largest standard one that adds little detail.

    That is the largest of IMAGE_SIZES that is at most `limit` and at most 1.25 x the median
    shorter side, over the headers of up to 200 files. Where none is readable it is the limit, and
    reading the files will say why.
    """
    sides: list[int] = []
    for index in np.random.default_rng(0).permutation(len(paths)):
        try:
            sides.append(read_shorter_side(paths[index]))
        except UnreadableImage:
            continue
        if len(sides) == 200:
            break
    if not sides:
        return limit
    ceiling = min(limit, 1.25 * float(np.median(sides)))
    return max((size for size in IMAGE_SIZES if size <= ceiling), default=min(16, limit))


# --- digits and the torchvision sets -------------------------------------------------------------


def digits_rows(split: str) -> np.ndarray:
    """Rows of scikit-learn's digits that make up `split`: 1,437 to train, 360 to test."""
    order = np.random.default_rng(0).permutation(1797)
    return order[:1437] if split == "train" else order[1437:]


def _load_digits(split: str, image_size: int, channels: int) -> ImageSet:
    from sklearn.datasets import load_digits

    grey = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), from 0..16
    rows = grey[digits_rows(split)][..., None]
    # Bilinear: at 8 px bicubic rings visibly around the strokes.
    return _numbered_set(_fit_all(rows, image_size, channels, Image.Resampling.BILINEAR), split)


def _load_named_set(
    source: str, root: Path, split: str, image_size: int, channels: int
) -> ImageSet:
    idx = find_idx(root, split, "images") if "mnist" in source else None
    data = read_idx(idx) if idx else open_torchvision_set(source, root, split).data
    images = np.asarray(data)
    if images.ndim == 3:  # MNIST: (N, H, W)
        images = images[..., None]
    elif images.shape[1] == 3:  # STL-10: (N, 3, H, W)
        images = images.transpose(0, 2, 3, 1)
    return _numbered_set(_fit_all(images, image_size, channels), split)


def open_torchvision_set(source: str, root: Path, split: str) -> Any:
    """The torchvision dataset behind `source`, downloaded into `root` if it is not there.

    Raises:
        UserError: when the files are neither there nor to be had.
    """
    from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)

    import torchvision.datasets as tv  # isort: skip

    dataset_class = {
        "cifar10": tv.CIFAR10,
        "cifar20": tv.CIFAR100,
        "stl10": tv.STL10,
        "mnist": tv.MNIST,
        "fashion_mnist": tv.FashionMNIST,
    }[source]
    if root.name == getattr(dataset_class, "base_folder", None):
        root = root.parent
    which = (
        {"split": "unlabeled" if split == "unlabelled" else split}
        if source == "stl10"
        else {"train": split == "train"}
    )
    try:
        return dataset_class(root, download=True, **which)
    except (OSError, EOFError, RuntimeError, tarfile.TarError, http.client.HTTPException) as error:
        archive = getattr(dataset_class, "url", None) or dataset_class.mirrors[0]
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise UserError(
            f"{source} is not in {root} and cannot be downloaded ({reason}): fetch {archive} on "
            "another machine, unpack it, and give the folder that holds it with --data"
        ) from error


def find_idx(root: Path, split: str, kind: str) -> Path | None:
    """The IDX file of the MNIST family that lies in `root` itself, as Debian packages put it."""
    prefix = "train" if split == "train" else "t10k"
    stem = f"{prefix}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
    return next((p for p in (root / stem, root / f"{stem}.gz") if p.is_file()), None)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not.

    Raises:
        UserError: when it is damaged.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(int)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{path} is not a complete IDX file ({error}): fetch it again") from error


def _fit_all(
    images: np.ndarray,
    size: int,
    channels: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> torch.Tensor:
    """uint8 (N, H, W, C) with any H, W, C as uint8 (N, channels, size, size)."""
    if images.shape[1:] != (size, size, channels):
        mode = "L" if channels == 1 else "RGB"
        fitted = np.empty((len(images), size, size, channels), np.uint8)
        for row, image in enumerate(images):
            pixels = image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image)
            fitted[row] = fit_square(Image.fromarray(pixels).convert(mode), size, resample)
        images = fitted
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _numbered_set(images: torch.Tensor, split: str) -> ImageSet:
    return ImageSet([f"{split}/{row:05d}" for row in range(len(images))], images)
