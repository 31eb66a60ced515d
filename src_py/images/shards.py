"""Writes a folder of images as shards: tar files that WebDataset and all scripts here read.

    python -m src_py.images.shards photos shards
    python simclr.py --data shards --run holiday

Files are copied byte for byte, in the order of their paths; a divided folder becomes two, train/
and test/. The same command goes on where it was interrupted, and nothing is ever overwritten.
"""

import os
import re
import shlex
import shutil
import tarfile
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from configs.config_shards import ShardsConfig
from src_py.images.decoding import Skipped
from src_py.images.files import read_format
from src_py.images.kinds import extension_of
from src_py.images.opening import UnreadableImage
from src_py.images.report import count_left_out
from src_py.images.splits import folder_files, split_folder, what_is_left_out
from src_py.images.tars import LARGEST_FILE, REAL_NAME, index_of, is_in_shards
from src_py.run.addresses import SHARD
from src_py.run.bars import progress_bar
from src_py.run.claim import TEMPORARY, is_over
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.options import run_script
from src_py.run.writing import write_atomically


class Shard(NamedTuple):
    """A tar file to be written.

    Attributes:
        files: by their names in it, which are their paths below the folder.
    """

    path: Path
    files: dict[str, Path]


def main(config: ShardsConfig) -> None:
    root, out = config.folder, config.out
    if root.resolve() == out.resolve():
        raise UserError(f"{out}: is the folder of images itself: choose another for the shards")
    shards, left_out = plan(root, out, config.images_per_shard)
    clear(out, shards)
    missing = [shard for shard in shards if not is_written(shard)]
    require_room(out, missing)
    for shard in progress_bar("writing", len(missing), missing, unit="shard"):
        write_atomically(shard.path, partial(write, files=shard.files))
    images = sum(len(shard.files) for shard in shards)
    print(f"{out}: {images} images in {len(shards)} shards, {len(missing)} of them written now")
    outside, others = what_is_left_out(root)
    left_out += outside
    table = out / "left_out.csv"
    if left_out:
        write_table(table, ("path", "reason"), left_out)
    for line in count_left_out([], left_out, others, table):
        print(line)
    print(f"next: python simclr.py --data {shlex.quote(str(out))}")


def plan(root: Path, out: Path, images_per_shard: int) -> tuple[list[Shard], Skipped]:
    """The shards of a folder, and (path, reason) of images that are too large for one.

    Raises:
        UserError: when there is no folder, or no image in it.
    """
    shards: list[Shard] = []
    too_large: Skipped = []
    for split in ("train", "test"):
        paths, folder = folder_files(root, split), split_folder(root, split)
        if paths is None or folder is None:
            continue
        if paths and is_in_shards(paths[0]):
            raise UserError(f"{root}: its images are in shards already")
        large = {path for path in paths if path.stat().st_size > LARGEST_FILE}
        reason = f"more than {LARGEST_FILE // 10**6} MB"
        too_large += [(path.relative_to(root).as_posix(), reason) for path in sorted(large)]
        place, title = (out, root.resolve().name) if folder == root else (out / split, split)
        stem = re.sub(r"[^\w-]+", "_", title).strip("_") or "images"
        kept = [path for path in paths if path not in large]
        for number, start in enumerate(range(0, len(kept), images_per_shard)):
            part = kept[start : start + images_per_shard]
            own = {path.relative_to(folder).as_posix(): path for path in part}
            shards.append(Shard(place / f"{stem}-{number:06d}{SHARD}", own))
    if not shards:
        raise UserError(f"no image file in {root}: give a folder of images")
    return shards, too_large


def clear(out: Path, shards: list[Shard]) -> None:
    """Removes what killed processes have written only in part.

    Raises:
        UserError: when other shards are there, which would be read with these.
    """
    wanted = {shard.path for shard in shards}
    for path in sorted(out.rglob(f"*{SHARD}")):
        begun = TEMPORARY.fullmatch(path.name)
        if begun and is_over(int(begun[1]), path):
            path.unlink()
        elif not begun and path not in wanted:
            raise UserError(f"{path}: is another shard, of other images: choose another folder")


def is_written(shard: Shard) -> bool:
    """Whether a shard is there already.

    Raises:
        UserError: when what is there holds other images.
    """
    if not os.path.lexists(shard.path):
        return False
    index = index_of(shard.path)
    there = dict(zip(index.names, index.places[:, 1].tolist(), strict=True))
    newest = max(path.stat().st_mtime for path in shard.files.values())
    is_same = there == {name: path.stat().st_size for name, path in shard.files.items()}
    if not is_same or newest > shard.path.stat().st_mtime:
        raise UserError(
            f"{shard.path}: holds other or older images: delete it, or choose another folder"
        )
    return True


def require_room(out: Path, shards: list[Shard]) -> None:
    """
    Raises:
        UserError: when the disk is too full for them.
    """
    while not out.exists():
        out = out.parent
    wanted = sum(path.stat().st_size for shard in shards for path in shard.files.values())
    free = shutil.disk_usage(out).free
    if free < wanted:
        raise UserError(
            f"{out.resolve()}: {wanted / 1e6:,.0f} MB are written there, and {free / 1e6:,.0f} MB "
            "are free: choose a folder on another disk"
        )


def write(path: Path, files: dict[str, Path]) -> None:
    """Writes a tar file. Who owned the files is not told."""
    taken: set[str] = set()
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, source in files.items():
            with source.open("rb") as file:
                status = os.fstat(file.fileno())
                entry = tarfile.TarInfo(sample_name(name, source, taken))
                entry.size, entry.mtime = status.st_size, int(status.st_mtime)
                if entry.name != name:
                    entry.pax_headers = {REAL_NAME: name}
                tar.addfile(entry, file)


def sample_name(name: str, source: Path, taken: set[str]) -> str:
    """The name under which WebDataset takes an image for a sample of its own: it groups files by
    what precedes the first dot in their name, and passes over those without a dot.

    Args:
        taken: what precedes it in the names so far; the new one is added.
    """
    folder, slash, file = name.rpartition("/")
    extension = file[len(file) - len(extension_of(file)) :]
    stem = file.removesuffix(extension).replace(".", "_")
    keys = (f"{folder}{slash}{stem}{f'-{number}' if number > 1 else ''}" for number in count(1))
    key = next(key for key in keys if key not in taken)
    taken.add(key)
    return key + (extension or _usual_extension(source))


def _usual_extension(path: Path) -> str:
    try:
        return f".{read_format(path).lower()}"
    except UnreadableImage:
        return ".img"


if __name__ == "__main__":
    run_script(ShardsConfig, "shards", main, __doc__)
