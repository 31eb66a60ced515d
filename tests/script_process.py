"""A script in a process of its own that need not import torch again.

The standard library's fork server imports the packages once, and what the scripts import of the
project, but for what tells when a script was started; every script begins as a copy of it.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

PACKAGES = (  # torch._dynamo: the first optimizer imports it, for seconds
    "faiss", "numpy", "PIL.Image", "scipy.optimize", "sklearn.cluster", "sklearn.datasets",
    "sklearn.metrics", "torch", "torch._dynamo", "torch.utils.data", "tqdm", "tyro",
)  # fmt: skip
MODULES = (
    "configs.config_scan", "src_py.cluster_heads", "src_py.clusters.calibration",
    "src_py.clusters.suggestions", "src_py.images.run_images", "src_py.output.hand_off",
    "src_py.output.prediction", "src_py.output.sorting", "src_py.scoring.class_labels",
    "src_py.scoring.evaluation", "src_py.training_loops",
)  # fmt: skip
SECONDS = 300
HAS_COPIES = "forkserver" in multiprocessing.get_all_start_methods()


def prepare() -> None:
    """Begins the fork server: to be called while the project's folder is the current one."""
    if HAS_COPIES:
        multiprocessing.set_forkserver_preload([*PACKAGES, *MODULES])
        forkserver.ensure_running()


def nothing() -> None:
    """What is done in the copy before its script begins, unless something is asked for."""


class Copy:
    """A script that runs in a copy, and what it says."""

    def __init__(
        self, command: Sequence[str], folder: Path, before: Callable[[], None] = nothing
    ) -> None:
        """
        Args:
            command: the script and its arguments.
            folder: that it is started in.
            before: is called in the copy first; must be importable by name.
        """
        context = multiprocessing.get_context("forkserver")
        self._kept = tempfile.TemporaryDirectory()
        self._streams = [Path(self._kept.name) / name for name in ("stdout", "stderr")]
        self.command = list(command)
        arguments = (self.command, folder, dict(os.environ), self._streams, before)
        self.process: BaseProcess = context.Process(target=_become, args=arguments)
        self.process.start()

    def done(self, seconds: float = SECONDS) -> subprocess.CompletedProcess:
        """What `subprocess.run` gives, with text captured.

        Raises:
            subprocess.TimeoutExpired: after so many seconds; the script is killed.
        """
        self.process.join(seconds)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.command, seconds)
        said = [
            stream.read_text(encoding="utf-8", errors="replace") if stream.exists() else ""
            for stream in self._streams
        ]
        self._kept.cleanup()
        return subprocess.CompletedProcess(self.command, status, *said)


def _become(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    streams: list[Path],
    before: Callable[[], None],
) -> None:
    for descriptor, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # workers are begun as by any other script
    sys.argv = list(command)
    sys.path.insert(0, str(Path(command[0]).parent))
    before()
    runpy.run_path(command[0], run_name="__main__")
