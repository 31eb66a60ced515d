"""Measuring throughput: interleaved arms, medians and spread, peak memory."""

import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from src_py.run.hardware import wait_for

# Entered, an arm gives a function that does one step and returns how many images it took.
Step = Callable[[], int]
Arm = Callable[[], AbstractContextManager[Step]]

SAMPLED_EVERY = 0.02  # s


@dataclass
class Measurement:
    """Images per second of one arm, a number for each round, and its peak memory.

    Attributes:
        memory: bytes: allocated on a CUDA device, else resident, worker processes included.
    """

    rates: list[float] = field(default_factory=list)
    memory: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def as_dict(self) -> dict:
        return {
            "images_per_second": round(self.median, 1),
            "lowest": round(min(self.rates), 1),
            "highest": round(max(self.rates), 1),
            "rounds": len(self.rates),
            "peak_memory_mib": round(self.memory / 2**20),
        }


def measure(
    arms: dict[str, Arm], rounds: int, seconds: float, device: torch.device
) -> dict[str, Measurement]:
    """Runs every arm once a round, in turn, so that a slow minute of the machine meets all alike.

    Args:
        seconds: least time of one arm in one round, after two steps that are not counted.
    """
    found = {name: Measurement() for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            reset_peak_memory(device)
            with arm() as step:
                for _ in range(2):
                    step()
                wait_for(device)
                started, images = time.perf_counter(), 0
                while time.perf_counter() - started < seconds:
                    images += step()
                    if device.type != "cpu":
                        # Kernels are queued far ahead: without a limit the loop would never see
                        # that the time is over.
                        images += sum(step() for _ in range(9))
                        wait_for(device)
                found[name].rates.append(images / (time.perf_counter() - started))
                found[name].memory = max(found[name].memory, peak_memory(device))
    return found


def top_operations(arm: Arm, device: torch.device) -> dict:
    """The share of the time that each of the 12 most expensive operations of an arm takes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with arm() as step:
        for _ in range(2):
            step()
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(5):
                step()
            wait_for(device)
    time_of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = {row.key: getattr(row, time_of) for row in profiler.key_averages()}
    whole = sum(spent.values())
    longest = sorted(spent, key=spent.__getitem__, reverse=True)[:12]
    return {name: round(spent[name] / whole, 4) for name in longest}


@contextmanager
def steady(step: Step) -> Iterator[Step]:
    """An arm that needs nothing built or torn down around it."""
    yield step


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the whole process
        return


def peak_memory(device: torch.device) -> int:
    """Bytes since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    processes = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
    try:
        return sum(_high_water_mark(process) for process in processes)
    except OSError:  # no /proc
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def private_memory() -> Iterator[Callable[[], int]]:
    """Gives a function that tells the most memory, in bytes, that this process has had to itself
    meanwhile: without the pages of files that it maps. 0 where the system does not say."""
    ended, seen = threading.Event(), [0]

    def look() -> None:
        while not ended.wait(SAMPLED_EVERY):
            seen[0] = max(seen[0], private_bytes("self"))

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield lambda: seen[0]
    finally:
        ended.set()
        watching.join()


def private_bytes(process: int | str) -> int:
    """Of a process and all that it has started; 0 where it is gone, or the system does not say."""
    children = Path(f"/proc/{process}/task").glob("*/children")
    try:
        own = _from_status(str(process), "RssAnon")
        started = [child for path in children for child in path.read_text().split()]
    except (OSError, StopIteration):
        return 0
    return own + sum(map(private_bytes, started))


def _high_water_mark(process: str) -> int:
    return _from_status(process, "VmHWM")


def _from_status(process: str, name: str) -> int:
    """Bytes."""
    text = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
