"""Writes scikit-learn's digits as folders of images, for measurements.

    python -m src_py.research.digit_folders whole out/digits-png   # <digit>/, all 1,797, 8 px
    python -m src_py.research.digit_folders split out/digits-tree  # train/ and test/, 16 px
    python -m src_py.research.digit_folders long-tail out/digits   # the same, classes ten to one

The long tail holds, in train/, ten times as many images of the most frequent digit as of the
rarest, and in test/ about the same number of each. It reads labels, for they are what it makes
unequal: no training stage imports it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from src_py.datasets import load_images
from src_py.scoring.class_labels import load_labels

RATIO = 10  # of the most frequent digit to the rarest
NATIVE_SIDE, SIDE = 8, 16  # px


def long_tail_rows(labels: np.ndarray, ratio: float) -> np.ndarray:
    """Rows whose class sizes fall geometrically, by `ratio` from the first to the last class.

    Args:
        labels: (N,) int64. Which class is frequent and which images stay is drawn.
    """
    random = np.random.default_rng(0)
    classes = random.permutation(np.unique(labels))
    largest = np.bincount(labels).min()
    kept = []
    for rank, label in enumerate(classes):
        size = round(largest * ratio ** (-rank / (len(classes) - 1)))
        kept.append(random.permutation(np.flatnonzero(labels == label))[:size])
    return np.sort(np.concatenate(kept))


def write_digits(kind: str, folder: Path) -> None:
    """Writes <digit>/<split>-<row>.png, or with a split train/<digit>/ and test/<digit>/.

    Args:
        kind: 'whole', 'split' or 'long-tail'.
    """
    side = NATIVE_SIDE if kind == "whole" else SIDE
    for split in ("train", "test"):
        digits = load_images("digits", None, split, side, 1)
        assert digits is not None and digits.images is not None, "both splits are always decoded"
        labelled = load_labels("digits", None, split, digits.names)
        assert labelled is not None, "every digit has a label"
        labels, names = labelled
        rows = np.arange(len(labels))
        if kind == "long-tail" and split == "train":
            rows = long_tail_rows(labels, RATIO)
        for row in rows:
            place = folder if kind == "whole" else folder / split
            path = place / names[labels[row]] / f"{split}-{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[row, 0].numpy()).save(path)
        print(f"{folder}: {len(rows)} images of {split}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("whole", "split", "long-tail"):
        print("digit_folders: expected whole, split or long-tail, and a folder", file=sys.stderr)
        sys.exit(2)
    write_digits(sys.argv[1], Path(sys.argv[2]))
