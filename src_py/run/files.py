"""Where the files of one run live, and how they are written so that none is ever half there."""

import csv
import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src_py.run.errors import UserError
from src_py.run.stages import CORRECTIONS_FILE, PRETEXTS, STAGES

if TYPE_CHECKING:
    import numpy as np
    from _typeshed import DataclassInstance

CHECKPOINT_ROOT = Path("ckp")
LOG_ROOT = Path("logs")
DOWNLOAD_FOLDER = Path("data")  # of the sets that have names
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
HERE, APOSTROPHE = "./", "'"
PATH_COLUMNS = ("path", "duplicate_of")

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
        return self.outputs("extract_features")[0]

    @property
    def neighbors(self) -> Path:
        return self.outputs("extract_features")[1]

    @property
    def views(self) -> Path:
        """Features of random views, (N, V, D) float16, where the weights are frozen."""
        return self.checkpoints / "views.npy"

    @property
    def rows(self) -> Path:
        """Which image each row of features.npy and neighbors.npy is: CSV of row, path."""
        return self.checkpoints / "rows.csv"

    @property
    def corrections(self) -> Path:
        """What a person said of single images: CSV of path, cluster."""
        return self.checkpoints / CORRECTIONS_FILE

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
        (output,) = self.outputs(stage)
        return output

    def partial(self, stage: str) -> Path:
        """The resumable state of a stage that is not finished."""
        return self.checkpoints / f"{stage}.partial.pt"

    def config(self, stage: str) -> Path:
        """The complete configuration that a stage was last started with."""
        return self.checkpoints / f"{stage}.json"

    def outputs(self, stage: str) -> list[Path]:
        return [self.checkpoints / name for name in STAGES[stage].outputs]

    def inputs(self, stage: str) -> list[Path]:
        """What a stage is made from, when all of it is there, and each made from the one before.

        Raises:
            UserError: naming the command that makes what is missing or out of date.
        """
        self.require(self.data, PRETEXTS[0])
        found = []
        for needed in STAGES[stage].needs:
            made_from = self.inputs(needed)
            outputs = [self.require(output, needed) for output in self.outputs(needed)]
            if not self.is_current(needed):
                raise UserError(
                    f"run '{self.run}': {outputs[-1]} was not made from {made_from[-1]} as it is "
                    f"now; run again: python {needed}.py {self.option}"
                )
            found += outputs
        return found + self.heeded(stage)

    def heeded(self, stage: str) -> list[Path]:
        """The files of a person that a stage learns from, those that are there."""
        paths = (self.checkpoints / name for name in STAGES[stage].heeds)
        return [path for path in paths if path.exists()]

    def is_current(self, stage: str, corrected: bool = True) -> bool:
        """Whether a stage has been run, and on its inputs as they are now.

        Args:
            corrected: whether what a person has said since counts, too.
        """
        if not all(path.exists() for path in self.outputs(stage)):
            return False
        if not STAGES[stage].needs:
            return True
        return bool(self.record(stage)) and not self.is_stale(stage, corrected)

    def is_stale(self, stage: str, corrected: bool = True) -> bool:
        """Whether a stage was begun on inputs that are others now, or gone; see `is_current`."""
        record = self.record(stage)
        if record is None:
            return False
        inputs = [path for needed in STAGES[stage].needs for path in self.outputs(needed)]
        if not all(map(Path.exists, inputs)):
            return True
        made_from, heeds = record["made_from"], STAGES[stage].heeds
        if corrected:
            return made_from != hashes(inputs + self.heeded(stage))
        return {name: made_from[name] for name in made_from if name not in heeds} != hashes(inputs)

    def require(self, path: Path, stage: str) -> Path:
        """`path`, when it is there.

        Raises:
            UserError: naming the stage that makes the missing file.
        """
        if path.exists():
            return path
        hint = ""
        if not self.checkpoints.exists():
            known = sorted(path.parent.name for path in CHECKPOINT_ROOT.glob("*/data.json"))
            hint = f" (runs that exist: {', '.join(known)})" if known else ""
        raise UserError(
            f"run '{self.run}': {path} is missing; run first: python {stage}.py {self.option}{hint}"
        )

    def record(self, stage: str) -> dict[str, Any] | None:
        """What a stage wrote of how it was last begun and ended; None before its first start."""
        return read_json(self.config(stage))

    def log(self, stage: str) -> Path:
        return self.logs / f"{stage}.csv"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
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


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its name: whether a later stage was made from just these."""
    return {path.name: sha256(path) for path in paths}


def write_json(path: Path, content: dict | list) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_json(path: Path) -> dict[str, Any]:
    """The content of `path`, which must be there.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and run the stage that makes it again"
        ) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of `path`, or None where there is no such file."""
    try:
        return load_json(path)
    except FileNotFoundError:
        return None


def write_array(path: Path, array: "np.ndarray") -> None:
    """Writes a numpy array as .npy, all or nothing."""
    import numpy as np

    write_atomically(path, lambda temporary: np.save(temporary, array))


def as_plain(config: "DataclassInstance") -> dict[str, Any]:
    """A configuration dataclass as what JSON and checkpoints can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def recorded(config: "DataclassInstance") -> dict[str, Any]:
    """What a stage's record keeps of its options."""
    return {name: value for name, value in as_plain(config).items() if name != "show_config"}


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    """Writes a CSV file with a header, all or nothing.

    No cell is a formula when a spreadsheet opens it: see `path_from_cell` for the columns of paths;
    other text that begins like one gets an apostrophe.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(header)
            for row in rows:
                table.writerow(map(_inert, header, row))

    write_atomically(path, write)


def path_from_cell(cell: str) -> str:
    """The path in a column of paths: one that begins like a formula was written as ./PATH, which
    is the same file."""
    inner = cell.removeprefix(HERE)
    return inner if inner.startswith(FORMULA_MARKS) else cell


def _inert(column: str, cell: object) -> object:
    """What a table holds in the place of a cell that a spreadsheet would calculate."""
    text = str(cell)
    if not isinstance(cell, str | Path) or not text.startswith(FORMULA_MARKS):
        return cell
    return f"{HERE if column in PATH_COLUMNS else APOSTROPHE}{text}"
