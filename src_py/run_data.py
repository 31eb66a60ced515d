"""The images of a run: settled by the first stage, opened again by all others."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from src_py.checkpoints import require
from src_py.datasets import (
    DataSettings,
    choose_image_size,
    folder_files,
    index_folder,
    load_images,
    measure_mean_std,
)
from src_py.errors import UserError
from src_py.hardware import Hardware
from src_py.loaders import ImageLoader, Loading, ResidentImages, StreamedImages, choose_loading
from src_py.run_files import RunFiles, read_json, write_json, write_table

FEWEST_IMAGES = 32
DOWNLOAD_FOLDER = Path("data")
LARGEST_SIDE_ON_CPU = 64  # px: above it one epoch of a small folder takes hours on a laptop
LARGEST_SIDE = 224  # px


@dataclass
class OpenedImages:
    """One split, ready for training or scoring.

    Attributes:
        loader: batches of uint8 images on the device.
        names: one per row.
        skipped: (path, reason) of the unreadable files.
        mean, std: per channel, of pixels in [0, 1]; None where they were not measured.
    """

    loader: ImageLoader
    names: list[str]
    skipped: list[tuple[str, str]]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def settle_images(config: Any, preset: Any, hardware: Hardware) -> tuple[DataSettings, ImageLoader]:
    """Decides how the images are seen, opens the training split, and writes the settings down.

    Args:
        config: a SimCLRConfig.
        preset: the Preset of `config.preset`.

    Raises:
        UserError: when there are fewer than 32 readable images.
    """
    source, root = _source(config, preset)
    channels = config.channels or preset.channels
    size = config.image_size or preset.image_size or _size_of_files(root, hardware)
    known = preset.mean is not None and len(preset.mean) == channels
    draft = DataSettings(source, None if root is None else str(root), size, channels, (), ())
    opened = open_split(config.files, draft, "train", hardware, config.loading, measure=not known)
    if len(opened.names) < FEWEST_IMAGES:
        raise UserError(
            f"{root}: {len(opened.names)} readable images, at least {FEWEST_IMAGES} are needed"
        )
    mean, std = (preset.mean, preset.std) if known else (opened.mean, opened.std)
    settings = DataSettings(source, draft.root, size, channels, mean, std)
    written = {name: getattr(config, name) for name in ("preset", "recipe", "minutes")}
    written["settings"] = asdict(settings)
    write_json(config.files.data, written)
    _report(config.files, settings, opened)
    if config.use_unlabelled:
        return settings, _with_unlabelled(config.files, settings, opened.loader, hardware)
    return settings, opened.loader


def load_settings(files: RunFiles) -> DataSettings:
    """The data settings of a run.

    Raises:
        UserError: naming the first stage when the run has not been begun.
    """
    require(files, files.data, f"simclr.py --run {files.run}")
    settings = read_json(files.data)["settings"]
    for name in ("mean", "std"):
        settings[name] = tuple(settings[name])
    return DataSettings(**settings)


def open_split(
    files: RunFiles,
    settings: DataSettings,
    split: str,
    hardware: Hardware,
    loading: Loading = "auto",
    measure: bool = False,
) -> OpenedImages | None:
    """The images of one split of a run, or None where the source has no such split.

    Args:
        loading: 'resident', 'streamed', or 'auto': by the size of the decoded set.
        measure: whether mean and std are wanted.
    """
    root = None if settings.root is None else Path(settings.root)
    size, channels = settings.image_size, settings.channels
    if settings.source == "folder":
        paths = folder_files(root, split)
        if paths is None:
            return None
        set_bytes = len(paths) * channels * size * size
        mode, reason = choose_loading(loading, set_bytes, hardware.device)
        print(f"images: {split} split {mode} ({reason})")
        sys.stdout.flush()
        if mode == "streamed":
            index = index_folder(root, split, size, channels, files.checkpoints, True)
            loader = StreamedImages(
                [root / name for name in index.names], size, channels, hardware.device
            )
            return OpenedImages(loader, index.names, index.skipped, index.mean, index.std)
    decoded = load_images(settings.source, root, split, size, channels, files.checkpoints, True)
    if decoded is None:
        return None
    loader = ResidentImages(decoded.images, hardware.device)
    mean, std = measure_mean_std(decoded.images) if measure else (None, None)
    return OpenedImages(loader, decoded.names, decoded.skipped, mean, std)


def require_rows(files: RunFiles, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: when the images are not those that neighbors.npy was made from.
    """
    with files.rows.open(newline="", encoding="utf-8") as file:
        mined = [row["path"] for row in csv.DictReader(file)]
    if mined != list(names):
        raise UserError(
            f"run '{files.run}': the images have changed since {files.neighbors} was made "
            f"({len(mined)} then, {len(names)} now); run again: "
            f"python extract_features.py --run {files.run}"
        )


def _source(config: Any, preset: Any) -> tuple[str, Path | None]:
    """A folder of image files is read as one, whatever the preset: it then tells only the
    options. A folder that holds the preset's own format stays with the preset."""
    if config.data is None:
        if preset.source == "folder":
            raise UserError("--preset folder needs the folder: add --data DIR")
        return preset.source, None if preset.source == "digits" else DOWNLOAD_FOLDER.resolve()
    if preset.source == "folder" or not config.data.is_dir() or folder_files(config.data, "train"):
        return "folder", config.data
    return preset.source, config.data


def _size_of_files(root: Path, hardware: Hardware) -> int:
    paths = folder_files(root, "train")
    if not paths:
        raise UserError(f"no image file in {root}: give a folder of images with --data")
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
    return ResidentImages(torch.cat([train.images, extra.loader.images]), hardware.device)


def _report(files: RunFiles, settings: DataSettings, opened: OpenedImages) -> None:
    size = settings.image_size
    colour = "colour" if settings.channels == 3 else "grey"
    print(f"images: {len(opened.names)} of {size} x {size} px, {colour}")
    if opened.skipped:
        write_table(files.skipped, ("path", "reason"), opened.skipped)
        print(f"images: {len(opened.skipped)} unreadable files skipped, listed in {files.skipped}")
    sys.stdout.flush()
