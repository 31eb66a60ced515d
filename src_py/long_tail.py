"""Writes scikit-learn's digits as a folder of images with very unequal classes.

    python -m src_py.long_tail out/digits-long-tail

train/<digit>/ holds ten times as many images of the most frequent digit as of the rarest, and
test/<digit>/ about the same number of each. It reads labels, for they are what it makes unequal:
no training stage imports it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from src_py.datasets import load_images
from src_py.labels import load_labels

RATIO = 10  # of the most frequent digit to the rarest
SIDE = 16  # px


def long_tail_rows(labels: np.ndarray, ratio: float, seed: int = 0) -> np.ndarray:
    """Rows whose class sizes fall geometrically, by `ratio` from the first to the last class.

    Args:
        labels: (N,) int64. Which class is frequent and which images stay is drawn by `seed`.
    """
    random = np.random.default_rng(seed)
    classes = random.permutation(np.unique(labels))
    largest = np.bincount(labels).min()
    kept = []
    for rank, label in enumerate(classes):
        size = round(largest * ratio ** (-rank / (len(classes) - 1)))
        kept.append(random.permutation(np.flatnonzero(labels == label))[:size])
    return np.sort(np.concatenate(kept))


def write_long_tailed_digits(folder: Path) -> None:
    """Writes train/<digit>/<row>.png and test/<digit>/<row>.png, replacing nothing."""
    for split in ("train", "test"):
        digits = load_images("digits", None, split, SIDE, 1, folder, False)
        labels, names = load_labels("digits", None, split, digits.names)
        rows = long_tail_rows(labels, RATIO) if split == "train" else np.arange(len(labels))
        for row in rows:
            path = folder / split / names[labels[row]] / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[row, 0].numpy()).save(path)
        print(f"{folder / split}: {len(rows)} images")


if __name__ == "__main__":
    write_long_tailed_digits(Path(sys.argv[1]))
