"""The labels of a split, for scoring: no training stage may import this module."""

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from configs.imagenet import class_words
from src_py.datasets import digits_rows, find_idx, needed_root, open_torchvision_set, read_idx
from src_py.images.finding import find_images
from src_py.images.splits import class_of, split_folder
from src_py.run.errors import UserError

STL10_CLASSES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip


def load_labels(
    source: str,
    root: Path | None,
    split: str,
    names: Sequence[str],
    folder_labels: bool = False,
    listed: Sequence[str] = (),
) -> tuple[np.ndarray, list[str]] | None:
    """Labels of the images called `names` (ImageSet.names): int64 (N,), and the class names.

    None where there are no labels. A folder has them when it is divided into train/<class>/...
    and every image lies in a class folder.

    Args:
        folder_labels: also take the first folder level of an undivided folder as classes.
        listed: the only class folders of ImageNet that are read (DataSettings.classes), which have
            words for names; () for all folders.

    Raises:
        UserError: if those are asked for and not there, or the files of a named set are missing.
    """
    if source == "folder":
        return _folder_labels(needed_root(source, root), split, names, folder_labels, listed)
    if split == "unlabelled":
        return None
    labels, classes = _set_labels(source, root, split)
    rows = [int(name.rpartition("/")[2]) for name in names]
    return np.asarray(labels, dtype=np.int64)[rows], classes


def _folder_labels(
    root: Path, split: str, names: Sequence[str], folder_labels: bool, listed: Sequence[str]
) -> tuple[np.ndarray, list[str]] | None:
    folder = split_folder(root, split)
    if folder is None or (folder == root and not folder_labels):
        return None
    inside = (class_of(root / name, folder) for name in names)
    of_names = [name and sys.intern(name) for name in inside]  # each of a few texts once
    found = [name for name in of_names if name is not None]
    if len(found) < len(names):
        if folder_labels:
            outside = names[of_names.index(None)]
            raise UserError(f"{root / outside} lies in no class folder: move it into one")
        return None
    # Both splits number their classes alike, even if one of them lacks a class.
    folders = [part for part in map(split_folder, (root, root), ("train", "test")) if part]
    in_folders = {class_of(path, parent) for parent in folders for path in find_images(parent)}
    classes = sorted({*found, *filter(None, in_folders)})
    if listed:
        classes = [name for name in classes if name in listed]
    number = {name: index for index, name in enumerate(classes)}
    words = class_words() if listed else {}
    told = [words.get(name, name) for name in classes]
    return np.array([number[name] for name in found], dtype=np.int64), told


def _set_labels(source: str, root: Path | None, split: str) -> tuple[ArrayLike, list[str]]:
    """Labels of all images of a set that is known by name, in its own order."""
    if source == "digits":
        from sklearn.datasets import load_digits

        return load_digits().target[digits_rows(split)], [str(digit) for digit in range(10)]
    root = needed_root(source, root)
    idx = find_idx(root, split, "labels") if "mnist" in source else None
    if idx:
        return read_idx(idx), _mnist_classes(source)
    dataset = open_torchvision_set(source, root, split)
    if source == "stl10":
        return dataset.labels, list(STL10_CLASSES)
    if source == "cifar20":
        # torchvision gives the 100 fine classes only; the superclasses are in the same files.
        folder = Path(dataset.root) / dataset.base_folder
        coarse = read_array_pickle(folder / split)["coarse_labels"]
        return coarse, read_array_pickle(folder / "meta")["coarse_label_names"]
    return dataset.targets, dataset.classes


def _mnist_classes(source: str) -> list[str]:
    from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)

    import torchvision.datasets as tv  # isort: skip

    return (tv.MNIST if source == "mnist" else tv.FashionMNIST).classes


def read_array_pickle(path: Path) -> Any:
    """Unpickle plain values and NumPy arrays.

    Raises:
        UserError: if `path` holds anything else.
    """
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"cannot read labels from {path} ({error}): fetch the set again") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles nothing that could run code: only what NumPy arrays are made of."""

    # Python 2 wrote the CIFAR files: NumPy's modules had other names then.
    _ALLOWED = {  # noqa: RUF012  (read only)
        "_reconstruct": np.empty(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self._ALLOWED:
            return self._ALLOWED[name]
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is not an array")
