"""Tar files of images (WebDataset's shards) as folders whose files lie at offsets.

    photos-000003.tar/cat/1.jpg        # a path leads through a shard as through a folder

Nothing is unpacked, and any image is read by itself: order, resume and the division among processes
are those of the rows, as with a folder. Where each file lies is found once, and kept in
ckp/.shards. Addresses (addresses.py) are read through fsspec.
"""

import contextlib
import functools
import io
import json
import os
import tarfile
import time
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from src_py.images.names import Names
from src_py.run import records
from src_py.run.addresses import SHARD, as_text, is_address, is_set, members_of, real
from src_py.run.errors import UserError, first_line
from src_py.run.stages import CHECKPOINT_ROOT
from src_py.run.writing import write_atomically

INDEXES = ".shards"  # in ckp/
REAL_NAME = "SCAN.path"  # of a file that stands under another name; see shards.py
MOST_SHARDS = 10_000  # that braces name
LARGEST_FILE = 2**28  # bytes; a file of a shard is read as a whole
LARGEST_READ = 2**20  # bytes of what follows the end
INDEXED_AT_ONCE = 8  # shards; what takes time is to wait for another machine
PAUSES = (1.0, 5.0)  # s, before another machine is asked again


@dataclass(frozen=True)
class Member:
    """A file of a shard, with what is asked of the path of any other file."""

    name: str
    content: bytes

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def open(self, mode: Literal["rb"]) -> io.BytesIO:
        return io.BytesIO(self.content)


File = Path | Member


class Index(NamedTuple):
    """What a shard holds.

    Attributes:
        version: another one when the shard has changed.
        names: of its files, in their order.
        places: (N, 2) int64, offset and size in bytes of each.
        refused: (name, reason) of what is not read.
        by_name: (N,) int64, the files in the order of their paths.
    """

    version: int
    names: Names
    places: np.ndarray
    refused: list[tuple[str, str]]
    by_name: np.ndarray

    def place(self, name: str) -> tuple[int, int] | None:
        """Offset and size of a file; None where there is none of that name."""
        row = self.names.find(name, self.by_name)
        return None if row is None else (int(self.places[row, 0]), int(self.places[row, 1]))


# What this process knows, by shard and by folder within shards: it is asked for each image.
_indexes: dict[Path, Index] = {}
_folders: dict[Path, tuple[Path, str]] = {}


def is_in_shards(path: Path) -> bool:
    """Whether a path is a shard, several by braces, or within one."""
    return is_address(path) or is_set(path) or _split(path) is not None


def file_at(path: Path) -> File:
    """What to open: the path of a file of its own as it is, a file of a shard with its content.

    Raises:
        UserError: when the shard cannot be read. One that is out of reach for a moment must not
            count as so many damaged images.
    """
    inside = _split(path)
    if inside is None:
        return path
    shard, name = inside
    with _told(shard):
        offset, size = index_of(shard).place(name) or (0, -1)
        content = _read(shard, offset, size) if size > 0 else b""
        if len(content) != size:
            raise EOFError(f"{name} is not there, or not all of it")
    return Member(name, content)


def state_of(path: Path) -> tuple[int, int]:
    """Size in bytes, and a number that changes with the content: of a file of its own the time of
    its last change in ns, of one in a shard the shard's version.

    Raises:
        OSError: when there is no such file.
    """
    inside = _split(path)
    if inside is None:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    shard, name = inside
    index = index_of(shard)
    place = index.place(name)
    if place is None:
        raise FileNotFoundError(f"{as_text(shard)} holds no {name}")
    return place[1], index.version


def files_below(places: Iterable[Path]) -> Iterator[tuple[Path, str, str]]:
    """Yields every file below some shards or folders in shards: the shard, the file's name in it,
    and why it is not read, "" for those that are.

    Raises:
        UserError: when a shard cannot be read, or is none.
    """
    found = []
    for place in places:
        named = members_of(place) if is_set(place) else [place]
        shards = list(dict.fromkeys(islice(named, MOST_SHARDS + 1)))
        if len(shards) > MOST_SHARDS:
            raise UserError(f"{as_text(place)}: names more than {MOST_SHARDS:,} shards")
        found += [_split(shard) or (shard, "") for shard in shards]
    if wrong := next((shard for shard, _ in found if shard.suffix != SHARD), None):
        raise UserError(f"{as_text(wrong)}: an address of images ends in {SHARD}")
    with ThreadPoolExecutor(INDEXED_AT_ONCE) as pool:
        indexes = list(pool.map(index_of, [shard for shard, _ in found]))
    for (shard, folder), index in zip(found, indexes, strict=True):
        for name, reason in chain(((name, "") for name in index.names), index.refused):
            if not folder or name.startswith(f"{folder}/"):
                yield shard, name, reason


def index_of(shard: Path) -> Index:
    """
    Raises:
        UserError: when the shard cannot be read, or is none.
    """
    with _told(shard):
        version = _version(real(shard))
        known = _indexes.get(shard)
        if known is None or known.version != version:
            _indexes[shard] = known = _kept_index(shard, version)
        return known


def _split(path: Path) -> tuple[Path, str] | None:
    """The shard that a path leads through, and what follows; None for any other path."""
    if SHARD not in path.as_posix():
        return None
    known = _folders.get(path.parent)
    if known is not None:
        shard, folder = known
        return shard, f"{folder}{path.name}"
    for shard in reversed((path, *path.parents)):
        names_one = shard.suffix == SHARD and not is_set(shard)
        if names_one and (is_address(shard) or shard in _indexes or real(shard).is_file()):
            inside = path.parts[len(shard.parts) :]
            if inside:
                _folders[path.parent] = shard, "".join(f"{part}/" for part in inside[:-1])
            return shard, "/".join(inside)
    return None


# --- where the files of a shard lie --------------------------------------------------------------


def _kept_index(shard: Path, version: int) -> Index:
    """As it was kept, or else read from the shard, and kept."""
    place = records.digest(os.path.abspath(as_text(shard)))
    kept = CHECKPOINT_ROOT / INDEXES / f"{place[:32]}.npz"
    with contextlib.suppress(Exception):  # damaged, or not there: it is read from the shard
        stored = _load_index(kept)
        if stored.version == version:
            return stored
    index = _read_index(shard, version)
    with contextlib.suppress(OSError):  # where it cannot be written, it is read again
        write_atomically(kept, lambda temporary: _save_index(temporary, index))
    return index


def _save_index(path: Path, index: Index) -> None:
    """Its parts as arrays; a checksum of each is a part of the format."""
    arrays = {name: getattr(index, name) for name in ("version", "places", "by_name")}
    refused = np.frombuffer(json.dumps(index.refused).encode(), np.uint8)
    np.savez(path, names=index.names.text, refused=refused, **arrays)


def _load_index(path: Path) -> Index:
    with np.load(path, allow_pickle=False) as stored:
        names, refused = Names(stored["names"]), json.loads(stored["refused"].tobytes())
        refused = [(name, reason) for name, reason in refused]
        index = Index(int(stored["version"]), names, stored["places"], refused, stored["by_name"])
    if index.places.shape != (len(names), 2) or index.by_name.shape != (len(names),):
        raise ValueError("not as many places as names")
    return index


def _read_index(shard: Path, version: int) -> Index:
    offsets = array("q")
    refused: list[tuple[str, str]] = []

    def names(tar: tarfile.TarFile) -> Iterator[str]:
        """Those that are read; their places and the others are noted."""
        end = -1
        while (found := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            if tar.offset <= end:
                raise tarfile.ReadError(f"leads back from byte {end}")
            end = tar.offset
            if found.isdir():
                continue
            name = found.pax_headers.get(REAL_NAME, found.name)
            reason = _why_not(found, name)
            name = PurePosixPath(name.lstrip("/")).as_posix()
            if reason:
                refused.append((name, reason))
            else:
                offsets.extend((found.offset_data, found.size))
                yield name

    with (
        _opened(shard) as file,
        tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar,
    ):
        found = Names.of(names(tar))
        file.seek(tar.offset)
        end_mark = file.read(tarfile.BLOCKSIZE)  # Python takes anything for the end
        if len(end_mark) < tarfile.BLOCKSIZE or any(end_mark):
            raise tarfile.ReadError(f"cut short or damaged at byte {tar.offset}")
        while rest := file.read(LARGEST_READ):
            if any(rest):
                raise tarfile.ReadError(f"more follows its end at byte {tar.offset}")
    places, order = np.array(offsets).reshape(-1, 2), found.path_order()
    again = [later for row, later in pairwise(order) if found[row] == found[later]]
    refused += [(found[int(row)], "a second file of this name") for row in again]
    if again:
        kept = np.delete(np.arange(len(found)), again)
        found, places = found.take(kept), places[kept]
        order = found.path_order()
    return Index(version, found, places, refused, order)


def _why_not(found: tarfile.TarInfo, name: str) -> str:
    """Why a file of a shard is not read; "" for one that is."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).anchor or Path(name).anchor:
        return "its path leads out of the shard"
    if found.islnk() or found.issym():
        return "a link in a shard"
    if not found.isreg():
        return "not a regular file"
    if found.issparse():
        return "a sparse file in a shard"
    if found.size > LARGEST_FILE:
        return f"more than {LARGEST_FILE // 10**6} MB in a shard"
    return ""


# --- files and addresses -------------------------------------------------------------------------


@contextlib.contextmanager
def _told(shard: Path) -> Iterator[None]:
    """In here, whatever goes wrong with a shard ends in one line: tarfile and the libraries behind
    fsspec answer with almost any exception."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except tarfile.TarError as error:
        raise UserError(
            f"{as_text(shard)} is no tar file, damaged, or compressed ({first_line(error)}): fetch "
            "it again, or uncompress it (gunzip), for images are read from the middle of it"
        ) from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, FileNotFoundError):
            reason = "it is not there, or out of reach"
        raise UserError(f"{as_text(shard)} cannot be read ({reason})") from None


def _version(shard: Path) -> int:
    if is_address(shard):
        return _remote_version(shard)
    status = shard.stat()
    return _as_number([status.st_size, status.st_mtime_ns])


@functools.cache
def _remote_version(address: Path) -> int:
    """Asked once by a process, not for each image."""
    system, path = _remote(address)
    facts = system.info(path)
    return _as_number([str(system.ukey(path)), str(facts.get("size")), str(facts.get("ETag"))])


def _as_number(facts: list[Any]) -> int:
    return int(records.digest(facts)[:12], 16)


def _opened(shard: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not is_address(shard):
        return real(shard).open("rb")
    system, path = _remote(real(shard))
    return system.open(path, "rb")


def _read(shard: Path, offset: int, size: int) -> bytes:
    if is_address(shard):
        return _read_remote(real(shard), offset, size)
    with real(shard).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _read_remote(address: Path, offset: int, size: int) -> bytes:
    for pause in (*PAUSES, None):
        try:
            system, path = _remote(address)
            return system.cat_file(path, start=offset, end=offset + size)
        except (UserError, FileNotFoundError, PermissionError):
            raise
        except Exception:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _remote(address: Path) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    fsspec keeps one for each process: none of them may be used in a copy of the process that has
    made it.

    Raises:
        UserError: when a package is missing, or the kind of address is not known.
    """
    text = as_text(address)
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{text}: addresses need a package: pip install fsspec") from None
    try:
        return url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise UserError(f"{text} cannot be read ({first_line(error)})") from None
