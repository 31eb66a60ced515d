"""As many threads as cores are idle.

The threads of a step wait for one another hundreds of times, and so all of them for one whose core
another program has. Beside a second training on two cores, two threads took 0.2 steps a second and
one thread 19 (16 px, width 16; Linux 6.18, torch 2.13).
"""

import os
import time
from pathlib import Path

import torch

KERNEL_TIMES = Path("/proc/stat")  # what each core has done, in clock ticks, on Linux
TIMES = slice(1, 9)  # of a core's line there: what its time is divided into
IDLE = (4, 5)  # idle, and idle until a disk answers
FIRST_LOOK = 0.25  # s
LOOK_EVERY = 10.0  # s
CHANGE_FROM = 0.6  # cores more or fewer: half a core of load does not change them at each look


class IdleCoreThreads:
    """Torch's threads on a CPU, for the cores that other programs leave."""

    def __init__(self, cores: int) -> None:
        """
        Args:
            cores: that this process may use.
        """
        self._cores = cores
        self._most = torch.get_num_threads()
        self._looked, self._others = time.monotonic(), others_seconds()

    def first_look(self) -> str | None:
        """Waits a moment, and takes as many threads as cores were idle in it.

        Returns:
            what there is to say where their number has changed.
        """
        time.sleep(FIRST_LOOK)
        return self._adapt()

    def look_again(self) -> str | None:
        """The same for the time since the last look, where that is long enough."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return None
        return self._adapt()

    def _adapt(self) -> str | None:
        now, others = time.monotonic(), others_seconds()
        passed, before = now - self._looked, self._others
        self._looked, self._others = now, others
        if others is None or before is None:
            return None
        idle = self._cores - (others - before) / passed
        threads, taken = max(1, min(self._most, round(idle))), torch.get_num_threads()
        if threads == taken or abs(idle - taken) < CHANGE_FROM:
            return None
        torch.set_num_threads(threads)
        return (
            f"cpu: other programs leave {idle:.1f} of {self._cores} cores; threads from here on: "
            f"{threads} (OMP_NUM_THREADS sets another number)"
        )


def others_seconds() -> float | None:
    """Processor time that other programs have had on the cores that this process may use, in s
    since some moment of the past; None where the system does not tell."""
    try:
        rows = [line.split() for line in KERNEL_TIMES.read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = sum(
        sum(map(int, row[TIMES])) - sum(int(row[column]) for column in IDLE)
        for row in rows
        if row and row[0] in own
    )
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()
