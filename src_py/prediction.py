"""Classifying image files: decoded by threads, block by block, so that memory stays bounded."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from src_py.datasets import DataSettings
from src_py.errors import UserError
from src_py.hardware import Hardware, available_cores
from src_py.image_files import IMAGE_EXTENSIONS, UnreadableImage, find_files, read_square
from src_py.loaders import ResidentImages
from src_py.training_loops import infer

Row = tuple[str, int, str, str]  # path, cluster, name, confidence
Skipped = list[tuple[str, str]]


def list_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and all image files below the folders named, in input order.

    Raises:
        UserError: for a path that does not exist, or when there is no image file at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += find_files(path, IMAGE_EXTENSIONS)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist")
    if not found:
        raise UserError(f"no image file in {', '.join(map(str, paths))}")
    return found


def classify_files(
    paths: list[Path],
    model: nn.Module,
    settings: DataSettings,
    hardware: Hardware,
    batch_size: int,
) -> tuple[list[Row], Skipped]:
    """Rows (path, cluster, name, confidence) of the readable files, and (path, reason) of others.

    Args:
        model: a classifier with one head, on the hardware's device.
    """
    rows: list[Row] = []
    skipped: Skipped = []
    statistics = (settings.mean, settings.std)

    def decode(path: Path) -> np.ndarray | str:
        try:
            return read_square(path, settings.image_size, settings.channels)
        except UnreadableImage as error:
            return str(error)

    progress = tqdm(total=len(paths), desc="predict", unit="img", disable=not sys.stderr.isatty())
    with progress, ThreadPoolExecutor(available_cores()) as pool:
        for decoded in _blocks(pool, decode, paths, batch_size):
            progress.update(len(decoded))
            skipped += [(str(path), image) for path, image in decoded if isinstance(image, str)]
            readable = [(path, image) for path, image in decoded if not isinstance(image, str)]
            if not readable:
                continue
            pixels = torch.from_numpy(np.stack([image for _, image in readable]))
            images = ResidentImages(pixels.permute(0, 3, 1, 2), hardware.device)
            (logits,) = infer(model, images, statistics, hardware, batch_size)
            confidence, cluster = logits[0].softmax(dim=1).cpu().max(dim=1)
            rows += [
                (str(path), c, f"cluster_{c}", f"{p:.4f}")
                for (path, _), c, p in zip(
                    readable, cluster.tolist(), confidence.tolist(), strict=True
                )
            ]
    return rows, skipped


def _blocks(
    pool: ThreadPoolExecutor,
    decode: Callable[[Path], np.ndarray | str],
    paths: list[Path],
    size: int,
) -> Iterator[list[tuple[Path, np.ndarray | str]]]:
    """Yields decoded files, `size` at a time, while the pool is already busy with the next ones."""
    begun: deque[tuple[list[Path], Iterator[np.ndarray | str]]] = deque()
    for start in range(0, len(paths), size):
        block = paths[start : start + size]
        begun.append((block, pool.map(decode, block)))
        if len(begun) == 2:
            yield list(zip(*begun.popleft(), strict=True))
    yield list(zip(*begun.popleft(), strict=True))
