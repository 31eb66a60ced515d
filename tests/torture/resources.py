"""Full disks, closed streams, missing permissions, little memory, and two at one time."""

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
    RUN,
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

NOBODY = 65534


def limit_files(largest: int) -> None:
    """No file may become larger, as on a full disk or under a quota."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def limit_memory(more: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))


def limit_open_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def become_nobody() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)


# Of each: the stage, what is done in its process first, and the folders that nobody may write to.
FAULTS: list[tuple[str, Callable[[], None], tuple[str, ...]]] = [
    *((stage, functools.partial(limit_files, 2000), ()) for stage in STAGES),
    *((stage, functools.partial(limit_files, 60_000), ()) for stage in STAGES),
    *((stage, functools.partial(close, 1), ()) for stage in ("simclr", "scan")),
    *(
        (stage, functools.partial(close, 0, 1, 2), ())
        for stage in ("extract_features", "selflabel")
    ),
    *((stage, full_output, ()) for stage in ("simclr", "selflabel")),
    *((stage, become_nobody, ("ckp",)) for stage in STAGES),
    *((stage, become_nobody, ("logs",)) for stage in ("simclr", "scan", "selflabel")),
    *((stage, functools.partial(limit_memory, 2**26), ()) for stage in ("simclr", "scan")),
    *((stage, functools.partial(limit_open_files, 12), ()) for stage in ("simclr", "scan")),
]


def trial(base: Path, folder: Path, number: int) -> Verdict:
    """The stage begins over its finished one; what it cannot do, it says; then it succeeds."""
    stage, before, closed = FAULTS[number % len(FAULTS)]
    folder = copied(base, folder)
    if before is become_nobody:
        _open_to_all(folder, closed)
    arguments = STAGES[stage] + (() if stage == "extract_features" else ("--restart",))
    words = f"{stage}.py with {before} {closed}"
    try:
        run(folder, stage, *arguments, before=before)
    except Fault as fault:
        raise Fault(fault.verdict.outcome, f"{words}: {fault}") from None
    succeed(folder, stage, *arguments)
    for result in RESULTS[stage]:
        if content_of(folder / "ckp/mine" / result) != content_of(base / "ckp/mine" / result):
            raise Fault(Outcome.LOST, f"{words}: {result} differs afterwards")
    return HELD


def _open_to_all(folder: Path, closed: tuple[str, ...]) -> None:
    for parent in (folder, *folder.parents):
        if os.stat(parent).st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(0o755 if parent != folder else 0o777)
    for path in folder.rglob("*"):
        mine = any(path.is_relative_to(folder / name) for name in closed)
        path.chmod((0o755 if mine else 0o777) if path.is_dir() else (0o644 if mine else 0o666))


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
    if run(folder, "predict", *PREDICT, *RUN[:0]).returncode:
        raise Fault(Outcome.LOST, f"{pair}: predict.py refuses")
    return HELD
