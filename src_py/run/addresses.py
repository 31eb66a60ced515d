"""How shards are named: as files, as addresses on other machines, and many at once by braces.

    photos.tar   s3://bucket/photos.tar   photos-{000000..000099}.tar   photos-{a,b}.tar

All of them are kept as paths. A path has no double slashes, so that s3://bucket/photos.tar is
s3:/bucket/photos.tar there; and braces are a folder, that of the shards which they name.

Nothing here imports torch, so that `--help` and wrong options are answered at once.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

SHARD = ".tar"
ADDRESS = re.compile(r"([a-z][a-z0-9+.:-]+):/(?!/)(.*)", re.IGNORECASE)  # one letter is a drive
BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},/]+(?:,[^{},/]+)+))\}")


def is_address(path: Path) -> bool:
    """Whether a path stands for an address that fsspec reads."""
    return ADDRESS.match(path.as_posix()) is not None


def is_set(path: Path) -> bool:
    """Whether a path names shards by braces."""
    return path.suffix == SHARD and BRACES.search(path.name) is not None


def members_of(path: Path) -> Iterator[Path]:
    """The shards that a path with braces names, as if they lay in it."""
    return (path / name for name in _expanded(path.name))


def real(path: Path) -> Path:
    """A path without the braces that it leads through."""
    if "{" in path.as_posix() and any(is_set(parent) for parent in path.parents):
        return Path(*(part for part in path.parts if not is_set(Path(part))))
    return path


def located(path: Path) -> Path:
    """A path that means the same wherever the program is started."""
    return path if is_address(path) else Path(os.path.realpath(at_home(path)))


def at_home(path: Path | str) -> Path:
    """A path whose ~ is the home it stands for; where it stands for none, the path as it is."""
    return Path(os.path.expanduser(path))


def as_text(path: Path) -> str:
    """A path as a person names it."""
    path = real(path)
    found = ADDRESS.match(path.as_posix())
    if found is None:
        return str(path)
    scheme, rest = found.groups()
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def short_name(path: Path) -> str:
    """What images are called after the place that they are in: of photos-{000..099}.tar, photos."""
    path = located(path)
    if path.suffix != SHARD or path.is_dir():
        return path.name
    return BRACES.sub("", path.stem).strip("-_. ") or path.stem


def _expanded(name: str) -> Iterator[str]:
    braces = BRACES.search(name)
    if braces is None:
        yield name
        return
    first, last, listed = braces.groups()
    numbers = range(int(first), int(last) + 1) if first else ()
    for middle in listed.split(",") if listed else (f"{n:0{len(first)}}" for n in numbers):
        yield from _expanded(f"{name[: braces.start()]}{middle}{name[braces.end() :]}")
