"""A stage while it trains: its random numbers, its clock and its word to the user.

What plans and paces the training needs no more of it; run/session.py adds what is kept of it.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from tqdm import tqdm

from src_py.run.files import RunFiles
from src_py.run.hardware import Hardware

Batch = TypeVar("Batch")


class TrainingStage:
    """
    Every epoch draws its random numbers from a generator that is seeded by (seed, stage, epoch).
    """

    def __init__(
        self,
        files: RunFiles,
        stage: str,
        hardware: Hardware,
        seed: int,
        started: float | None = None,
    ) -> None:
        """
        Args:
            started: when the script was, by time.monotonic(); its start-up counts as its time.
        """
        self.files, self.stage, self.hardware = files, stage, hardware
        self._seed = seed
        self._started = time.monotonic() if started is None else started
        self.start_up = self.seconds
        self._ends: tuple[float, float] | None = None  # training's first and last of `seconds`

    @property
    def seconds(self) -> float:
        """Since the stage was begun, without pauses between an interruption and its resume."""
        return time.monotonic() - self._started

    @property
    def time_used(self) -> float:
        """Of what training may take, a fraction; 0 where no end has been set. Of several processes
        the first one's clock counts, so that all must ask."""
        if self._ends is None:
            return 0.0
        first, last = self._ends
        used = min(1.0, (self.seconds - first) / max(last - first, 1e-9))
        return self.hardware.world.of_the_first(used)

    def end_training_in(self, seconds: float) -> None:
        """From now on; at least one step of an epoch that has begun is trained."""
        self._ends = (self.seconds, self.seconds + seconds)

    def in_time(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an epoch, until the time is up; at least one.

        Where there is an end, the threads follow the load of the machine. Elsewhere their number
        stays, so that the same command gives the same weights.
        """
        for number, batch in enumerate(batches):
            if number and self.time_used >= 1:
                return
            threads = self.hardware.threads
            if self._ends and threads and (told := threads.look_again()):
                self.say(told)
            yield batch

    def generator(self, epoch: int) -> torch.Generator:
        """The random numbers of one epoch, on the device."""
        return self.hardware.generator(self._seed, *self.stage.encode(), epoch)

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
