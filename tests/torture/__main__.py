"""Runs the campaign; see the package."""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import PROJECT
from tests.script_process import prepare
from tests.torture import command_lines, images, kept_files, kills, processes, resources
from tests.torture.base import Fault, Outcome, Verdict, make_base

AT_ONCE = 2
MINUTES = 20  # after which no further trial begins
TABLE = PROJECT / "results" / "reliability.md"

Trial = Callable[[Path, Path, int], Verdict]
# Of each kind: how it is told, a trial, how many, and how many files or commands each one tries.
KINDS: dict[str, tuple[str, Trial, int, int]] = {
    "kills": ("SIGKILL at a random moment or change of a file", kills.trial, 110, 1),
    "flips": ("one bit of a kept file flipped", kept_files.flip, 620, 1),
    "damage": ("another or damaged file in a kept one's place", kept_files.damage, 310, 1),
    "images": ("odd, damaged or hostile image", images.trial, 15, images.AT_ONCE),
    "words": ("random command line", command_lines.trial, 310, 1),
    "resources": (
        "full disk, closed stream, no permission, no memory", resources.trial,
        len(resources.FAULTS), 1,
    ),
    "processes": ("SIGKILL of one of two processes of torchrun", processes.trial, 20, 1),
    "company": ("two commands on one run at one time", resources.company, 12, 1),
}  # fmt: skip


def judged(trial: Trial, base: Path, number: int) -> Verdict:
    """One trial in a folder of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        try:
            return trial(base, Path(name) / "copy", number)
        except Fault as fault:
            return fault.verdict


def campaign(kind: str, base: Path, numbers: list[int], ends: float) -> Iterator[Verdict]:
    """The verdicts of one kind, in order; none for what the time does not suffice for."""
    _, trial, _, _ = KINDS[kind]

    def judge(number: int) -> Verdict | None:
        return None if time.monotonic() > ends else judged(trial, base, number)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, verdict in zip(numbers, pool.map(judge, numbers), strict=True):
            if verdict is None:
                continue
            if verdict.outcome != Outcome.HELD:
                print(f"{kind} {number}: {verdict.outcome}: {verdict.told}", flush=True)
            yield verdict


def main(arguments: list[str]) -> int:
    prepare()
    started = time.monotonic()
    kinds = arguments[:1] or list(KINDS)
    rows, faults = [], 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        base.mkdir()
        make_base(base)
        for kind in kinds:
            told, _, count, each = KINDS[kind]
            numbers = list(map(int, arguments[1:])) or list(range(count))
            begun = time.monotonic()
            verdicts = campaign(kind, base, numbers, started + 60 * MINUTES)
            counts = Counter(verdict.outcome for verdict in verdicts)
            tried = counts.total() * each
            bad = [counts[outcome] for outcome in Outcome if outcome != Outcome.HELD]
            faults += sum(bad) + (counts.total() < len(numbers))
            cells = (told, tried, counts[Outcome.HELD] * each, *bad)
            rows.append(f"| {' | '.join(map(str, cells))} |")
            print(rows[-1], f"{time.monotonic() - begun:.0f} s", flush=True)
    if not arguments:
        header = "| what was done | tried | held | lost | silent | traceback | hanging |"
        minutes = (time.monotonic() - started) / 60
        about = (
            f"Written by `make torture`, in {minutes:.0f} minutes on two CPU cores. Every trial "
            "works on a copy of a whole run of 40 images, with a seed of its own."
        )
        table = "\n".join([header, "|---" * 7 + "|", *rows])
        TABLE.write_text(f"# Reliability\n\n{about}\n\n{table}\n", encoding="utf-8")
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
