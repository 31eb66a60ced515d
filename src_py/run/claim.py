"""One process at a time writes a run, and what a killed one left half done is ended or cleared.

    claim(files)              # a stage, before it does anything: from now on the run is its own
    switch(files, moves)      # all of its new files take the places of the old ones, or none
    settle(files)             # a script that only reads: ends a switch that was interrupted

Both locks are the operating system's: they end with the process that holds them, however it ends.
"""

import atexit
import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from src_py.run import records
from src_py.run.errors import UserError
from src_py.run.files import LOG_ROOT, RunFiles, read_record, write_record
from src_py.run.launch import launched_as

LOCKS = ".locks"  # in ckp/
SWITCH_FILE = "switch.json"
NEW = ".new."  # begins the names of files that wait for a switch
TEMPORARY = re.compile(r"\..+\.(\d+)(\.\w+)?")  # of files.write_atomically; the number of a process
LONGEST_SWITCH = 60  # s
OLD_AGE = 86400  # s, of a temporary file where one cannot ask whether its process lives
CHECKPOINTS_WRITTEN = 4  # as many as its largest one may a stage write until it ends, at most

Move = tuple[str, str]  # names in ckp/<run>/, from and to

_held: dict[Path, filelock.BaseFileLock] = {}  # by the run's folder


def claim(files: RunFiles, folder: Path | None = None, begins_run: bool = False) -> None:
    """From now on, until `release` or its end, this process alone writes the run's checkpoints and
    logs.

    A run that does not exist is left to those who look for its files. Of several processes that
    work together the first one claims it for all.

    Args:
        folder: where the run's images are now, which the run remembers; None where it says.
        begins_run: whether the script is a first stage, which makes the run's folders.

    Raises:
        UserError: when another process writes them, or when they cannot be written to.
    """
    if not (begins_run or files.data.exists()) or not launched_as().is_first:
        return
    for place in (files.checkpoints, files.logs):
        _require_writable(place)
    folder_of_run = files.checkpoints.resolve()
    if folder_of_run not in _held:
        lock = filelock.FileLock(_lock_file(files, "stage"), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"run '{files.run}': another stage of it is at work: wait for it, or choose "
                f"another --run"
            ) from None
        _held[folder_of_run] = lock
    settle(files)
    if (files.checkpoints / SWITCH_FILE).exists():  # what waits for it must not be cleared
        raise UserError(
            f"run '{files.run}': files of an earlier stage cannot be put in their places: end the "
            f"programs that use them, and run this again"
        )
    _clear(files)
    _remember(files, folder)
    largest = max((path.stat().st_size for path in files.checkpoints.glob("*.pt")), default=0)
    require_room(files, CHECKPOINTS_WRITTEN * largest)


@atexit.register
def release() -> None:
    """Others may write what this process has claimed. A first stage that has failed early leaves
    no empty folders."""
    while _held:
        folder, lock = _held.popitem()
        with contextlib.suppress(OSError):
            folder.rmdir()
            (folder.parents[1] / LOG_ROOT / folder.name).rmdir()
        lock.release()


def require_room(files: RunFiles, wanted: int) -> None:
    """
    Args:
        wanted: bytes that are about to be written.

    Raises:
        UserError: when the disk of the run's folder is too full.
    """
    free = shutil.disk_usage(files.checkpoints).free
    if free < wanted:
        raise UserError(
            f"{files.checkpoints.resolve()}: up to {wanted / 1e6:,.0f} MB are written there, and "
            f"{free / 1e6:,.0f} MB are free: free some space"
        )


def new(path: Path) -> Path:
    """Where a file of the run waits for its switch."""
    return path.with_name(NEW + path.name)


def switch(files: RunFiles, moves: Sequence[Move], removed: Sequence[str] = ()) -> None:
    """Moves and removes files of ckp/<run>/: all, also when it is killed meanwhile.

    What is to be done is written down first; `settle` does what is left of it.

    Args:
        moves: in this order; what lies at a target is replaced.
        removed: afterwards, those that are there.
    """
    with editing(files):
        plan = {"moves": [list(move) for move in moves], "removed": list(removed)}
        write_record(files.checkpoints / SWITCH_FILE, plan)
        _complete(files)


def settle(files: RunFiles) -> None:
    """Ends a switch that was interrupted, where there is one and the folder can be written to."""
    if (files.checkpoints / SWITCH_FILE).exists():
        with contextlib.suppress(OSError), editing(files):
            _complete(files)


@contextlib.contextmanager
def editing(files: RunFiles) -> Iterator[None]:
    """No file of the run is switched meanwhile, and no other process edits what a person said.

    Raises:
        OSError: when the folder cannot be written to, or another process does not come to an end.
    """
    with filelock.FileLock(_lock_file(files, "switch"), timeout=LONGEST_SWITCH):
        yield


def _remember(files: RunFiles, folder: Path | None) -> None:
    settled = files.settled() if folder is not None else None
    if settled is None or settled["settings"]["root"] in (None, str(folder)):
        return
    settled["settings"]["root"] = str(folder)
    write_record(files.data, settled)
    print(f"run '{files.run}': its images are in {folder} now", flush=True)


def _lock_file(files: RunFiles, kind: str) -> Path:
    """Beside the run's folder, which holds only what the run keeps."""
    folder = files.checkpoints.parent / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{files.run}.{kind}"


def _complete(files: RunFiles) -> None:
    path = files.checkpoints / SWITCH_FILE
    remedy = "delete it, and run the stage again that was interrupted"
    plan = read_record(path, records.SWITCH, remedy)
    if plan is None:  # another process has done it meanwhile
        return
    for source, target in plan["moves"]:
        if (files.checkpoints / source).exists():
            os.replace(files.checkpoints / source, files.checkpoints / target)
    for name in plan["removed"]:
        (files.checkpoints / name).unlink(missing_ok=True)
    path.unlink()


def _require_writable(folder: Path) -> None:
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write in {folder.resolve()} ({error.strerror}): start the script in a folder "
            "of your own"
        ) from None


def _clear(files: RunFiles) -> None:
    """Removes what killed processes have left half written."""
    for folder in (files.checkpoints, files.logs):
        for path in folder.glob(".*"):
            found = TEMPORARY.fullmatch(path.name)
            waits = path.name.startswith(NEW)
            if waits or (found and is_over(int(found[1]), path)):
                with contextlib.suppress(OSError):
                    path.unlink()


def is_over(process: int, path: Path) -> bool:
    """Whether the process that was writing a temporary file is gone."""
    if os.name != "posix":
        return time.time() - path.stat().st_mtime > OLD_AGE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is somebody else's
        return False
    return False
