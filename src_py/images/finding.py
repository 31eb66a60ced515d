"""Which files below a folder are images, and what the others are: nothing is passed over unsaid.

Only what is hidden (.git, .DS_Store, ._photo.jpg) is, as a file manager does.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from src_py.images.kinds import (
    IMAGE_EXTENSIONS,
    OTHER_PICTURES,
    extension_of,
    readable_extensions,
    starts_like_an_image,
)

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})


class Found(NamedTuple):
    """What lies below a folder.

    Attributes:
        images: sorted by path relative to the folder.
        left_out: (path, reason) of pictures that are not read, and of what cannot be looked into.
        others: files that are no pictures, by extension ('' for none).
    """

    images: list[Path]
    left_out: list[tuple[Path, str]]
    others: Counter[str]


def find_images(root: Path) -> list[Path]:
    """Every readable kind of image below `root`, sorted by path relative to it."""
    readable = readable_extensions() | {""}
    return [path for path in survey(root).images if extension_of(path.name) in readable]


def holds_images(root: Path) -> bool:
    """Whether there is an image below `root`."""
    return any(isinstance(found, Path) for found in _walk(root))


def survey(root: Path) -> Found:
    """All images below `root`, readable here or not, and what else lies there.

    A missing `root` gives nothing. Linked folders are followed, but no real folder is entered
    twice. Files without an extension are images when they begin like one.
    """
    images: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    others: Counter[str] = Counter()
    for found in _walk(root):
        if isinstance(found, Path):
            images.append(found)
        elif isinstance(found, tuple):
            left_out.append(found)
        else:
            others[found] += 1
    images.sort(key=lambda path: path.parts)
    return Found(images, sorted(left_out, key=lambda item: item[0].parts), others)


def _walk(root: Path) -> Iterator[Path | tuple[Path, str] | str]:
    """Yields an image's path; path and reason of a picture left out; another file's extension."""
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
                yield _what_is(entry, folder / entry.name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _what_is(entry: os.DirEntry[str], path: Path) -> Path | tuple[Path, str] | str:
    """As _walk yields it, of a file, or of what stands in the place of one."""
    extension = extension_of(entry.name)
    is_picture = extension in IMAGE_EXTENSIONS
    if not entry.is_file():
        return (path, "not a regular file") if is_picture else extension
    if is_picture or (not extension and starts_like_an_image(path)):
        return path
    if extension in OTHER_PICTURES:
        return path, f"{extension} files are not read: convert it, for instance to PNG"
    return extension
