"""A folder of images: reading each file of a split once.

What was read is kept in a cache, so that a later stage starts at once: names, unreadable files,
facts and statistics, and the decoded pixels where they are wanted.
"""

import functools
import hashlib
import math
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from src_py.images.decoding import Skipped, decode_in_threads, none_readable
from src_py.images.files import read_square_and_header, shrink
from src_py.images.image_set import ImageSet
from src_py.images.kinds import readable_extensions, readable_formats
from src_py.images.names import Names, Paths
from src_py.images.ranges import RangeFinder, Ranges, sort_of, stored_range
from src_py.images.splits import FileStates, file_states, folder_files, joined, listing, text_digest
from src_py.images.statistics import histogram, mean_std_of_histogram
from src_py.run import records
from src_py.run.arrays import load_array
from src_py.run.bars import progress_bar
from src_py.run.cores import available_cores
from src_py.run.errors import UserError
from src_py.run.files import read_record, write_record
from src_py.run.launch import launched_as
from src_py.run.writing import quick_digest, scratch_array, write_array

THUMBNAIL_SIZE = 8  # px
ROWS_AT_ONCE = 16_384
CACHE_VERSION = 3  # raise it when decoding changes, so that older caches are decoded again


class NoReadableImage(UserError):
    """A folder whose image files all cannot be read.

    Attributes:
        skipped: all of them, with the reasons.
    """

    def __init__(self, root: Path, skipped: Skipped) -> None:
        super().__init__(none_readable(str(root), skipped))
        self.skipped = skipped


def facts_type(channels: int) -> np.dtype:
    """What is noted of each readable file of a folder while it is decoded.

    width and height in px and Pillow's mode, as stored; the square's thumbnail, by which images
    that look alike are found; the SHA-256 of the square's pixels, by which an exchanged one is.
    """
    thumbnail = (THUMBNAIL_SIZE, THUMBNAIL_SIZE, channels)
    return np.dtype(
        [
            ("width", "u4"),
            ("height", "u4"),
            ("mode", "U8"),
            ("thumbnail", "u1", thumbnail),
            ("pixels", "u1", (32,)),
        ]
    )


# --- reading --------------------------------------------------------------------------------


def read_folder(
    root: Path,
    split: str,
    image_size: int,
    channels: int,
    cache_dir: Path | None = None,
    show_progress: bool = False,
    keep_pixels: bool = True,
    ranges: Ranges | None = None,
    classes: Sequence[str] = (),
) -> ImageSet | None:
    """Every image of one split, read once, or None where the folder has no such split.

    Args:
        image_size: side in px that the images are fitted to.
        cache_dir: where what was read is kept.
        keep_pixels: False for a folder that is too large to be kept decoded.
        ranges: of numbers of more than 8 bits, as they were found before; None finds them.
        classes: see `splits.folder_files`.

    Raises:
        UserError: for a missing folder, one without a readable image, or too little memory.
    """
    paths = folder_files(root, split, classes)
    if paths is None:
        return None
    states = file_states(root, paths)
    paths = Paths(root, states.names)
    key, told = _cache_key(states, image_size, channels), listing(states)
    del states
    shape = (channels, image_size, image_size)
    found = _load_cache(cache_dir, split, key, shape, keep_pixels) if cache_dir else None
    if found is None or not (ranges is None or _are_equal(ranges, found.ranges)):
        before = [] if cache_dir is None or ranges is None else _names_before(cache_dir, split)
        found = _read_files(paths, shape, show_progress, keep_pixels, ranges, cache_dir)
        if before:
            reasons, read = dict(found.skipped), set(found.names)
            found.lost = [(name, reasons.get(name, "gone")) for name in before if name not in read]
        if cache_dir is not None:
            _save_cache(cache_dir, split, key, found)
    found.key, found.listing = key, told
    return found


def _read_files(
    paths: Paths,
    shape: tuple[int, int, int],
    show: bool,
    keep_pixels: bool,
    ranges: Ranges | None,
    scratch: Path | None,
) -> ImageSet:
    """Reads on all cores; unreadable files are listed and take no row."""
    root, names = paths.root, paths.names
    channels, size, _ = shape
    images = _room_for(len(paths), shape) if keep_pixels else None
    facts = scratch_array((len(paths),), scratch, facts_type(channels))
    finder = RangeFinder()
    choose = finder if ranges is None else stored_range(ranges)
    nothing = torch.zeros(channels, 256, dtype=torch.int64)
    counts = nothing.clone()
    unreadable: dict[int, str] = {}
    deep: list[int] = []

    def read(row: int) -> torch.Tensor:
        """Fills one row and counts its pixels by value, unless their range is still to be found."""
        square, header = read_square_and_header(paths[row], size, channels, choose)
        told = np.frombuffer(pixel_digest(square), np.uint8)
        facts[row] = (*header, shrink(square, THUMBNAIL_SIZE), told)
        pixels = square.transpose(2, 0, 1)
        if images is not None:
            images[row] = pixels
        if choose is finder and sort_of(header.mode):
            deep.append(row)
            return nothing
        return histogram(torch.from_numpy(np.ascontiguousarray(pixels))[None])

    def read_rows(rows: Sequence[int], description: str) -> None:
        # Other processes of this machine wait for the first one, and then have what it has read.
        reading = decode_in_threads(read, rows, launched_as().local_size * available_cores())
        progress = progress_bar(description, len(rows), reading, hidden=not show)
        for row, result in zip(rows, progress, strict=True):
            if isinstance(result, str):
                unreadable[row] = result
            else:
                counts.add_(result)

    read_rows(range(len(paths)), "reading")
    if ranges is None:
        ranges = finder.common()
        choose = stored_range(ranges)
        read_rows(sorted(deep), "by common range")  # each was seen by its own so far
    skipped = [(names[row], unreadable[row]) for row in sorted(unreadable)]
    if not paths:
        kinds = " ".join(sorted(readable_formats())).lower()
        raise UserError(f"no image in {root}: give a folder with {kinds}")
    if len(skipped) == len(paths):
        raise NoReadableImage(root, skipped)
    if unreadable:
        kept = np.delete(np.arange(len(paths)), list(unreadable))
        names = names.take(kept)
        for array in (facts, images):
            if array is not None:
                for row, source in enumerate(kept):  # in place: a copy may not fit
                    array[row] = array[source]
    mean, std = mean_std_of_histogram(counts)
    return ImageSet(
        names,
        None if images is None else torch.from_numpy(images[: len(names)]),
        skipped,
        mean,
        std,
        facts[: len(names)],
        ranges,
        finder.dark(),
    )


def _room_for(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        return np.empty((count, *shape), np.uint8)
    except MemoryError:
        raise UserError(
            f"{count} images of {shape[-1]} px need {count * math.prod(shape) / 2**30:.0f} GiB of "
            "memory: choose a smaller image size or fewer images"
        ) from None


# --- the cache -----------------------------------------------------------------------------------


def _cache_key(states: FileStates, image_size: int, channels: int) -> str:
    """Changes when a file is added, removed, renamed or edited, or when decoding would differ."""
    settings = (CACHE_VERSION, image_size, channels, sorted(readable_extensions()))
    # The text of (settings, [(name, size, modified), ...]), as it has always been.
    return text_digest(chain([f"({settings!r}, ["], joined(", ", map(repr, states)), ["])"]))


def _cache_files(cache_dir: Path, split: str) -> tuple[Path, Path, Path, Path]:
    """The pixels, the facts, the names, and the index that vouches for them."""
    pixels, facts, names = (f"images-{split}{part}.npy" for part in ("", "-facts", "-names"))
    return (
        cache_dir / pixels,
        cache_dir / facts,
        cache_dir / names,
        cache_dir / f"images-{split}.json",
    )


def _load_cache(
    cache_dir: Path, split: str, key: str, shape: tuple[int, int, int], keep_pixels: bool
) -> ImageSet | None:
    """What was cached, if it is whole and was made under `key`. Pages load when they are used."""
    array_file, facts_file, names_file, index_file = _cache_files(cache_dir, split)
    try:
        index = read_record(index_file, records.CACHE, "it is made again")
        if index is None or index["key"] != key:
            return None
        names = _stored_names(names_file, index["names"])
        skipped = [(path, reason) for path, reason in index["skipped"]]
        # Copy-on-write: nothing that a caller does to the tensor reaches the file.
        images = load_array(array_file, mapped="c") if keep_pixels else None
        facts = load_array(facts_file, mapped="r")
        for array, told in ((facts, index["facts"]), (images, index["pixels"])):
            if array is not None and quick_digest(array) != told:
                raise UserError(f"{index_file.with_suffix('.npy')} is damaged")
        mean, std = tuple(index["mean"]), tuple(index["std"])
        others = {name: index[name] for name in ("ranges", "dark")}
        others["lost"] = [(path, reason) for path, reason in index["lost"]]
    except FileNotFoundError:  # of a start that did not keep pixels
        return None
    except (UserError, OSError) as error:
        print(f"images: {error}; they are decoded again", flush=True)
        return None
    if facts.shape != (len(names),) or facts.dtype != facts_type(shape[0]):
        return None
    if images is None:
        return ImageSet(names, None, skipped, mean, std, facts, **others)
    if images.dtype != np.uint8 or images.shape != (len(names), *shape):
        return None
    return ImageSet(names, torch.from_numpy(images), skipped, mean, std, facts, **others)


def _stored_names(file: Path, told: str | list[str]) -> Names:
    """
    Args:
        told: what the index says of them: a digest; in runs of before, the names themselves.

    Raises:
        UserError: when the file is damaged.
    """
    if isinstance(told, list):
        return Names.of(told)
    text = load_array(file)
    if quick_digest(text) != told:
        raise UserError(f"{file} is damaged")
    return Names(text)


def _names_before(cache_dir: Path, split: str) -> list[str]:
    """The images that were read when the cache was made, and those that were lost by then."""
    *_, names_file, index_file = _cache_files(cache_dir, split)
    try:
        index = read_record(index_file, records.CACHE, "it is made again")
        names = [] if index is None else _stored_names(names_file, index["names"])
    except (UserError, OSError):
        return []
    return [*names, *(name for name, _ in (index or {"lost": []})["lost"])]


def _are_equal(ranges: Ranges, others: Ranges) -> bool:
    """Also where one of them has been JSON before."""
    return records.digest(ranges) == records.digest(others)


def pixel_digest(square: np.ndarray) -> bytes:
    """SHA-256 of a decoded image, (S, S, C) uint8: the same for the same picture in other files."""
    return hashlib.sha256(square.tobytes()).digest()


def pixels_digest(names: Sequence[str], digests: np.ndarray) -> str:
    """Of all images of a split together: (N,) names and (N, 32) uint8 of `pixel_digest`."""
    pixels = hashlib.sha256()
    for start in range(0, len(digests), ROWS_AT_ONCE):
        pixels.update(digests[start : start + ROWS_AT_ONCE].tobytes())
    return records.digest([records.digest_of_texts(names), pixels.hexdigest()])


def cached_digests(cache_dir: Path, split: str) -> np.ndarray:
    """(N, 32) uint8, the `pixel_digest` of each image that was kept; N = 0 where none was.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        facts = load_array(_cache_files(cache_dir, split)[1], mapped="r")
    except FileNotFoundError:
        return np.empty((0, 32), np.uint8)
    return facts["pixels"] if "pixels" in (facts.dtype.names or ()) else np.empty((0, 32), np.uint8)


def _save_cache(cache_dir: Path, split: str, key: str, found: ImageSet) -> None:
    """Writes the arrays, then the index that vouches for them. Warns when that is impossible."""
    array_file, facts_file, names_file, index_file = _cache_files(cache_dir, split)
    assert found.facts is not None, "reading a folder notes them"
    kept = ("skipped", "mean", "std", "ranges", "dark", "lost")
    index = {name: getattr(found, name) for name in kept}
    names = Names.of(found.names)
    index["names"] = quick_digest(names.text)
    index["facts"] = quick_digest(found.facts)
    index["pixels"] = "" if found.images is None else quick_digest(found.images.numpy())
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        index_file.unlink(missing_ok=True)  # no index may ever stand beside another array
        array_file.unlink(missing_ok=True)
        if found.images is not None:
            write_array(array_file, found.images.numpy())
        write_array(facts_file, found.facts)
        write_array(names_file, names.text)
        write_record(index_file, {"key": key, **index})
    except OSError as error:
        _warn_once(f"cannot cache images in {cache_dir} ({error.strerror or error})")


@functools.cache
def _warn_once(message: str) -> None:
    print(f"warning: {message}: every stage will decode them again", file=sys.stderr)
