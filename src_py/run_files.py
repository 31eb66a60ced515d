"""Where the files of one run live, and how they are written so that none is ever half there."""

import csv
import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHECKPOINT_ROOT = Path("ckp")
LOG_ROOT = Path("logs")

# The file that each training stage leaves in ckp/<run>/, by the script's name.
STAGE_OUTPUT = {
    "simclr": "pretext.pt",
    "moco": "pretext.pt",
    "scan": "scan.pt",
    "selflabel": "selflabel.pt",
}

# Options that say how or where to compute, not what: they may change when a stage is resumed. The
# folder is among them because the run itself remembers it (data.json).
FREE_OPTIONS = frozenset(
    {"data", "device", "loading", "restart", "tensorboard", "checkpoint_seconds"}
)


@dataclass(frozen=True)
class RunFiles:
    """Paths of one run, relative to the folder the scripts are started in."""

    run: str

    @property
    def option(self) -> str:
        """What names the run on a command line."""
        return f"--run {shlex.quote(self.run)}"

    @property
    def checkpoints(self) -> Path:
        return CHECKPOINT_ROOT / self.run

    @property
    def logs(self) -> Path:
        return LOG_ROOT / self.run

    @property
    def data(self) -> Path:
        return self.checkpoints / "data.json"

    @property
    def features(self) -> Path:
        return self.checkpoints / "features.npy"

    @property
    def neighbors(self) -> Path:
        return self.checkpoints / "neighbors.npy"

    @property
    def rows(self) -> Path:
        """Which image each row of features.npy and neighbors.npy is: CSV of row, path."""
        return self.checkpoints / "rows.csv"

    @property
    def skipped(self) -> Path:
        return self.checkpoints / "skipped.csv"

    @property
    def duplicates(self) -> Path:
        return self.checkpoints / "duplicates.csv"

    @property
    def evaluation(self) -> Path:
        return self.logs / "evaluation.json"

    def output(self, stage: str) -> Path:
        """The finished checkpoint of a training stage, which is there only when it is done."""
        return self.checkpoints / STAGE_OUTPUT[stage]

    def partial(self, stage: str) -> Path:
        """The resumable state of a stage that is not finished."""
        return self.checkpoints / f"{stage}.partial.pt"

    def config(self, stage: str) -> Path:
        """The complete configuration that a stage was last started with."""
        return self.checkpoints / f"{stage}.json"

    def log(self, stage: str) -> Path:
        return self.logs / f"{stage}.csv"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary)` and moves the result to `path`, making folders that are missing.

    A crash leaves either the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because numpy and matplotlib choose or add one by the name.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict | list) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict | None:
    """The content of `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_array(path: Path, array: "np.ndarray") -> None:
    """Writes a numpy array as .npy, all or nothing."""
    import numpy as np

    write_atomically(path, lambda temporary: np.save(temporary, array))


def as_plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as what JSON and checkpoints can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    """Writes a CSV file with a header, all or nothing."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([header, *rows])

    write_atomically(path, write)
