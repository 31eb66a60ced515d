"""What the training stages share: resume, records, logs, progress."""

import math
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from configs.base_config import TrainingConfig
from src_py.augmentation import Augmentation
from src_py.clusters.health import ClusterHealth
from src_py.run.bars import progress_bar
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import as_plain, hashes, recorded
from src_py.run.hardware import Hardware, wait_for
from src_py.run.schedule import Schedule, Step
from src_py.run.stage_files import StageFiles
from src_py.run.training_stage import TrainingStage

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 1.0  # s, at least


class Stateful(Protocol):
    """A model, an optimizer, or anything else that can be stored and restored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class TrainingSession(TrainingStage):
    """One training stage of one run, from its first epoch or from where it was interrupted.

    A resumed stage sees just what an uninterrupted one would have seen: an epoch's random numbers
    depend on nothing before it.

    Attributes:
        is_resumable: whether there is a state of this training to go on from.
    """

    def __init__(
        self,
        config: TrainingConfig,
        stage: str,
        hardware: Hardware,
        made_from: Sequence[Path] = (),
        started: float | None = None,
    ) -> None:
        """
        Args:
            made_from: files of earlier stages; when they change, the stage begins again.
            started: see TrainingStage.

        Raises:
            UserError: when the stage was begun with other options and `restart` is not set.
        """
        super().__init__(config.files, stage, hardware, config.seed, started)
        self._store_every = config.checkpoint_seconds
        self.history: list[dict[str, float]] = []
        self._warned: set[str] = set()
        self._sums: dict[str, torch.Tensor] = {}  # of an epoch's recorded values, on the device
        self._columns: dict[str, float] = {}
        self._logged = -math.inf  # when, by time.monotonic()
        self._kept = StageFiles(self.files, stage, hashes(made_from), config.restart)
        self._options = recorded(config)
        self._tell_if_stale()
        self._kept.require_same_options(self._options)
        self._writes = hardware.world.is_first
        self.is_resumable = self._kept.is_resumable
        # All have read what there is before the first one changes it.
        if len(set(hardware.world.gathered([(self.is_resumable, self._kept.is_stale)]))) > 1:
            raise UserError(
                f"the processes do not see the same files in {self.files.checkpoints}: all of them "
                f"need one folder"
            )
        kept = config.tensorboard and self._writes
        self._writer = _tensorboard_writer(self.files.logs / stage) if kept else None

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do; says so."""
        if not self._kept.is_finished:
            return False
        self.say(f"{self.stage}: finished already ({self._kept.output}); --restart begins again")
        return True

    def remember(self, settled: dict[str, Any]) -> None:
        """What a first stage has settled of the images, for the run's later stages.

        Raises:
            UserError: when it goes on, and was begun with other images.
        """
        begun, now = (self._kept.begun or {}).get("data"), settled["images"]
        if self.is_resumable and begun is not None:
            before = begun["images"]
            if before["key"] != now["key"] and before["pixels"] != now["pixels"]:
                raise UserError(
                    f"{self.stage} of run '{self.files.run}' was begun with other images than "
                    f"those of now; add --restart to begin again"
                )
        self._kept.remembered = settled

    def stored_schedule(self, images: int) -> Schedule | None:
        """The schedule that a stage that goes on was begun with; None where it begins.

        Args:
            images: that there are now.

        Raises:
            UserError: when they were others, or when the stage's record has no schedule.
        """
        if not self.is_resumable:
            return None
        stored = self._kept.begun or {}
        if "schedule" not in stored:
            raise UserError(
                f"{self.files.begun_config(self.stage)} tells no schedule; add --restart to begin "
                f"again"
            )
        schedule = Schedule(**stored["schedule"])
        if schedule.images != images:
            raise UserError(
                f"{self.stage} of run '{self.files.run}' was begun with {schedule.images} "
                f"images, now {images}; add --restart to begin again"
            )
        return schedule

    def epochs(self, schedule: Schedule, **state: Stateful) -> Iterator[int]:
        """Yields the numbers of the epochs that are left and keeps their books.

        Args:
            state: what must be restored on resume and stored for it.
        """
        total, images_per_epoch = schedule.epochs, schedule.images_per_epoch
        self._epochs = total
        if schedule.seconds is not None:
            self.end_training_in(schedule.seconds)
        self.begin(schedule)
        first = self._restore(state)
        stored_at = time.monotonic()
        self._bar = progress_bar(
            self.stage, total * images_per_epoch, done=first * images_per_epoch
        )
        with self._bar:
            for epoch in range(first, total):
                started = time.monotonic()
                self._sums, self._columns, self._steps, self._images = {}, {}, 0, 0
                yield epoch
                wait_for(self.hardware.device)
                is_over = self.time_used >= 1
                is_last = is_over or epoch + 1 == total
                self._close_epoch(epoch, time.monotonic() - started, is_last)
                if is_over and epoch + 1 < total:
                    self.say(f"{self.stage}: the time is up in epoch {epoch + 1}")
                    return
                if time.monotonic() - stored_at >= self._store_every and epoch + 1 < total:
                    self._store(state, epoch + 1)
                    stored_at = time.monotonic()

    def record(self, step: Step) -> None:
        """Adds one step's values to the epoch's means. Tensors are read once an epoch, not now."""
        self._steps += 1
        self._images += step.images
        for name, value in step.values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float().mean()
        self._bar.update(step.images)

    def total(self, name: str) -> float:
        """Sum of a recorded value over the steps of the epoch so far."""
        return float(self._sums[name])

    def mean(self, name: str) -> float:
        """Mean of a recorded value over the steps of the epoch so far."""
        return self.total(name) / self._steps

    def report(self, epoch: int, health: ClusterHealth, *more: str) -> None:
        """Prints an epoch's health, adds it to its row of the log, and warns where it is bad.

        A warning is said when it comes up, and again after the last epoch.
        """
        self._columns = health.columns()
        told = ", ".join([str(health), *more])
        self.say(f"{self.stage} epoch {epoch + 1}/{self._epochs}: {told}")
        warnings = health.warnings(self.stage)
        is_last = self.time_used >= 1 or epoch + 1 == self._epochs
        for kind, warning in warnings.items():
            if kind not in self._warned or is_last:
                self.say(f"{self.stage}: warning: {warning}")
        self._warned |= set(warnings)

    def finish(self, content: dict, **facts: object) -> Path:
        """Puts the stage's final checkpoint in the place of an earlier one; the resumable state is
        then of no more use.

        Args:
            facts: what else the stage's record tells of how it ended.
        """
        if not self._writes:
            return self._kept.output
        content = {"stage": self.stage, "config": self._options, **content}
        path = self._kept.finish(content, seconds=round(self.seconds, 1), **facts)
        if self._writer:
            self._writer.close()
        return path

    def _tell_if_stale(self) -> None:
        if self._kept.is_stale and self._kept.output.exists():
            earlier = self.files.is_stale(self.stage, corrected=False)
            what = "an earlier stage" if earlier else self.files.corrections
            self.say(f"{self.stage}: {what} has changed since; training again")

    def begin(self, schedule: Schedule | None = None) -> None:
        """From here on this start of the stage is the one that goes on; `epochs` calls it.

        What an earlier training has made stands until `finish` puts the new in its place.

        Args:
            schedule: of the training; None where nothing is trained.
        """
        told = {
            "hardware": str(self.hardware),
            "torch": torch.__version__,
            "config": self._options,
        }
        if schedule is not None:
            told["schedule"] = as_plain(schedule)
        if self._writes:
            self._kept.begin(**told)
        self.say(f"{self.stage}: {self.hardware}\n{_describe(self._options)}")

    def _close_epoch(self, epoch: int, seconds: float, is_last: bool) -> None:
        means = {name: self.mean(name) for name in self._sums}
        if not all(torch.isfinite(torch.tensor(value)) for value in means.values()):
            raise UserError(
                f"{self.stage}: a loss of epoch {epoch + 1} is not finite ({means}); "
                f"lower --learning-rate and begin again with --restart"
            )
        row = {"epoch": epoch + 1, **{name: round(value, 6) for name, value in means.items()}}
        row |= self._columns
        row |= {"images_per_second": round(self._images / seconds, 1), "seconds": round(seconds, 3)}
        self.history.append(row)
        # All rows are written each time: with thousands of short epochs, not after each of them.
        if self._writes and (is_last or time.monotonic() - self._logged >= LOG_EVERY):
            rows = [tuple(past.values()) for past in self.history]
            write_table(self.files.log(self.stage), tuple(row), rows)
            self._logged = time.monotonic()
        self._bar.set_postfix({"epoch": epoch + 1, **{k: f"{v:.3f}" for k, v in means.items()}})
        if self._writer:
            for name, value in means.items():
                self._writer.add_scalar(name, value, epoch + 1)

    def _store(self, state: dict[str, Stateful], next_epoch: int) -> None:
        if not self._writes:
            return
        parts = {name: part.state_dict() for name, part in state.items()}
        content = {
            "next_epoch": next_epoch,
            "history": self.history,
            "seconds": self.seconds,
            "ends": self._ends,
            "state": parts,
        }
        self._kept.store(content)

    def _restore(self, state: dict[str, Stateful]) -> int:
        if not self.is_resumable:
            return 0
        content = self._kept.state()
        try:
            for name, part in state.items():
                part.load_state_dict(content["state"][name])
        except (KeyError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n", 1)[0]
            raise UserError(
                f"{self.files.partial(self.stage)} does not fit this version ({reason}); "
                f"{self.files.remedy(self.stage)}"
            ) from None
        self.history = content["history"]
        self._started -= content["seconds"]
        self._ends = content["ends"]
        self.say(f"{self.stage}: continuing after epoch {content['next_epoch']}")
        return content["next_epoch"]


def _describe(options: dict[str, Any]) -> str:
    """The complete configuration on a few lines; of a view, only the parts that are in use."""
    neutral = as_plain(Augmentation())
    words = []
    for name, value in options.items():
        if isinstance(value, dict):
            used = [f"{part} {v}" for part, v in value.items() if v != neutral[part]]
            value = f"({', '.join(used)})"
        words.append(f"{name} {value}")
    text = ", ".join(words)
    return textwrap.fill(text, width=100, initial_indent="  ", subsequent_indent="  ")


def _tensorboard_writer(folder: Path) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard: TensorBoard is not installed; pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder))
