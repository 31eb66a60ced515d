"""Sorting images into a folder for each name. No file is ever overwritten or lost."""

import contextlib
import errno
import filecmp
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from src_py.clusters.names import comparable
from src_py.output.prediction import Prediction
from src_py.run import records
from src_py.run.bars import progress_bar
from src_py.run.claim import is_over
from src_py.run.files import read_record, write_record

UNSURE = "unsure"  # the folder of images that no cluster is sure of
MOVES_FILE = ".moves.json"  # in the folder of results, while images are moved
LONGEST_NAME = 200  # bytes; file systems allow 255
# Names that Windows keeps for devices, with or without an extension.
DEVICES = frozenset({"con", "prn", "aux", "nul"}) | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(10)
}


@dataclass(frozen=True)
class Placement:
    """Where one image belongs.

    Attributes:
        present: the image, or one of the same content, is there already.
    """

    source: Path
    target: Path
    present: bool


@dataclass
class Outcome:
    """What has been done."""

    placed: int = 0
    present: int = 0
    failures: list[str] = field(default_factory=list)  # a line each


def plan(
    predictions: Iterable[Prediction], out: Path, unsure: float, folders: Mapping[int, str]
) -> list[Placement]:
    """Where the images belong: out/<name>/<file>, or out/unsure/<file> below that confidence.

    Files of one name get " (2)", " (3)", ... A file that is named twice is placed once.

    Args:
        folders: of every cluster, see `folder_names`.
    """
    placements = []
    taken: set[str] = set()
    seen: set[str] = set()
    numbered: dict[Path, NumberedNames] = {}
    for prediction in predictions:
        source = os.path.abspath(prediction.path)
        if source in seen:
            continue
        seen.add(source)
        folder = UNSURE if prediction.confidence < unsure else folders[prediction.cluster]
        placement = _placement(prediction.path, out / folder, taken, numbered)
        taken.add(_key(placement.target))
        placements.append(placement)
    return placements


def folder_names(names: Mapping[int, str]) -> dict[int, str]:
    """A folder for each cluster: its name, as file systems allow it.

    Names that become the same by that are told apart by the clusters' numbers.

    Args:
        names: of all clusters, also of those that none of the images is in: so the folders are the
            same for any other images.
    """
    folders = {cluster: safe_name(name) or f"cluster_{cluster}" for cluster, name in names.items()}
    counts = Counter(map(comparable, folders.values()))
    return {
        cluster: folder if counts[comparable(folder)] == 1 else f"{folder} (cluster {cluster})"
        for cluster, folder in folders.items()
    }


def safe_name(name: str) -> str:
    """`name` as the name of a visible folder on any system; "" where nothing is left of it."""
    name = unicodedata.normalize("NFC", name)
    name = "".join("_" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in name)
    name = name.encode("utf-8", "ignore")[:LONGEST_NAME].decode("utf-8", "ignore")
    name = name.strip(" .")
    if not name.strip("_. "):
        return ""
    reserved = name.partition(".")[0].strip().casefold() in DEVICES or name.casefold() == UNSURE
    return f"{name}_" if reserved else name


def sort_files(placements: list[Placement], method: str) -> Outcome:
    """Copies, links or moves each source to its target. What fails does not stop the rest.

    Args:
        method: 'copy', 'link' (symbolic, else hard, else a copy) or 'move'.
    """
    outcome = Outcome()
    if method == "move":  # links first: they are to lead to where their files go
        placements = sorted(placements, key=lambda each: not os.path.islink(each.source))
        moves = [(each.source, each.target) for each in placements if not each.present]
        place: Callable[[Path, Path], None] = partial(_move, new_places=_new_places(moves))
    else:
        place = _copy if method == "copy" else _link
    _clear_parts(placement.target.parent for placement in placements)
    for placement in progress_bar(method, len(placements), placements):
        if placement.present:
            outcome.present += 1
            continue
        try:
            placement.target.parent.mkdir(parents=True, exist_ok=True)
            place(placement.source, placement.target)
            outcome.placed += 1
        except OSError as error:
            reason = error.strerror or str(error)
            outcome.failures.append(f"{placement.source} -> {placement.target}: {reason}")
    return outcome


def begin_moves(
    out: Path, placements: Iterable[Placement], predictions: Iterable[Prediction]
) -> None:
    """Writes down what is about to be moved, so that a killed move can be ended.

    Images that are not in their old place (any more) are left out.

    Args:
        predictions: all that predictions.csv holds.
    """
    moves = [
        [os.path.abspath(placement.source), str(placement.target), version]
        for placement in placements
        if not placement.present and (version := _version(placement.source))
    ]
    rows = [[str(p.path), *p[1:]] for p in predictions]
    write_record(out / MOVES_FILE, {"moves": moves, "predictions": rows})


def finish_moves(out: Path) -> list[Prediction]:
    """Ends moves into `out` that were interrupted: no image stays in both places.

    An image that has taken the place of one that was to be moved stays: it is to be classified.

    Returns:
        what predictions.csv held then, which no folder holds any more, without such images; []
        where no move was interrupted.

    Raises:
        UserError: when what was written down is damaged.
    """
    begun = _begun(out)
    others = set()
    moves = sorted(begun["moves"], key=lambda move: not os.path.islink(move[0]))
    new_places = _new_places((source, target) for source, target, *_ in moves)
    for source, target, *version in moves:
        same = _is_still(source, version)
        with contextlib.suppress(OSError):  # it may be sorted again
            _finish_move(Path(source), Path(target), same, new_places)
        if not same and os.path.lexists(source):
            others.add(source)
    rows = [Prediction(Path(path), *told) for path, *told in begun["predictions"]]
    return [row for row in rows if os.path.abspath(row.path) not in others]


def moves_left(out: Path) -> list[Path]:
    """The images whose move into `out` was begun, and that are in their old place.

    Raises:
        UserError: when what was written down is damaged.
    """
    moves = _begun(out)["moves"]
    return [Path(source) for source, _, *version in moves if _is_still(source, version)]


def end_moves(out: Path) -> None:
    """When all are moved, and predictions.csv holds them all."""
    (out / MOVES_FILE).unlink(missing_ok=True)


def _begun(out: Path) -> dict[str, Any]:
    remedy = f"delete it, and look whether images in {out} are still in their old place, too"
    begun = read_record(out / MOVES_FILE, records.MOVES, remedy)
    return begun or {"moves": [], "predictions": []}


def _version(path: str | Path) -> str:
    """Size and time of an image, which moving it does not change; "" where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _is_still(source: str, version: list[str]) -> bool:
    """Whether the image lies there that was to be moved.

    Args:
        version: one text; none in records of before, of which nobody knows whether it does.
    """
    return version == [_version(source)]


def _new_places(moves: Iterable[tuple[str | Path, str | Path]]) -> dict[str, str]:
    """Where files go, by where they really are: links are left out."""
    return {
        os.path.realpath(source): os.path.abspath(target)
        for source, target in moves
        if not os.path.islink(source)
    }


def _finish_move(source: Path, target: Path, same: bool, new_places: Mapping[str, str]) -> None:
    """
    Args:
        same: the source is the image that was to be moved, and may be, unclassified.
    """
    if not os.path.lexists(source):
        return
    if not os.path.lexists(target):
        if same:
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(source, target, new_places)
    elif source.is_symlink() == target.is_symlink() and _same_image(source, target):
        source.unlink()


def _clear_parts(folders: Iterable[Path]) -> None:
    """Removes what killed processes have copied only in part."""
    for folder in set(folders):
        for part in folder.glob(".*.part"):
            process = part.name.split(".")[1]
            if process.isascii() and process.isdigit() and is_over(int(process), part):
                part.unlink(missing_ok=True)


class NumberedNames:
    """The targets for files of one name in one folder, as a plan goes through them.

    Every number is tried once, or the ten-thousandth file of a name would try all those before it.

    Attributes:
        untried: those that no file has tried.
        others: those tried that exist and were no file's so far, but may be the next one's.
    """

    def __init__(self, target: Path) -> None:
        self.untried = _candidates(target)
        self.others: list[Path] = []


def _placement(
    source: Path, folder: Path, taken: set[str], numbered: dict[Path, NumberedNames]
) -> Placement:
    target = folder / source.name
    if _same_file(source.parent, folder):
        return Placement(source, target, present=True)
    names = numbered.setdefault(target, NumberedNames(target))
    for other in names.others:
        if _key(other) not in taken and _same_image(source, other):
            return Placement(source, other, present=True)
    for untried in names.untried:
        if _key(untried) in taken:
            continue
        if not os.path.lexists(untried):
            return Placement(source, untried, present=False)
        if _same_image(source, untried):
            return Placement(source, untried, present=True)
        names.others.append(untried)
    raise AssertionError("there is always another number")


def _candidates(target: Path) -> Iterator[Path]:
    """cat.png, cat (2).png, cat (3).png, ..."""
    yield target
    for number in count(2):
        yield target.with_name(f"{target.stem} ({number}){target.suffix}")


def _key(target: Path) -> str:
    """Equal for paths that some file systems take for the same."""
    return unicodedata.normalize("NFC", str(target)).casefold()


def _same_image(first: Path, second: Path) -> bool:
    return _same_file(first, second) or _same_content(first, second)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:  # one of them is not there
        return False


def _same_content(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:  # a link that leads nowhere, or a file that may not be read
        return False


def _copy(source: Path, target: Path) -> None:
    # The copy gets its name when it is whole.
    temporary = target.with_name(f".{os.getpid()}.part")
    try:
        shutil.copy2(source, temporary)
        _rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    real = source.resolve()
    for link in (target.symlink_to, target.hardlink_to):
        try:
            return link(real)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):  # not on this file system, or not by this user
            continue
    _copy(source, target)


def _move(source: Path, target: Path, new_places: Mapping[str, str]) -> None:
    """
    Args:
        new_places: of files that are moved too, which a link is then to lead to.
    """
    if source.is_symlink():  # which may be relative, and would then lead nowhere
        file = os.path.realpath(source)
        target.symlink_to(new_places.get(file, file))
        _remove_moved(source, target)
        return
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)
        if not _same_content(source, target):
            target.unlink()
            raise OSError("the copy on the other disk differs from the file") from None
        _remove_moved(source, target)


def _rename(source: Path, target: Path) -> None:
    """Gives a file another name on the same disk. Unlike os.rename it never replaces one."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
        # A file system without hard links.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(source, target)
        return
    _remove_moved(source, target)


def _remove_moved(source: Path, target: Path) -> None:
    """Removes the old name; where that fails the new one, or the next run would take it for done.

    Unless the old one is gone meanwhile: then the new one is all that is left of the image.
    """
    try:
        source.unlink(missing_ok=True)
    except OSError:
        if os.path.lexists(source):
            target.unlink()
        raise
