"""Where the files of one run live, and how they are written so that none is ever half there."""

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src_py.run import records
from src_py.run.errors import UserError
from src_py.run.records import Damaged, Schema
from src_py.run.stages import CHECKPOINT_ROOT, CORRECTIONS_FILE, PRETEXTS, STAGES
from src_py.run.writing import write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOG_ROOT = Path("logs")
DOWNLOAD_FOLDER = Path("data")  # of the sets that have names

ONLY_VIEWS = {"views": 2, "view_side": 1.0}  # of a pretext that was begun before there was a choice
REMEMBERED_FROM = 2**20  # bytes, of a file whose SHA-256 is worth remembering
RECORD_PAUSES = (0.1, 0.4, 0.0)  # s, between looks at a file that does not go with its record

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
    def mining(self) -> Path:
        """The folder of what an unfinished extract_features.py has made so far."""
        return self.checkpoints / "mining.partial"

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
        """How a stage was begun and ended, and the SHA-256 of each of its outputs."""
        return self.checkpoints / f"{stage}.json"

    def outputs(self, stage: str) -> list[Path]:
        return [self.checkpoints / name for name in STAGES[stage].outputs]

    def begun_config(self, stage: str) -> Path:
        """How a training that is not finished was begun, and which states of it are whole."""
        return self.checkpoints / f"{stage}.partial.json"

    def inputs(self, stage: str) -> list[Path]:
        """What a stage is made from, when all of it is there, and each made from the one before.

        Raises:
            UserError: naming the command that makes what is missing, damaged or out of date.
        """
        self.require(self.data, PRETEXTS[0])
        found = []
        for needed in STAGES[stage].needs:
            made_from = self.inputs(needed)
            outputs = [self.made(output, needed) for output in self._present(needed)]
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
        record = self.record(stage)
        return record is not None and self._is_of_now(record, stage, corrected)

    def is_stale(self, stage: str, corrected: bool = True) -> bool:
        """Whether a stage was begun on inputs that are others now, or gone; see `is_current`."""
        record = self.begun(stage)
        return record is not None and not self._is_of_now(record, stage, corrected)

    def _is_of_now(self, record: dict[str, Any], stage: str, corrected: bool) -> bool:
        inputs = [path for needed in STAGES[stage].needs for path in self._present(needed)]
        if not all(map(Path.exists, inputs)):
            return False
        made_from, heeds = record["made_from"], STAGES[stage].heeds
        if corrected:
            return made_from == hashes(inputs + self.heeded(stage))
        return {name: made_from[name] for name in made_from if name not in heeds} == hashes(inputs)

    def _present(self, stage: str) -> list[Path]:
        """All that a stage has to leave, and what it sometimes leaves where it is there."""
        more = (self.checkpoints / name for name in STAGES[stage].sometimes)
        return self.outputs(stage) + [path for path in more if path.exists()]

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

    def made(self, path: Path, stage: str) -> Path:
        """`path`, when it is there and is what the stage's record says that it made.

        Raises:
            UserError: naming the stage that makes what is missing, damaged or of another run.
        """
        self.require(path, stage)
        for pause in RECORD_PAUSES:
            maker = self.maker(stage)
            record = self.record(maker)
            told = None if record is None else record["outputs"].get(path.name)
            if record is not None and path.is_file() and told == sha256(path):
                self._require_same_settings(path, record)
                return path
            time.sleep(pause)  # a stage that has just ended may be putting its files in place
        what = (
            f"has no record beside it ({self.config(maker).name})"
            if record is None
            else f"is not the file that {maker}.py made: it is damaged, or of another run"
        )
        raise UserError(f"run '{self.run}': {path} {what}; {self.remedy(maker)}")

    def _require_same_settings(self, path: Path, record: dict[str, Any]) -> None:
        """
        Raises:
            UserError: when data.json tells of other images than those that `path` was made with.
        """
        if "settings" in record and record["settings"] != settings_digest(self.settled()):
            raise UserError(
                f"run '{self.run}': {self.data} is of other images than {path}; begin again: "
                f"python {self.maker(PRETEXTS[0])}.py {self.option} --data DIR --restart"
            )

    def maker(self, stage: str) -> str:
        """The script that has made what a stage makes: of the pretext either of two."""
        if stage not in PRETEXTS:
            return stage
        return next((name for name in PRETEXTS if self.config(name).exists()), stage)

    def remedy(self, stage: str) -> str:
        """What makes the files of a stage again, in words."""
        again = " --restart" if STAGES[stage].share else ""
        return f"make it again: python {stage}.py {self.option}{again}"

    def record(self, stage: str) -> dict[str, Any] | None:
        """What a stage wrote of how it was begun and ended; None before it has ended.

        Raises:
            UserError: when the record is damaged.
        """
        path = self.config(stage)
        return read_record(path, records.FINISHED, f"delete it, then {self.remedy(stage)}")

    def begun(self, stage: str) -> dict[str, Any] | None:
        """What a stage wrote of how it was last begun; None before its first start.

        Raises:
            UserError: when the record is damaged.
        """
        path = self.begun_config(stage)
        remedy = f"delete it, then {self.remedy(stage)}"
        stored = read_record(path, records.BEGUN, remedy) or self.record(stage)
        if stored is not None and stage in PRETEXTS:
            stored["config"] = ONLY_VIEWS | stored["config"]
        return stored

    def settled(self, script: str = "") -> dict[str, Any] | None:
        """What the run remembers of its images and options; None before it was begun.

        Args:
            script: for whom: a first stage that was begun again has settled anew, which counts for
                the others once it has ended.

        Raises:
            UserError: when it is damaged.
        """
        remedy = f"begin again: python {PRETEXTS[0]}.py {self.option} --data DIR --restart"
        if script in PRETEXTS:
            begun = read_record(self.begun_config(script), records.BEGUN, remedy)
            if begun and begun.get("data"):
                return begun["data"]
        return read_record(self.data, records.DATA, remedy)

    def log(self, stage: str) -> Path:
        return self.logs / f"{stage}.csv"


def settings_digest(settled: dict[str, Any] | None) -> str:
    """Of how a run sees its images; the folder may move."""
    settings = {} if settled is None else settled["settings"] | {"root": None}
    return records.digest(settings)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits, as `sha256sum` prints it."""
    status = path.stat()
    if status.st_size < REMEMBERED_FROM:
        return _sha256(path)
    return _remembered_sha256(path.resolve(), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.cache
def _remembered_sha256(path: Path, size: int, modified: int, number: int) -> str:
    """A large file is read once by a process, however many ask, until it is another."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its name: whether a later stage was made from just these."""
    return {path.name: sha256(path) for path in paths}


def write_json(path: Path, content: dict | list) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object with its checksum; see records.py."""
    write_json(path, records.sealed(content))


def read_record(path: Path, schema: Schema, remedy: str) -> dict[str, Any] | None:
    """What `write_record` wrote, or None where there is no such file.

    Raises:
        UserError: when the file does not hold that (any more), or cannot be read.
    """
    try:
        if os.path.lexists(path) and not path.is_file():  # a folder, or a link that leads nowhere
            raise Damaged("not a file")
        return records.opened(path.read_bytes(), schema)
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None


def load_json(path: Path) -> Any:
    """The content of `path`, which must be there.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        return records.parse(path.read_bytes())
    except Damaged as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and run what makes it again"
        ) from None


def as_plain(config: "DataclassInstance") -> dict[str, Any]:
    """A configuration dataclass as what JSON and checkpoints can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def recorded(config: "DataclassInstance") -> dict[str, Any]:
    """What a stage's record keeps of its options."""
    return {name: value for name, value in as_plain(config).items() if name != "show_config"}
