"""Full disks, closed streams, missing permissions, little memory, and two at one time."""

import ctypes
import functools
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.conftest import PROJECT
from tests.script_process import Copy
from tests.torture.base import (
    HELD,
    PREDICT,
    STAGES,
    Fault,
    Outcome,
    Verdict,
    content_of,
    copied,
    run,
    succeed,
)
from tests.torture.kills import RESULTS

CAPABILITY_VERSION = 0x20080522


def limit_files(largest: int) -> None:
    """No file may become larger, as on a full disk or under a quota."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def limit_memory(more: int) -> None:
    """So many bytes more than now. With half of this Python itself cannot always end in order."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))


def limit_open_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def heed_permissions() -> None:
    """Also where root runs the campaign: without its capabilities it may write only where it says
    so. See capset(2)."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


# Of each: the stage, what is done in its process first, and the folders that cannot be written to.
FAULTS: list[tuple[str, Callable[[], None], tuple[str, ...]]] = [
    *((stage, functools.partial(limit_files, 2000), ()) for stage in STAGES),
    *((stage, functools.partial(limit_files, 60_000), ()) for stage in STAGES),
    *((stage, functools.partial(close, 1), ()) for stage in ("simclr", "scan")),
    *(
        (stage, functools.partial(close, 0, 1, 2), ())
        for stage in ("extract_features", "selflabel")
    ),
    *((stage, full_output, ()) for stage in ("simclr", "selflabel")),
    *((stage, heed_permissions, ("ckp",)) for stage in STAGES),
    *((stage, heed_permissions, ("logs",)) for stage in ("simclr", "scan", "selflabel")),
    *((stage, functools.partial(limit_memory, 2**27), ()) for stage in ("simclr", "scan")),
    *((stage, functools.partial(limit_open_files, 12), ()) for stage in ("simclr", "scan")),
]


def trial(base: Path, folder: Path, number: int) -> Verdict:
    """The stage begins over its finished one; what it cannot do, it says; then it succeeds."""
    stage, before, closed = FAULTS[number % len(FAULTS)]
    folder = copied(base, folder)
    closed_folders = [folder / name for name in closed]
    _allow_writing(closed_folders, False)
    arguments = STAGES[stage] + (() if stage == "extract_features" else ("--restart",))
    words = f"{stage}.py with {before} {closed}"
    try:
        run(folder, stage, *arguments, before=before)
    except Fault as fault:
        raise Fault(fault.verdict.outcome, f"{words}: {fault}") from None
    _allow_writing(closed_folders, True)
    succeed(folder, stage, *arguments)
    for result in RESULTS[stage]:
        if content_of(folder / "ckp/mine" / result) != content_of(base / "ckp/mine" / result):
            raise Fault(Outcome.LOST, f"{words}: {result} differs afterwards")
    return HELD


def _allow_writing(folders: list[Path], allowed: bool) -> None:
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755 if allowed else 0o555)


def company(base: Path, folder: Path, number: int) -> Verdict:
    """Two commands under one name at one time: at least one is done, and what is there is whole."""
    drawn = random.Random(f"company {number}")
    folder = copied(base, folder)
    pair = [drawn.choice(list(STAGES)) for _ in range(2)]
    if drawn.random() < 0.4:  # two folders under one name
        pair = ["simclr", "simclr"]
        shutil.copytree(folder / "photos", folder / "other")
        shutil.rmtree(folder / "ckp")
    commands = []
    for place, stage in enumerate(pair):
        arguments = list(STAGES[stage])
        if "other" in os.listdir(folder) and place:
            arguments[1] = "other"
        elif stage != "extract_features":
            arguments.append("--restart")
        commands.append([str(PROJECT / f"{stage}.py"), *arguments])
    copies = [Copy(command, folder) for command in commands]
    for copy in copies:
        done = copy.done()
        if "Traceback" in done.stderr or done.returncode not in (0, 2):
            raise Fault(Outcome.TRACEBACK, f"{pair}: {done.stderr[-2000:]}")
    for stage, arguments in STAGES.items():
        told = run(folder, stage, *arguments)
        if told.returncode and "--data" not in told.stderr:
            raise Fault(Outcome.LOST, f"{pair}, then {stage}.py: {told.stderr}")
    if run(folder, "predict", *PREDICT).returncode:
        raise Fault(Outcome.LOST, f"{pair}: predict.py refuses")
    return HELD
