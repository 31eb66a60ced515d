"""The images of a run: settled by the first stage, opened again by all others."""

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.config_simclr import SimCLRConfig
from configs.presets import LARGEST_SIDE_ON_CPU, Preset
from src_py.datasets import choose_image_size, load_images, needed_root
from src_py.images.decoding import Skipped
from src_py.images.disk_space import bytes_written, require_disk_space
from src_py.images.finding import holds_image_files
from src_py.images.folders import NoReadableImage, pixels_digest
from src_py.images.image_set import DataSettings, ImageSet
from src_py.images.loaders import (
    ImageLoader,
    Loading,
    ResidentImages,
    StreamedImages,
    choose_loading,
)
from src_py.images.names import Names, Paths
from src_py.images.report import (
    Duplicate,
    count_left_out,
    describe_files,
    describe_ranges,
    find_duplicates,
)
from src_py.images.seen import read_rows
from src_py.images.splits import (
    describe_classes,
    folder_files,
    joined,
    split_folder,
    text_digest,
    what_is_left_out,
)
from src_py.images.statistics import measure_mean_std
from src_py.run import records
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import DOWNLOAD_FOLDER, RunFiles
from src_py.run.hardware import Hardware
from src_py.run.stages import PRETEXTS

FEWEST_IMAGES = 32
LARGEST_SIDE = 224  # px


@dataclass
class OpenedImages:
    """One split, ready for training or scoring.

    Attributes:
        loader: batches of uint8 images on the device.
        read: what is known of them beside their pixels.
    """

    loader: ImageLoader
    read: ImageSet

    @property
    def names(self) -> Sequence[str]:
        """One per row."""
        return self.read.names


def settle_images(
    config: SimCLRConfig, preset: Preset, hardware: Hardware
) -> tuple[DataSettings, ImageLoader, OpenedImages]:
    """Decides how the images are seen, and opens the training split.

    Returns:
        the settings, what the pretext trains on, and the training split, which is a part of that.

    Raises:
        UserError: when there are fewer than 32 readable images, or no room for what the run writes.
    """
    source, root = _source(config, preset)
    paths = _image_files(needed_root(source, root), preset) if source == "folder" else []
    channels, count = config.channels or preset.channels, len(paths)
    size = config.image_size or preset.image_size or _size_of_files(paths, hardware)
    del paths  # they are many
    # Other sources are not copied into ckp/, and their features are small beside the checkpoints.
    set_bytes = count * channels * size * size
    mode, _ = choose_loading(config.loading, set_bytes, hardware.device)
    cached_bytes = set_bytes if mode == "resident" else 0
    written = bytes_written(count, config.width_of_network, config.backbone)
    require_disk_space(config.files, cached_bytes + written)
    place = (source, None if root is None else str(root))
    draft = DataSettings(*place, size, channels, (), (), classes=preset.classes)
    try:
        opened = open_train(config.files, draft, hardware, config.loading)
    except NoReadableImage as error:
        write_table(config.files.skipped, ("path", "reason"), error.skipped)
        raise UserError(f"{error}; all are listed in {config.files.skipped}") from None
    if len(opened.names) < FEWEST_IMAGES:
        raise UserError(
            f"{root}: {len(opened.names)} readable images, at least {FEWEST_IMAGES} are needed"
        )
    mean, std = _statistics(preset, channels, opened.read)
    settings = replace(draft, mean=mean, std=std, ranges=opened.read.ranges)
    loader = opened.loader
    if config.use_unlabelled and source != preset.source:
        print("images: of a folder, no unlabelled part is known; its training images are used")
    elif config.use_unlabelled:
        loader = _with_unlabelled(config.files, settings, loader, hardware)
    if hardware.world.is_first:
        _report(config.files, settings, opened)
    return settings, loader, opened


def settled(config: SimCLRConfig, settings: DataSettings, opened: OpenedImages) -> dict[str, Any]:
    """What the run remembers for its later stages, in data.json, once its first one has begun."""
    names = ("preset", "recipe", "minutes", "precision")
    remembered = {name: getattr(config, name) for name in names}
    return remembered | {"settings": asdict(settings), "images": image_state(opened)}


def image_state(opened: OpenedImages) -> dict[str, Any]:
    """Which images these are, as a record keeps it; see records.IMAGES."""
    read = opened.read
    pixels = "" if read.facts is None else pixels_digest(read.names, read.facts["pixels"])
    return {
        "count": len(read.names),
        "key": read.key or records.digest_of_texts(read.names),
        "pixels": pixels,
        "listing": read.listing or records.digest_of_texts(read.names),
    }


def load_settings(files: RunFiles, folder: Path | None = None) -> DataSettings:
    """The data settings of a run.

    Args:
        folder: where its images are now; None where the run says.

    Raises:
        UserError: naming the first stage when the run has not been begun.
    """
    files.require(files.data, PRETEXTS[0])
    told = (files.settled() or {})["settings"]
    if folder is not None and told["root"] is not None:
        told |= {"root": str(folder)}
    return DataSettings(**{name: _frozen(value) for name, value in told.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def open_train(
    files: RunFiles, settings: DataSettings, hardware: Hardware, loading: Loading = "auto"
) -> OpenedImages:
    """The images that a run trains on."""
    opened = open_split(files, settings, "train", hardware, loading)
    assert opened is not None, "every source has images to train on"
    return opened


def open_mined(
    files: RunFiles, settings: DataSettings, hardware: Hardware, loading: Loading = "auto"
) -> OpenedImages:
    """The images that a run trains on, row by row those of neighbors.npy.

    Raises:
        UserError: when they have changed since it was made.
    """
    opened = open_train(files, settings, hardware, loading)
    require_mined(files, opened)
    return opened


def open_split(
    files: RunFiles,
    settings: DataSettings,
    split: str,
    hardware: Hardware,
    loading: Loading = "auto",
) -> OpenedImages | None:
    """The images of one split of a run, or None where the source has no such split.

    Args:
        loading: 'resident', 'streamed', or 'auto': by the size of the decoded set.
    """
    root = None if settings.root is None else Path(settings.root)
    size, channels = settings.image_size, settings.channels
    mode = "resident"
    if settings.source == "folder" and root is not None:
        paths = folder_files(root, split, settings.classes)
        if paths is None:
            return None
        set_bytes = len(paths) * channels * size * size
        del paths  # they are many
        mode, reason = choose_loading(loading, set_bytes, hardware.device)
        print(f"images: {split} split {mode} ({reason})", flush=True)
    shape = (size, channels)
    with hardware.world.one_after_the_first():  # which decodes, or downloads, and keeps it
        found = load_images(
            settings.source,
            root,
            split,
            *shape,
            cache_dir=files.checkpoints,
            show_progress=True,
            keep_pixels=mode == "resident",
            ranges=settings.ranges,
            classes=settings.classes,
        )
    _require_same_for_all(found, split, hardware)
    if found is None:
        return None
    if hardware.world.is_first:
        lost = dict(found.lost)
        _tell_missing(files, lost, f"of the {split} split that were read before cannot be any more")
        if split != "train":  # whose the first stage has told
            unread = {name: reason for name, reason in found.skipped if name not in lost}
            _tell_missing(files, unread, f"of the {split} split cannot be read")
    if found.images is not None:
        resident = ResidentImages(found.images, hardware.device, hardware.world)
        return OpenedImages(resident, found)
    assert root is not None, "only a folder is streamed"
    paths = Paths(root, Names.of(found.names))
    streamed = StreamedImages(paths, *shape, hardware.device, found.ranges, hardware.world)
    return OpenedImages(streamed, found)


def _require_same_for_all(found: ImageSet | None, split: str, hardware: Hardware) -> None:
    """
    Raises:
        UserError: when the processes do not see the same images.
    """
    if hardware.world.size > 1:
        seen = None if found is None else text_digest(joined("\n", found.names))
        if len(set(hardware.world.gathered([seen]))) > 1:
            raise UserError(
                f"the processes do not see the same images in the {split} split: all of them need "
                f"one folder, and nothing may be added to it while they read"
            )


def require_enough_images(images: int, clusters: int) -> None:
    """
    Raises:
        UserError: when there are fewer than two images for each cluster.
    """
    if images < 2 * clusters:
        raise UserError(
            f"--clusters {clusters}: needs at least {2 * clusters} images, there are {images}: "
            "ask for fewer clusters"
        )


def require_mined(files: RunFiles, opened: OpenedImages) -> None:
    """
    Raises:
        UserError: when the images are not those that neighbors.npy was made from.
    """
    mined, names = read_rows(files), opened.names
    then = (files.record("extract_features") or {}).get("images", {})
    now = image_state(opened)
    if mined == names and (then.get("key") == now["key"] or then.get("pixels") == now["pixels"]):
        return  # a folder that was copied has other times, and so another key
    how = f"{len(mined)} then, {len(names)} now"
    if mined == names:
        how = "files of the same names, other pixels"
    raise UserError(
        f"run '{files.run}': the images have changed since {files.neighbors} was made ({how}); "
        f"run again: python extract_features.py {files.option}"
    )


def _source(config: SimCLRConfig, preset: Preset) -> tuple[str, Path | None]:
    """A folder of image files is read as one, whatever the preset: it then tells only the
    options. A folder that holds the preset's own format, or shards, stays with the preset."""
    if config.data is None:
        if preset.source == "folder":
            raise UserError(f"--preset {config.preset} needs the folder: add --data DIR")
        return preset.source, None if preset.source == "digits" else DOWNLOAD_FOLDER.resolve()
    if preset.source == "folder" or not config.data.is_dir() or holds_image_files(config.data):
        return "folder", config.data
    return preset.source, config.data


def _image_files(root: Path, preset: Preset) -> Sequence[Path]:
    paths = folder_files(root, "train", preset.classes)
    if not paths and preset.classes:
        raise UserError(
            f"no image of the preset's {len(preset.classes)} classes in {root}: give a folder with "
            f"train/{preset.classes[0]}/ and the others with --data"
        )
    if not paths:
        raise UserError(f"no image file in {root}: give a folder of images with --data")
    return paths


def _size_of_files(paths: Sequence[Path], hardware: Hardware) -> int:
    on_cpu = hardware.device.type == "cpu"
    size = choose_image_size(paths, LARGEST_SIDE_ON_CPU if on_cpu else LARGEST_SIDE)
    print(f"images: {size} px, chosen from the files (--image-size sets it)")
    return size


def _with_unlabelled(
    files: RunFiles, settings: DataSettings, train: ImageLoader, hardware: Hardware
) -> ResidentImages:
    """The training images and the set's unlabelled ones, for the pretext alone."""
    extra = open_split(files, settings, "unlabelled", hardware)
    if extra is None:
        raise UserError(f"--use-unlabelled: '{settings.source}' has no unlabelled part")
    both = [loader.images for loader in (train, extra.loader) if isinstance(loader, ResidentImages)]
    return ResidentImages(torch.cat(both), hardware.device, hardware.world)


def _statistics(
    preset: Preset, channels: int, read: ImageSet
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: the preset's where it has them, or as measured."""
    if preset.mean is not None and preset.std is not None and len(preset.mean) == channels:
        return preset.mean, preset.std
    if read.mean is not None and read.std is not None:
        return read.mean, read.std
    assert read.images is not None, "pixels that were not kept were measured while they were read"
    return measure_mean_std(read.images)


def _report(files: RunFiles, settings: DataSettings, opened: OpenedImages) -> None:
    size = settings.image_size
    colour = "colour" if settings.channels == 3 else "grey"
    print(f"images: {len(opened.names)} of {size} x {size} px, {colour}")
    if opened.read.facts is not None and settings.root is not None:
        _report_files(files, Path(settings.root), opened.read, opened.read.facts)
        for line in describe_classes(Path(settings.root), settings.classes):
            print(f"images: {line}")
    sys.stdout.flush()


def _report_files(files: RunFiles, root: Path, read: ImageSet, facts: np.ndarray) -> None:
    """What was found in a folder. Both tables are written even when empty: an earlier start may
    have left others."""
    train, test = split_folder(root, "train"), split_folder(root, "test")
    if train is not None and train != root:
        scored = "" if test is None else f", {test.name}/ is kept for scores"
        print(f"images: divided: trained on {train.name}/{scored}")
    for line in describe_files(facts):
        print(f"images: as found: {line}")
    for line in describe_ranges(read.ranges, read.dark):
        print(f"images: {line}")
    duplicates = find_duplicates(root, read.names, facts)
    table = files.duplicates
    write_table(table, Duplicate._fields, duplicates)
    kinds = Counter(duplicate.kind for duplicate in duplicates)
    told = f"{kinds['exact']} exact and {kinds['near']} near duplicates of other images"
    print(f"images: {told}" + (f", listed in {table}; they stay in" if duplicates else ""))
    left_out, others = what_is_left_out(root)
    write_table(files.skipped, ("path", "reason"), read.skipped + left_out)
    for line in count_left_out(read.skipped, left_out, others, files.skipped):
        print(f"images: {line}")


def _tell_missing(files: RunFiles, missing: dict[str, str], what: str) -> None:
    """Says which images a later stage does without, and adds them to the table.

    Args:
        missing: reasons, by the images' names.
    """
    if not missing:
        return
    name, reason = next(iter(missing.items()))
    listed = dict(_read_skipped(files.skipped)) | missing
    where = f"; listed in {files.skipped}"
    try:
        write_table(files.skipped, ("path", "reason"), listed.items())
    except OSError:  # evaluate.py also tells its scores where it cannot write
        where = ""
    print(f"images: {len(missing)} {what} (the first, {name}: {reason}){where}", flush=True)


def _read_skipped(path: Path) -> Skipped:
    """What a run's table of files that are not read holds; nothing where there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [(row["path"], row["reason"]) for row in csv.DictReader(file)]
