"""Which files of a folder belong to a split of it, and what belongs to none."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src_py.images.finding import folders_in, holds_images, survey
from src_py.images.names import Names, Paths, names_below
from src_py.images.tars import is_in_shards, state_of
from src_py.run.addresses import SHARD
from src_py.run.errors import UserError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
MOST_NAMED = 5  # missing classes, in a line


def require_folder(root: Path) -> None:
    """
    Raises:
        UserError: unless `root` is a folder, or stands for shards.
    """
    if not (root.is_dir() or is_in_shards(root)):
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {problem}: give a folder of images with --data, or a .tar file")


def split_folder(root: Path, split: str) -> Path | None:
    """Where a folder keeps `split`: `root` itself when it is not divided, None when nowhere.

    `root` is divided if images lie in root/train, and also in root/test or val, or nowhere else: a
    lone `train` beside `car` and `boat` is a kind of vehicle. Case and longer forms of these names
    (Training) do not matter.
    """
    folders = folders_in(root)
    train, test = _first_with_images(folders, TRAIN_NAMES), _first_with_images(folders, TEST_NAMES)
    divided = train is not None and (
        test is not None or all(path.is_relative_to(train) for path in survey(root).images)
    )
    if split == "train":
        return train if divided else root
    return test if divided and split == "test" else None


def _first_with_images(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    """The folder with images that has the first of these names."""
    found = (path for name in names for path in folders if path.name.lower() == name)
    return next((path for path in found if holds_images(path)), None)


def folder_files(root: Path, split: str, classes: Sequence[str] = ()) -> Sequence[Path] | None:
    """All image files of one split, or None where the folder has no such split.

    All kinds, readable here or not: an AVIF file that this Pillow cannot open shall be reported.

    Args:
        classes: the only folders of the split that are looked into, sorted; () for all of it.

    Raises:
        UserError: when `root` is not a folder.
    """
    require_folder(root)
    folder = split_folder(root, split)
    if folder is None:
        return None
    images = survey(folder).images
    if not classes:
        return images
    return Paths(folder, names_below(folder, (p for p in images if class_of(p, folder) in classes)))


def class_of(path: Path, folder: Path) -> str | None:
    """The first folder below `folder` on the way to `path`, None if it lies in `folder` itself. A
    shard is no folder of a class."""
    first, *others = path.relative_to(folder).parts
    if others and first.endswith(SHARD) and is_in_shards(folder / first):
        first, *others = others
    return first if others else None


def describe_classes(root: Path, classes: Sequence[str]) -> list[str]:
    """What a list of classes takes of each split and leaves there, and which of them are missing: a
    line each.

    Args:
        classes: as `folder_files` takes them; there is nothing to say of ().
    """
    lines = []
    for folder in _divided(root) if classes else []:
        there = {class_of(path, folder) for path in survey(folder).images} - {None}
        missing = [name for name in classes if name not in there]
        lines.append(
            f"{len(classes) - len(missing)} class folders of {folder.name}/ are read, as the "
            f"preset lists them, and {len(there.difference(classes))} others are left out"
        )
        if missing:
            named = ", ".join(missing[:MOST_NAMED]) + (", ..." if missing[MOST_NAMED:] else "")
            lines.append(
                f"warning: {len(missing)} of the preset's {len(classes)} classes have no image in "
                f"{folder.name}/: {named}"
            )
    return lines


def _divided(root: Path) -> list[Path]:
    """Where the splits of a folder are: one or two."""
    return [folder for split in ("train", "test") if (folder := split_folder(root, split))]


def what_is_left_out(root: Path) -> tuple[list[tuple[str, str]], Counter[str]]:
    """What of a folder belongs to no split: (path, reason) of pictures, and of what cannot be
    looked into; how many other files there are, by extension."""
    found = survey(root)
    folders = _divided(root)
    names = " and ".join(f"{folder.name}/" for folder in folders)
    outside: list[Path] = []
    if root not in folders:
        outside = [path for path in found.images if not any(map(path.is_relative_to, folders))]
    left_out = found.left_out + [(path, f"outside of {names}") for path in outside]
    return [(path.relative_to(root).as_posix(), why) for path, why in left_out], found.others


@dataclass(frozen=True)
class FileStates:
    """What tells files from others without reading them.

    Attributes:
        names: paths relative to the root.
        sizes: bytes; -1 of one that is gone.
        modified: ns.
    """

    names: Names
    sizes: "array[int]"
    modified: "array[int]"

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        return zip(self.names, self.sizes, self.modified, strict=True)


def file_states(root: Path, paths: Sequence[Path]) -> FileStates:
    """Of the files `paths` below `root`, in order."""
    sizes, modified = array("q"), array("q")
    for path in paths:
        try:
            told = state_of(path)
        except OSError:  # removed since it was found; decoding will say so
            told = (-1, 0)
        sizes.append(told[0])
        modified.append(told[1])
    return FileStates(names_below(root, paths), sizes, modified)


def listing(states: FileStates) -> str:
    """SHA-256 of the files' names and sizes: the same wherever the folder is."""
    lines = (f"{name}\0{size}" for name, size in zip(states.names, states.sizes, strict=True))
    return text_digest(joined("\n", lines))


def joined(between: str, texts: Iterable[str]) -> Iterator[str]:
    """The parts of `between.join(texts)`."""
    for number, text in enumerate(texts):
        yield f"{between}{text}" if number else text


def text_digest(parts: Iterable[str]) -> str:
    """SHA-256 in hexadecimal digits of a text in parts; of names in whatever encoding."""
    digest = hashlib.sha256()
    for part in parts:
        try:
            digest.update(part.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:  # a name of Windows with half a pair
            digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
