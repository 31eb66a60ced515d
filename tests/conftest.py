"""What the tests share: folders of small images, and the scripts run as a person runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Several tests run at once, each on one thread: more would wait for each other. numpy and torch
# read this when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from tests.script_process import HAS_COPIES, SECONDS, Copy, prepare

PROJECT = Path(__file__).resolve().parent.parent
TINY = ("--epochs", "2", "--batch-size", "16", "--device", "cpu")


def pytest_configure() -> None:
    prepare()


@pytest.fixture
def run_script(tmp_path):
    """Runs a script of the project in an empty folder, and returns what it printed."""

    def run(
        script: str, *arguments: str | Path, status: int = 0, environment: Path | None = None
    ) -> subprocess.CompletedProcess:
        """
        Args:
            environment: a folder whose modules come before the installed ones.
        """
        command = [str(PROJECT / script), *map(str, arguments)]
        if environment is None and HAS_COPIES:
            done = Copy(command, tmp_path).done()
        else:
            before = [] if environment is None else [str(environment)]
            modules = os.pathsep.join([*before, *filter(None, [os.environ.get("PYTHONPATH")])])
            variables = {"PYTHONPATH": modules}
            done = subprocess.run(
                [sys.executable, *command],
                cwd=tmp_path,
                env=os.environ | variables,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def write_image(path: Path, kind: int, number: int, size: int = 16) -> None:
    """A noisy picture of one of four kinds that differ in colour and in the way their bars run."""
    random = np.random.default_rng([kind, number])
    pixels = random.integers(0, 60, (size, size, 3))
    bars = slice(int(random.integers(2)), None, 3)
    if kind % 2:
        pixels[bars] += 150
    else:
        pixels[:, bars] += 150
    pixels[..., kind // 2] += 40
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def photo_folder(tmp_path):
    """40 images of four kinds in one folder, with no hint which is which."""
    folder = tmp_path / "photos"
    for number in range(40):
        write_image(folder / f"{number:02d}.png", kind=number % 4, number=number)
    return folder


@pytest.fixture
def class_tree(tmp_path):
    """train/<class>/ and test/<class>/ with 40 and 16 images of four kinds."""
    folder = tmp_path / "tree"
    for split, count in (("train", 40), ("test", 16)):
        for number in range(count):
            kind = number * 4 // count
            write_image(folder / split / "abcd"[kind] / f"{number:02d}.png", kind, number)
    return folder


@pytest.fixture(scope="session")
def base_run(tmp_path_factory):
    """A folder with 40 photos and a whole run of them, 'mine', which tests take copies of."""
    folder = tmp_path_factory.mktemp("base")
    for number in range(40):
        write_image(folder / "photos" / f"{number:02d}.png", kind=number % 4, number=number)
    few = ("--head-epochs", "2", "--candidate-heads", "3", "--heads", "2")
    for script, *arguments in (
        ("simclr", "--data", str(folder / "photos"), "--width", "4", *TINY),
        ("extract_features", "--neighbors", "5", "--device", "cpu"),
        ("scan", "--clusters", "4", *few, *TINY),
        ("selflabel", "--threshold", "0.3", *TINY),
    ):
        command = [str(PROJECT / f"{script}.py"), "--run", "mine", *arguments]
        done = (
            Copy(command, folder).done()
            if HAS_COPIES
            else subprocess.run(
                [sys.executable, *command], cwd=folder, capture_output=True, text=True
            )
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished_run(base_run, tmp_path):
    """ckp/mine and logs/mine of a whole run of 40 photos, which lie elsewhere."""
    for name in ("ckp", "logs"):
        shutil.copytree(base_run / name, tmp_path / name)
