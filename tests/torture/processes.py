"""SIGKILL of one of the processes that torchrun has started: all end, and the run goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import PROJECT
from tests.torture.base import HELD, STAGES, Fault, Outcome, Verdict, copied, run, succeed
from tests.torture.kills import RESULTS

PROCESSES = 2
LONGEST = 9.0  # s, about what a stage takes with what torchrun needs to start
ENDS = 60  # s after which what is left of the processes hangs
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def trial(base: Path, folder: Path, number: int) -> Verdict:
    drawn = random.Random(f"process {number}")
    folder = copied(base, folder)
    stage = drawn.choice(list(STAGES))
    for later in list(STAGES)[list(STAGES).index(stage) :]:
        for name in (f"{later}.json", *RESULTS[later]):
            (folder / "ckp" / "mine" / name).unlink(missing_ok=True)
    command = [*LAUNCHER, "--nproc_per_node", str(PROCESSES), "--"]
    command += [str(PROJECT / f"{stage}.py"), *STAGES[stage]]
    launched = subprocess.Popen(
        command, cwd=folder, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    seconds = drawn.uniform(2, LONGEST)
    _kill_one(launched, seconds, drawn)
    words = f"torchrun {stage}.py, one process killed after {seconds:.2f} s"
    try:
        _, said = launched.communicate(timeout=ENDS)
    except subprocess.TimeoutExpired:
        os.killpg(launched.pid, signal.SIGKILL)
        launched.communicate()
        raise Fault(Outcome.HANGING, f"{words}: no end after {ENDS} s") from None
    # torchrun reports what has failed with a traceback of its own.
    if "src_py" in said or sum(line.startswith(f"{stage}.py: ") for line in said.split("\n")) > 1:
        raise Fault(Outcome.TRACEBACK, f"{words}:\n{said[-3000:]}")
    succeed(folder, stage, *STAGES[stage])  # now one process goes on
    for later in list(STAGES)[list(STAGES).index(stage) + 1 :]:
        succeed(folder, later, *STAGES[later])
    run(folder, "evaluate", "--run", "mine")
    return HELD


def _kill_one(launched: subprocess.Popen, seconds: float, drawn: random.Random) -> None:
    """Of the launcher's own processes, where there are any by then."""
    time.sleep(seconds)
    listed = Path(f"/proc/{launched.pid}/task/{launched.pid}/children")
    children = listed.read_text().split() if listed.exists() else []
    if children:
        os.kill(int(drawn.choice(children)), signal.SIGKILL)
