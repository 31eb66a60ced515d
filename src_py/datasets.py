"""Where images come from: a folder, or a set by name. Always pixels, never labels.

Nothing here returns or looks at a label. scikit-learn and torchvision read the labels of their
sets together with the images; only the pixels (`.images`, `.data`) are taken from them. Labels
are the business of labels.py, which evaluate.py alone imports.
"""

import functools
import gzip
import hashlib
import http.client
import json
import math
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from src_py.errors import UserError
from src_py.hardware import available_cores
from src_py.image_files import (
    IMAGE_EXTENSIONS,
    UnreadableImage,
    find_files,
    fit_square,
    read_shorter_side,
    read_square_and_header,
    readable_extensions,
    shrink,
    walk_files,
)
from src_py.run_files import write_array, write_json

SOURCES = ("digits", "folder", "cifar10", "cifar20", "stl10", "mnist", "fashion_mnist")
SPLITS = ("train", "test", "unlabelled")
TEST_FOLDERS = ("test", "val", "valid")
IMAGE_SIZES = (16, 32, 64, 96, 128, 224)
THUMBNAIL_SIZE = 8  # px
CACHE_VERSION = 1  # raise it when decoding changes, so that older caches are decoded again


@dataclass(frozen=True)
class DataSettings:
    """What every later stage must know about the images of a run."""

    source: str  # one of SOURCES
    root: str | None  # folder that the images, or the downloads, are in
    image_size: int  # side in px
    channels: int  # 1 or 3
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]  # per channel, of pixels in [0, 1]


@dataclass
class ImageSet:
    """The images of one split, and which is which."""

    images: torch.Tensor  # (N, C, S, S) uint8
    names: list[str]  # one per row: path relative to the root, or 'train/00012'
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (path, reason), unreadable
    facts: np.ndarray | None = None  # (N,) of facts_type: what a folder's files were


def facts_type(channels: int) -> np.dtype:
    """What is noted of each readable file of a folder while it is decoded.

    width and height in px and Pillow's mode, as stored; the square's thumbnail, by which images
    that look alike are found.
    """
    thumbnail = (THUMBNAIL_SIZE, THUMBNAIL_SIZE, channels)
    return np.dtype(
        [("width", "u4"), ("height", "u4"), ("mode", "U8"), ("thumbnail", "u1", thumbnail)]
    )


def load_images(
    source: str,
    root: Path | None,
    split: str,
    image_size: int,
    channels: int,
    cache_dir: Path | None = None,
    show_progress: bool = False,
) -> ImageSet | None:
    """All images of one split, or None where the source has no such split.

    `root` is the folder of images for 'folder', the folder of downloads for the named sets, and
    unused for 'digits'. `cache_dir` keeps the decoded images of a folder for the next stage.
    Raises UserError for an unknown source, a missing or empty folder, or a failed download.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    if source not in SOURCES:
        raise UserError(f"unknown data source {source!r}: choose one of {', '.join(SOURCES)}")
    if split == "unlabelled" and source != "stl10":
        return None
    if source == "digits":
        return _load_digits(split, image_size, channels)
    if root is None:
        raise UserError(f"the data source {source!r} needs a folder: give one with --data")
    if source == "folder":
        return _load_folder(Path(root), split, image_size, channels, cache_dir, show_progress)
    return _load_named_set(source, Path(root), split, image_size, channels)


def measure_mean_std(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the scale [0, 1], of uint8 (N, C, H, W).

    Exact in float64, through a histogram of each channel: no float copy of the images is made.
    A constant channel gets a deviation of 1e-3, which is safe to divide by.
    Raises ValueError when there are no pixels.
    """
    if images.numel() == 0:
        raise ValueError(f"cannot measure images of shape {tuple(images.shape)}: no pixels")
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in images.split(1024):
        counts += _histogram(chunk)
    return _mean_std_of_histogram(counts)


def _histogram(images: torch.Tensor) -> torch.Tensor:
    """Pixels of each value, by channel: (N, C, H, W) uint8 -> (C, 256) int64."""
    channels = images.unbind(1)
    return torch.stack([torch.bincount(pixels.flatten(), minlength=256) for pixels in channels])


def _mean_std_of_histogram(counts: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]).square()).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1e-3).tolist())


def choose_image_size(paths: list[Path], limit: int) -> int:
    """A side in px that suits these files: the largest standard one that adds little detail.

    That is the largest of IMAGE_SIZES that is at most `limit` and at most 1.25 x the median
    shorter side, over the headers of up to 200 files. Raises UserError if no header is readable.
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
        raise UserError(f"none of the {len(paths)} image files can be read: check them")
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

    Raises UserError when the files are neither there nor to be had.
    """
    from src_py import torchvision_compat  # noqa: F401  (must precede torchvision)

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
    """The uint8 array in an IDX file, gzipped or not. Raises UserError when it is damaged."""
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
    return ImageSet(images, [f"{split}/{row:05d}" for row in range(len(images))])


# --- folders -------------------------------------------------------------------------------------


def require_folder(root: Path) -> None:
    """Raises UserError unless `root` is a folder."""
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {problem}: give a folder of images with --data")


def split_folder(root: Path, split: str) -> Path | None:
    """Where a folder keeps `split`: `root` itself when it is not divided, None when nowhere.

    `root` is divided if images lie in root/train, and also in root/test, val or valid, or nowhere
    else: a lone `train` beside `car` and `boat` is a kind of vehicle.
    """
    train = root / "train"
    test = next((root / name for name in TEST_FOLDERS if _holds_images(root / name)), None)
    divided = _holds_images(train) and (
        test is not None
        or all(path.is_relative_to(train) for path in walk_files(root, readable_extensions()))
    )
    if split == "train":
        return train if divided else root
    return test if divided and split == "test" else None


def _holds_images(folder: Path) -> bool:
    return any(True for _ in walk_files(folder, readable_extensions()))


def _load_folder(
    root: Path,
    split: str,
    image_size: int,
    channels: int,
    cache_dir: Path | None,
    show_progress: bool,
) -> ImageSet | None:
    paths = folder_files(root, split)
    if paths is None:
        return None
    key = _cache_key(root, paths, image_size, channels)
    cached = _load_cache(cache_dir, split, key, channels, image_size) if cache_dir else None
    if cached is not None:
        return cached
    decoded = _decode_folder(root, paths, image_size, channels, show_progress)
    _require_readable(root, paths, decoded.names, decoded.skipped)
    if cache_dir is not None:
        _save_cache(cache_dir, split, key, decoded)
    return decoded


def folder_files(root: Path, split: str) -> list[Path] | None:
    """All image files of one split, or None where the folder has no such split.

    All kinds, readable here or not: a HEIC file that needs another package shall be reported.
    Raises UserError when `root` is not a folder.
    """
    require_folder(root)
    folder = split_folder(root, split)
    return None if folder is None else find_files(folder, IMAGE_EXTENSIONS)


def _require_readable(
    root: Path, paths: list[Path], names: list[str], skipped: list[tuple[str, str]]
) -> None:
    if not names:
        found = f"{len(paths)} found, the first: {skipped[0]}" if paths else "none found"
        kinds = " ".join(sorted(extension[1:] for extension in readable_extensions()))
        raise UserError(f"no readable image in {root} ({found}): give a folder with {kinds}")


def _decode_folder(
    root: Path, paths: list[Path], image_size: int, channels: int, show_progress: bool
) -> ImageSet:
    """Decode `paths` on all cores; unreadable ones are listed and take no row."""
    shape = (len(paths), channels, image_size, image_size)
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError:
        raise UserError(
            f"{len(paths)} images of {image_size} px need {math.prod(shape) / 2**30:.0f} GiB of "
            "memory: choose a smaller image size or fewer images"
        ) from None

    facts = np.zeros(len(paths), facts_type(channels))

    def decode(row: int) -> str | None:
        """Fill one row; the reason if that is impossible."""
        try:
            square, header = read_square_and_header(paths[row], image_size, channels)
        except UnreadableImage as error:
            return str(error)
        images[row] = square.transpose(2, 0, 1)
        facts[row] = (*header, shrink(square, THUMBNAIL_SIZE))
        return None

    decoding = _map_in_threads(decode, len(paths))
    reasons = list(_with_progress(decoding, len(paths), "decoding", show_progress))
    names = [path.relative_to(root).as_posix() for path in paths]
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    for row, source in enumerate(kept):  # close the gaps in place: a copy may not fit in memory
        if row != source:
            images[row] = images[source]
    return ImageSet(
        torch.from_numpy(images[: len(kept)]),
        [names[row] for row in kept],
        [(names[row], reason) for row, reason in enumerate(reasons) if reason is not None],
        facts[kept],
    )


def _with_progress(items: Iterable[Any], total: int, what: str, show: bool) -> Iterable[Any]:
    quiet = not (show and sys.stderr.isatty())
    return tqdm(items, total=total, desc=what, unit="image", disable=quiet)


def _map_in_threads(function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """function(0), ..., function(count - 1), in order, from one thread per available core.

    Pillow decodes without the GIL. Chunks make tiny images (32 px) a fifth faster.
    """
    workers = available_cores()
    size = min(32, 1 + count // (8 * workers))
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    pool = ThreadPoolExecutor(workers)
    try:
        for results in pool.map(lambda chunk: [function(index) for index in chunk], chunks):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C shall not wait for a million images


# --- folders that are too large to keep decoded -------------------------------------------------


@dataclass(frozen=True)
class FolderIndex:
    """The readable images of one split of a folder, without their pixels."""

    names: list[str]  # path relative to the root
    skipped: list[tuple[str, str]]  # (path, reason), unreadable
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    facts: np.ndarray = field(compare=False)  # (N,) of facts_type


def index_folder(
    root: Path,
    split: str,
    image_size: int,
    channels: int,
    cache_dir: Path | None = None,
    show_progress: bool = False,
) -> FolderIndex | None:
    """Reads every image once and keeps which are readable, their facts, and their mean and std.

    The arguments, None and the errors are those of `load_images`; `cache_dir` keeps the result.
    """
    paths = folder_files(root, split)
    if paths is None:
        return None
    key = _cache_key(root, paths, image_size, channels)
    cached = _load_index(cache_dir, split, key, channels) if cache_dir else None
    if cached is not None:
        return cached
    facts = np.zeros(len(paths), facts_type(channels))

    def measure(row: int) -> torch.Tensor | str:
        try:
            square, header = read_square_and_header(paths[row], image_size, channels)
        except UnreadableImage as error:
            return str(error)
        facts[row] = (*header, shrink(square, THUMBNAIL_SIZE))
        return _histogram(torch.from_numpy(square).permute(2, 0, 1)[None])

    names, skipped, kept = [], [], []
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    reading = _map_in_threads(measure, len(paths))
    measured = _with_progress(reading, len(paths), "reading", show_progress)
    for row, result in enumerate(measured):
        name = paths[row].relative_to(root).as_posix()
        if isinstance(result, str):
            skipped.append((name, result))
        else:
            names.append(name)
            kept.append(row)
            counts += result
    _require_readable(root, paths, names, skipped)
    index = FolderIndex(names, skipped, *_mean_std_of_histogram(counts), facts[kept])
    if cache_dir is not None:
        _save_index(cache_dir, split, key, index)
    return index


def _index_files(cache_dir: Path, split: str) -> tuple[Path, Path]:
    return cache_dir / f"index-{split}-facts.npy", cache_dir / f"index-{split}.json"


def _load_index(cache_dir: Path, split: str, key: str, channels: int) -> FolderIndex | None:
    facts_file, index_file = _index_files(cache_dir, split)
    try:
        stored = json.loads(index_file.read_text())
        if stored["key"] != key:
            return None
        facts = _load_facts(facts_file, len(stored["names"]), channels)
        skipped = [(name, reason) for name, reason in stored["skipped"]]
        mean, std = tuple(stored["mean"]), tuple(stored["std"])
        return FolderIndex(stored["names"], skipped, mean, std, facts)
    except (OSError, ValueError, KeyError, TypeError, EOFError):  # none yet, or damaged
        return None


def _save_index(cache_dir: Path, split: str, key: str, index: FolderIndex) -> None:
    facts_file, index_file = _index_files(cache_dir, split)
    stored = {name: getattr(index, name) for name in ("names", "skipped", "mean", "std")}
    try:
        index_file.unlink(missing_ok=True)  # see _save_cache
        write_array(facts_file, index.facts)
        write_json(index_file, {"key": key, **stored})
    except OSError as error:
        _warn_once(f"cannot write {index_file} ({error.strerror or error})")


def _load_facts(path: Path, rows: int, channels: int) -> np.ndarray:
    """Raises OSError, EOFError or ValueError unless they are there, whole, and for `rows` files."""
    facts = np.load(path)
    if facts.shape != (rows,) or facts.dtype != facts_type(channels):
        raise ValueError(f"{path} is of another set of images")
    return facts


# --- the cache of decoded folders ----------------------------------------------------------------


def _cache_key(root: Path, paths: list[Path], image_size: int, channels: int) -> str:
    """Changes when a file is added, removed, renamed or edited, or when decoding would differ."""
    settings = (CACHE_VERSION, image_size, channels, sorted(readable_extensions()))
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        try:
            status = path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # removed since it was found; decoding will say so
            state = None
        digest.update(repr((path.relative_to(root).as_posix(), state)).encode())
    return digest.hexdigest()


def _cache_files(cache_dir: Path, split: str) -> tuple[Path, Path, Path]:
    names = (f"images-{split}.npy", f"images-{split}-facts.npy", f"images-{split}.json")
    return tuple(cache_dir / name for name in names)


def _load_cache(
    cache_dir: Path, split: str, key: str, channels: int, image_size: int
) -> ImageSet | None:
    """The cached set if it is whole and was made under `key`. Pages load when they are used."""
    array_file, facts_file, index_file = _cache_files(cache_dir, split)
    try:
        index = json.loads(index_file.read_text())
        if index["key"] != key:
            return None
        # Copy-on-write: nothing that a caller does to the tensor reaches the file.
        images = np.load(array_file, mmap_mode="c")
        names, skipped = index["names"], [(path, reason) for path, reason in index["skipped"]]
        facts = _load_facts(facts_file, len(names), channels)
    except (OSError, ValueError, KeyError, TypeError, EOFError):  # none yet, or damaged
        return None
    if images.dtype != np.uint8 or images.shape != (len(names), channels, image_size, image_size):
        return None
    return ImageSet(torch.from_numpy(images), names, skipped, facts)


def _save_cache(cache_dir: Path, split: str, key: str, decoded: ImageSet) -> None:
    """Write the arrays, then the index that vouches for them. Warns when that is impossible."""
    array_file, facts_file, index_file = _cache_files(cache_dir, split)
    index = {"key": key, "names": decoded.names, "skipped": decoded.skipped}
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        index_file.unlink(missing_ok=True)  # no index may ever stand beside another array
        write_array(array_file, decoded.images.numpy())
        write_array(facts_file, decoded.facts)
        write_json(index_file, index)
    except OSError as error:
        _warn_once(f"cannot cache images in {cache_dir} ({error.strerror or error})")


@functools.cache
def _warn_once(message: str) -> None:
    print(f"warning: {message}: every stage will decode them again", file=sys.stderr)
