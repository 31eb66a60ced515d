"""How the images of a run are seen, which its first stage decides once, and what was read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from src_py.images.ranges import Ranges


@dataclass(frozen=True)
class DataSettings:
    """What every later stage must know about the images of a run."""

    source: str  # 'folder', or the name of a set (datasets.SOURCES)
    root: str | None  # folder that the images, or the downloads, are in
    image_size: int  # side in px
    channels: int  # 1 or 3
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]  # per channel, of pixels in [0, 1]
    # What is black and white in numbers of more than 8 bits, by sort; None in runs of before.
    ranges: Ranges | None = None
    # The class folders that are read of each split, sorted; () for all of it.
    classes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path | None:
        """Where the image files are; None where the images are no files."""
        return Path(self.root) if self.source == "folder" and self.root is not None else None


@dataclass
class ImageSet:
    """The images of one split, and which is which.

    Attributes:
        names: one per row: a file's path relative to the root, or 'train/00012'.
        images: (N, C, S, S) uint8, or None where a folder's pixels were not asked for.
        skipped: (path, reason) of a folder's unreadable files.
        mean, std: per channel, of pixels in [0, 1]; None where they were not measured.
        facts: (N,) of folders.facts_type, what a folder's files were; None for other sources.
        key: changes with any file that is added, removed, renamed or edited, and with decoding.
        listing: of the files' names and sizes alone, which a folder that is moved keeps.
        ranges: that a folder's numbers of more than 8 bits were seen by (DataSettings).
        dark: how many images stay so far below their range that they look black.
        lost: (path, reason) of images that were read before, and cannot be any more.
    """

    names: Sequence[str]
    images: Tensor | None = field(compare=False, default=None)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    facts: np.ndarray | None = field(compare=False, default=None)
    ranges: Ranges = field(default_factory=dict)
    dark: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)
    key: str = field(compare=False, default="")
    listing: str = field(compare=False, default="")
