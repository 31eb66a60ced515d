"""A script in a process of its own that need not import torch again.

The standard library's fork server imports the packages once, and every script begins as a copy of
it: with the packages in memory, and nothing of the project.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    "faiss", "numpy", "PIL.Image", "scipy.optimize", "sklearn.cluster", "sklearn.datasets",
    "sklearn.metrics", "torch", "torch.utils.data", "tqdm", "tyro",
)  # fmt: skip
SECONDS = 300


def run_in_a_copy(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    """What `subprocess.run([sys.executable, *command], cwd=folder)` gives, with text captured.

    Raises:
        subprocess.TimeoutExpired: after 300 seconds; the script is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PACKAGES))
    with tempfile.TemporaryDirectory() as kept:
        streams = [Path(kept) / "stdout", Path(kept) / "stderr"]
        process = context.Process(
            target=_become, args=(command, folder, dict(os.environ), streams), name=command[0]
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, SECONDS)
        said = [stream.read_text(encoding="utf-8") for stream in streams]
        return subprocess.CompletedProcess(command, process.exitcode, *said)


def _become(command: list[str], folder: Path, environment: dict[str, str], streams: list[Path]):
    for descriptor, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # workers are begun as by any other script
    sys.argv = list(command)
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
