"""The images of a run: settled by the first stage, found again by all others."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from src_py.checkpoints import require
from src_py.datasets import (
    DataSettings,
    ImageSet,
    choose_image_size,
    load_images,
    measure_mean_std,
    require_folder,
    split_folder,
)
from src_py.errors import UserError
from src_py.image_files import find_images
from src_py.loaders import ResidentImages
from src_py.run_files import RunFiles, read_json, write_json, write_table

FEWEST_IMAGES = 32
DOWNLOAD_FOLDER = Path("data")
LARGEST_SIDE_ON_CPU = 64  # px: above it one epoch of a small folder takes hours on a laptop
LARGEST_SIDE = 224  # px


def settle_data(config: Any, preset: Any, on_cpu: bool) -> tuple[DataSettings, ImageSet]:
    """Decides how the images are seen, reads the training split, and writes both down for the run.

    Args:
        config: a SimCLRConfig.
        preset: the Preset of `config.preset`.

    Raises:
        UserError: when there are fewer than 32 readable images.
    """
    source, root = _source(config, preset)
    channels = config.channels or preset.channels
    size = config.image_size or preset.image_size
    if size is None:
        require_folder(root)
        limit = LARGEST_SIDE_ON_CPU if on_cpu else LARGEST_SIDE
        paths = find_images(split_folder(root, "train"))
        if not paths:
            raise UserError(f"no image file in {root}: give a folder of images with --data")
        size = choose_image_size(paths, limit)
        print(f"images: {size} px, chosen from the files (--image-size sets it)")
    images = _load(config.files, source, root, "train", size, channels)
    if config.use_unlabelled:
        extra = _load(config.files, source, root, "unlabelled", size, channels)
        if extra is None:
            raise UserError(f"--use-unlabelled: '{source}' has no unlabelled part")
    if len(images.names) < FEWEST_IMAGES:
        raise UserError(
            f"{root}: {len(images.names)} readable images, at least {FEWEST_IMAGES} are needed"
        )
    mean, std = preset.mean, preset.std
    if mean is None or len(mean) != channels:
        mean, std = measure_mean_std(images.images)
    settings = DataSettings(source, None if root is None else str(root), size, channels, mean, std)
    write_json(config.files.data, {"preset": config.preset, "settings": asdict(settings)})
    _report(config.files, images)
    if config.use_unlabelled:
        pixels = torch.cat([images.images, extra.images])
        images = ImageSet(pixels, images.names + extra.names, images.skipped)
    return settings, images


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


def load_split(files: RunFiles, settings: DataSettings, split: str) -> ImageSet | None:
    """The images of one split of a run, or None where the source has no such split."""
    root = None if settings.root is None else Path(settings.root)
    return _load(files, settings.source, root, split, settings.image_size, settings.channels)


def resident(images: ImageSet, device: torch.device) -> ResidentImages:
    return ResidentImages(images.images, device)


def _source(config: Any, preset: Any) -> tuple[str, Path | None]:
    """A folder of image files is read as one, whatever the preset: it then tells only the
    options. A folder that holds the preset's own format stays with the preset."""
    if preset.source == "folder" and config.data is None:
        raise UserError("--preset folder needs the folder: add --data DIR")
    if config.data is None:
        return preset.source, None if preset.source == "digits" else DOWNLOAD_FOLDER.resolve()
    if preset.source == "folder" or not config.data.is_dir() or find_images(config.data):
        return "folder", config.data
    return preset.source, config.data


def _load(
    files: RunFiles, source: str, root: Path | None, split: str, size: int, channels: int
) -> ImageSet | None:
    return load_images(
        source, root, split, size, channels, cache_dir=files.checkpoints, show_progress=True
    )


def _report(files: RunFiles, images: ImageSet) -> None:
    count, channels, size, _ = images.images.shape
    colour = "colour" if channels == 3 else "grey"
    print(f"images: {count} of {size} x {size} px, {colour}")
    if images.skipped:
        write_table(files.skipped, ("path", "reason"), images.skipped)
        print(f"images: {len(images.skipped)} unreadable files skipped, listed in {files.skipped}")
    sys.stdout.flush()


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
