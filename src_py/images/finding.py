"""Which files below a folder are images, and what the others are: nothing is passed over unsaid.

Only what is hidden (.git, .DS_Store, ._photo.jpg) is, as a file manager does.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from src_py.images.kinds import (
    IMAGE_EXTENSIONS,
    OTHER_PICTURES,
    extension_of,
    readable_extensions,
    starts_like_an_image,
)
from src_py.images.names import Paths, names_below
from src_py.images.tars import file_at, files_below, is_in_shards
from src_py.run.addresses import SHARD

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})


class Found(NamedTuple):
    """What lies below a folder.

    Attributes:
        images: sorted by path relative to the folder.
        left_out: (path, reason) of pictures that are not read, and of what cannot be looked into.
        others: files that are no pictures, by extension ('' for none).
    """

    images: Sequence[Path]
    left_out: list[tuple[Path, str]]
    others: Counter[str]


def find_images(root: Path) -> list[Path]:
    """Every readable kind of image below `root`, sorted by path relative to it."""
    readable = readable_extensions() | {""}
    return [path for path in survey(root).images if extension_of(path.name) in readable]


def holds_images(root: Path) -> bool:
    """Whether there is an image below `root`, a file of its own or one in a shard."""
    return holds_image_files(root) or bool(survey(root).images)


def holds_image_files(root: Path) -> bool:
    """Whether an image below `root` is a file of its own."""
    return any(isinstance(found, Path) and not _is_shard(found) for found in _walk(root))


def folders_in(root: Path) -> list[Path]:
    """The folders directly in `root`, which may be missing; of shards those with images."""
    if is_in_shards(root):
        inside = (path.relative_to(root).parts for path in survey(root).images)
        return sorted({root / first for first, *others in inside if others})
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def survey(root: Path) -> Found:
    """All images below `root`, readable here or not, and what else lies there.

    A missing `root` gives nothing. Linked folders are followed, but no real folder is entered
    twice. Files without an extension are images when they begin like one. Shards are entered where
    they are what `root` names, and in a folder that has no other images.
    """
    if is_in_shards(root):
        return _gathered(root, _walk_shards([root]), [])
    shards: list[Path] = []
    found = _gathered(root, _walk(root), shards)
    if found.images or not shards:
        return found._replace(others=found.others + Counter({SHARD: len(shards)}))
    shards.sort(key=lambda path: path.parts)
    inside = _gathered(root, _walk_shards(shards), [])
    left_out = found.left_out + inside.left_out
    return Found(inside.images, left_out, found.others + inside.others)


Item = Path | tuple[Path, str] | str  # an image; a picture left out, and why; another's extension


def _gathered(root: Path, items: Iterable[Item], shards: list[Path]) -> Found:
    """
    Args:
        shards: gets those that stand among the images of a folder.
    """
    left_out: list[tuple[Path, str]] = []
    others: Counter[str] = Counter()

    def images() -> Iterator[Path]:
        for found in items:
            if isinstance(found, tuple):
                left_out.append(found)
            elif isinstance(found, str):
                others[found] += 1
            elif _is_shard(found):
                shards.append(found)
            else:
                yield found

    names = names_below(root, images())
    names = names.take(names.path_order())
    return Found(Paths(root, names), sorted(left_out, key=lambda item: item[0].parts), others)


def _walk_shards(shards: list[Path]) -> Iterator[Item]:
    """What lies in shards, but for what is hidden there."""
    for shard, name, refusal in files_below(shards):
        if not refusal and any(map(_is_hidden, name.split("/"))):
            continue
        path = Path(f"{shard}/{name}")  # whatever root or drive a name begins with
        extension = extension_of(path.name)
        if not refusal:
            yield _what_is(path)
        else:
            yield (path, refusal) if extension in IMAGE_EXTENSIONS else extension


def _walk(root: Path) -> Iterator[Item]:
    """What lies below a folder, shards among the images."""
    visited: set[str] = set()
    pending = deque([Path(root)])
    while pending:
        folder = pending.popleft()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as listing:
                entries = [entry for entry in listing if not _is_hidden(entry.name)]
        except FileNotFoundError:
            continue
        except OSError as error:
            yield folder, f"the folder cannot be opened ({error.strerror})"
            continue
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path):
                if extension_of(entry.name) in IMAGE_EXTENSIONS:
                    yield folder / entry.name, "a link that leads nowhere"
                continue
            # The entries know what they are: asking the paths would cost a system call each.
            if entry.is_dir():
                # Links wait until all real folders are seen, so that a folder which is reachable
                # both ways is listed under its own name.
                add = pending.append if entry.is_symlink() else pending.appendleft
                add(folder / entry.name)
            else:
                yield _what_stands(entry, folder / entry.name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _is_shard(path: Path) -> bool:
    return path.suffix == SHARD


def _what_stands(entry: os.DirEntry[str], path: Path) -> Item:
    """What an entry of a folder is, a file or what stands in the place of one."""
    if not entry.is_file():
        extension = extension_of(entry.name)
        return (path, "not a regular file") if extension in IMAGE_EXTENSIONS else extension
    return path if _is_shard(path) else _what_is(path)


def _what_is(path: Path) -> Item:
    """What a file is, by its name, or by how it begins where that does not tell."""
    extension = extension_of(path.name)
    if extension in IMAGE_EXTENSIONS or (not extension and starts_like_an_image(file_at(path))):
        return path
    if extension in OTHER_PICTURES:
        return path, f"{extension} files are not read: convert it, for instance to PNG"
    return extension
