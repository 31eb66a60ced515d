"""Cores of the processor: how many this process may use, and threads for those that are idle.

The threads of a step wait for one another hundreds of times, and so all of them for one whose core
another program has. Beside a second training on two cores, two threads took 0.2 steps a second and
one thread 19 (16 px, width 16; Linux 6.18, torch 2.13).
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from src_py.run.launch import launched_as

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: processor time in a period, both in µs
KERNEL_TIMES = Path("/proc/stat")  # what each core has done, in clock ticks, on Linux
TIMES = slice(1, 9)  # of a core's line there: what its time is divided into
IDLE = (4, 5)  # idle, and idle until a disk answers
TORCH_THREADS = torch.get_num_threads()  # before any script of this process has changed it
FIRST_LOOK = 0.25  # s
LOOK_EVERY = 10.0  # s
CHANGE_FROM = 0.6  # cores more or fewer: half a core of load does not change them at each look


def available_cores() -> int:
    """Processor cores that this process may use at once; of those that torchrun has started, its
    share."""
    return max(1, _shared_cores() // launched_as().local_size)


class IdleCoreThreads:
    """Torch's threads on a CPU, for the cores that other programs leave."""

    def __init__(self) -> None:
        self._cores = len(_own_cores()) or available_cores()
        self._most = min(TORCH_THREADS, available_cores())
        torch.set_num_threads(self._most)
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


@contextmanager
def working_threads(threads: int | None = None) -> Iterator[None]:
    """faiss and torch keep their numbers of threads in globals: sets them, and puts them back.

    Args:
        threads: None for as many as torch has, which are those of idle cores.
    """
    import faiss

    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    threads = threads or before[1]
    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before[0])
        torch.set_num_threads(before[1])


def others_seconds() -> float | None:
    """Processor time that other programs have had on the cores that this process may use, in s
    since some moment of the past; None where the system does not tell."""
    try:
        rows = [line.split() for line in KERNEL_TIMES.read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    own = {f"cpu{core}" for core in _own_cores()}
    busy = sum(
        sum(map(int, row[TIMES])) - sum(int(row[column]) for column in IDLE)
        for row in rows
        if row and row[0] in own
    )
    return busy / os.sysconf("SC_CLK_TCK") - _own_seconds()


def _own_seconds() -> float:
    """Processor time of this process, and of those that decode images for it."""
    own = os.times()
    ended = own.children_user + own.children_system
    return own.user + own.system + ended + sum(map(_seconds_of, active_children()))


def _seconds_of(process: BaseProcess) -> float:
    try:
        told = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has just ended
        return 0.0
    # Behind the name, which may have blanks: user and system time are the 12th and the 13th.
    user, system = told.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _own_cores() -> set[int]:
    """The numbers of the cores that this process may use; empty on macOS and Windows, which do not
    tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else set()


def _shared_cores() -> int:
    """What the processes of this machine have together."""
    cores = len(_own_cores()) or os.cpu_count() or 1
    try:
        limit, period = map(int, QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # none is told, or "max"
        return cores
    return max(1, min(cores, round(limit / period)))
