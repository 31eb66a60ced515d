"""SIGKILL at random moments and at changes of files: the same command then ends as ever."""

import functools
import os
import random
import shutil
import signal
import sys
from pathlib import Path

from tests.conftest import PROJECT
from tests.script_process import Copy, nothing
from tests.torture.base import (
    HELD,
    IMAGES,
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

RESULTS = {
    "simclr": ("pretext.pt",),
    "extract_features": ("features.npy", "neighbors.npy", "rows.csv"),
    "scan": ("scan.pt",),
    "selflabel": ("selflabel.pt",),
}
LONGEST = 3.0  # s, about what a stage takes
MOST_OPERATIONS = 40
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "shutil.move")


def kill_at_operation(number: int) -> None:
    """In this process, the given change of a file is the last thing that happens."""
    left = number

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")
        )
        if writes or event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def killed(folder: Path, script: str, arguments: tuple[str, ...], drawn: random.Random) -> str:
    """Begins a script and kills it; returns when, in words."""
    command = [str(PROJECT / f"{script}.py"), *arguments]
    if drawn.random() < 0.5:
        number = drawn.randint(1, MOST_OPERATIONS)
        Copy(command, folder, functools.partial(kill_at_operation, number)).done()
        return f"at change {number} of a file"
    seconds = drawn.uniform(0, LONGEST)
    copy = Copy(command, folder, nothing)
    copy.process.join(seconds)
    copy.process.kill()
    copy.done()
    return f"after {seconds:.2f} s"


def trial(base: Path, folder: Path, number: int) -> Verdict:
    drawn = random.Random(f"kill {number}")
    folder = copied(base, folder)
    kind = drawn.choice(["stage", "stage", "restart", "move", "label"])
    if kind == "move":
        return _move(folder, drawn)
    if kind == "label":
        return _label(folder, drawn)
    stage = drawn.choice(list(STAGES))
    return _stage(base, folder, stage, kind == "restart" and stage != "extract_features", drawn)


def _stage(base: Path, folder: Path, stage: str, restart: bool, drawn: random.Random) -> Verdict:
    """A stage alone, from nothing or over a finished one."""
    kept = folder / "ckp" / "mine"
    if not restart:
        later = list(STAGES)[list(STAGES).index(stage) :]
        for name in (f"{name}.json" for name in later):
            (kept / name).unlink(missing_ok=True)
        for name in (result for each in later for result in RESULTS[each]):
            (kept / name).unlink(missing_ok=True)
        if stage == "simclr":
            shutil.rmtree(kept)
    arguments = STAGES[stage] + (("--restart",) if restart else ())
    when = killed(folder, stage, arguments, drawn)
    words = f"{stage}.py{' --restart' if restart else ''} killed {when}"
    if restart:  # what stood still answers, or says in a line why not
        run(folder, "predict", *PREDICT)
    succeed(folder, stage, *arguments)
    for result in RESULTS[stage]:
        if content_of(kept / result) != content_of(base / "ckp" / "mine" / result):
            raise Fault(Outcome.LOST, f"{words}: {result} differs from that of an undisturbed run")
    if restart and not any(_names_a_cat(path) for path in kept.glob("labels*.json")):
        raise Fault(Outcome.LOST, f"{words}: the names are gone")
    if left := [path.name for path in kept.iterdir() if path.name.startswith(".")]:
        left = [name for name in left if not name.endswith(".lock")]
        if left:
            raise Fault(Outcome.LOST, f"{words}: temporary files stay: {left}")
    return HELD


def _names_a_cat(path: Path) -> bool:
    return '"cat"' in path.read_text(encoding="utf-8")


def _move(folder: Path, drawn: random.Random) -> Verdict:
    """Every image is in one place, and in predictions.csv, however often it is tried again."""
    arguments = (*PREDICT, "--sort", "move")
    when = killed(folder, "predict", arguments, drawn)
    for _ in range(2):
        run(folder, "predict", *arguments)  # the second finds nothing left to move
    places = [path for root in ("photos", "out") for path in (folder / root).rglob("*.png")]
    names = sorted(path.name for path in places)
    if names != [f"{number:02d}.png" for number in range(IMAGES)]:
        raise Fault(Outcome.LOST, f"--sort move killed {when}: images are {names}")
    rows = (folder / "out" / "predictions.csv").read_text(encoding="utf-8").count(".png")
    if rows < IMAGES:
        raise Fault(Outcome.LOST, f"--sort move killed {when}: predictions.csv has {rows} images")
    return HELD


def _label(folder: Path, drawn: random.Random) -> Verdict:
    when = killed(folder, "label", (*RUN, "--name", "1=dog"), drawn)
    succeed(folder, "label", *RUN, "--name", "1=dog")
    text = (folder / "ckp" / "mine" / "labels.json").read_text(encoding="utf-8")
    if '"cat"' not in text or '"dog"' not in text:
        raise Fault(Outcome.LOST, f"label.py killed {when}: {text}")
    return HELD
