"""The run that every trial damages a copy of, and the judgement of what a script then does."""

import enum
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.conftest import PROJECT, TINY, write_image
from tests.script_process import Copy, nothing

IMAGES = 40
SECONDS = 120  # after which a script hangs
RUN = ("--run", "mine")

# Each stage of the run, in order, with the options that it is begun with.
STAGES = {
    "simclr": ("--data", "photos", *RUN, "--width", "4", "--checkpoint-seconds", "0", *TINY),
    "extract_features": (*RUN, "--neighbors", "5", "--device", "cpu"),
    "scan": (
        *RUN, "--clusters", "4", "--head-epochs", "2", "--candidate-heads", "3", "--heads", "2",
        "--checkpoint-seconds", "0", *TINY,
    ),
    "selflabel": (*RUN, "--threshold", "0.3", "--checkpoint-seconds", "0", *TINY),
}  # fmt: skip
PREDICT = (*RUN, "photos", "--out", "out", "--device", "cpu")


class Outcome(enum.StrEnum):
    """How a trial ended; all but the first are faults."""

    HELD = "held"
    LOST = "lost"
    SILENT = "silent"
    TRACEBACK = "traceback"
    HANGING = "hanging"


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        told: what was done and what came of it, for a fault to be looked into.
    """

    outcome: Outcome
    told: str = ""


HELD = Verdict(Outcome.HELD)


class Fault(Exception):
    """Ends a trial with a verdict."""

    def __init__(self, outcome: Outcome, told: str) -> None:
        super().__init__(told)
        self.verdict = Verdict(outcome, told)


def run(
    folder: Path, script: str, *arguments: str, before: Callable[[], None] = nothing
) -> subprocess.CompletedProcess:
    """Runs a script, and judges how it ends whatever it was asked.

    Raises:
        Fault: unless it ends in time, with status 0, or with status 2 and one line.
    """
    command = [str(PROJECT / f"{script}.py"), *arguments]
    words = f"{script}.py {' '.join(arguments)}"
    try:
        done = Copy(command, folder, before).done(SECONDS)
    except subprocess.TimeoutExpired:
        raise Fault(Outcome.HANGING, f"{words}: no end after {SECONDS} s") from None
    if "Traceback" in done.stderr or done.returncode not in (0, 2):
        raise Fault(Outcome.TRACEBACK, f"{words}: {done.returncode}\n{done.stderr[-3000:]}")
    said = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    if done.returncode == 2 and (len(said) != 1 or not said[0].startswith(f"{script}.py: ")):
        raise Fault(Outcome.TRACEBACK, f"{words}: not one line\n{done.stderr[-3000:]}")
    return done


def succeed(folder: Path, script: str, *arguments: str) -> None:
    """
    Raises:
        Fault: as `run`, and where the script says that it cannot do it.
    """
    done = run(folder, script, *arguments)
    if done.returncode:
        raise Fault(Outcome.LOST, f"{script}.py {' '.join(arguments)}: {done.stderr}")


def make_base(folder: Path) -> None:
    """A whole run of which one cluster has a name, and predictions for its images."""
    for number in range(IMAGES):
        write_image(folder / "photos" / f"{number:02d}.png", number % 4, number)
    for script, arguments in STAGES.items():
        succeed(folder, script, *arguments)
    succeed(folder, "label", *RUN, "--name", "0=cat")
    succeed(folder, "predict", *PREDICT)


def copied(base: Path, folder: Path) -> Path:
    """The base in a folder of its own. Times of change stay: the image cache goes by them."""
    shutil.copytree(base, folder, copy_function=shutil.copy2, dirs_exist_ok=True)
    for path in sorted(base.rglob("*"), reverse=True):
        if path.is_dir():
            shutil.copystat(path, folder / path.relative_to(base))
    return folder


def content_of(path: Path) -> str:
    """What a result says, whatever else its file tells: weights, numbers, rows."""
    if not path.exists():
        return "missing"
    if path.suffix == ".pt":
        stored = torch.load(path, map_location="cpu", weights_only=True)
        digest = hashlib.sha256()
        for name, tensor in sorted(stored["weights"].items()):
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest() + str(stored.get("temperature"))
    if path.suffix == ".npy":
        array = np.load(path)
        return hashlib.sha256(array.tobytes()).hexdigest() + str(array.shape)
    if path.suffix == ".json":
        return str(json.loads(path.read_text(encoding="utf-8")).get("names"))
    return path.read_text(encoding="utf-8")
