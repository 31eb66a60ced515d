"""Peak memory of each stage, for more and more images.

    python -m src_py.research.stage_memory results/memory.json 10000 100000

What is measured stands in results/memory.json.partial until all is there.

Makes a shard of that many small random pictures and runs the stages on them, once with a network
that is trained here, once with weights that stay. What counts is memory that processes have to
themselves, without the pages of files that they map.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from src_py.backbones import BackboneSpec, ResNet18
from src_py.research.benchmarking import private_bytes
from src_py.run.files import write_json

PROJECT = Path(__file__).resolve().parents[2]
SIDE = 8  # px
LOOK_EVERY = 0.05  # s
SHARD, WEIGHTS = "images.tar", "weights.pth"
RUN = ("--run", "memory", "--device", "cpu")
IMAGES = ("--data", SHARD, "--preset", "folder", "--channels", "1", "--image-size", str(SIDE))
FEW = ("--epochs", "1", "--images-per-epoch", "8192", "--batch-size", "128")
HEADS = ("--head-epochs", "1", "--candidate-heads", "8", "--clusters", "10")
ROUTES = {
    "trained": {
        "simclr": (*IMAGES, "--backbone", "resnet18", "--width", "8", *FEW),
        "extract_features": (),
        "scan": (*FEW, *HEADS),
        "selflabel": FEW,
        "evaluate": (),
    },
    "frozen": {
        "simclr": (*IMAGES, "--init", WEIGHTS, "--restart"),
        "extract_features": (),
        "scan": (*HEADS, "--restart"),
        "selflabel": (*FEW, "--restart"),
        "evaluate": (),
    },
}


def measure(sizes: list[int]) -> Iterator[dict]:
    """A row for each stage, route and number of images."""
    for size in sizes:
        yield from _rows(size)


def _rows(images: int) -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_shard(folder / SHARD, images)
        torch.manual_seed(0)
        network = ResNet18(BackboneSpec(8, 1, small_stem=True))
        torch.save(network.state_dict(), folder / WEIGHTS)
        for route, stages in ROUTES.items():
            for stage, options in stages.items():
                started = time.monotonic()
                peak = _peak(stage, options, folder)
                row = {"route": route, "stage": stage, "images": images}
                row |= {"mib": round(peak / 2**20), "seconds": round(time.monotonic() - started)}
                print(row, flush=True)
                yield row


def _peak(stage: str, options: tuple[str, ...], folder: Path) -> int:
    """Bytes, of a script and the processes that it starts."""
    command = [sys.executable, str(PROJECT / f"{stage}.py"), *RUN, *options]
    peak = 0
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(command, cwd=folder, stdout=told, stderr=told) as script,
    ):
        while script.poll() is None:
            peak = max(peak, private_bytes(script.pid))
            time.sleep(LOOK_EVERY)
        told.seek(0)
        if script.returncode:
            sys.exit(told.read().decode())
    return peak


def _write_shard(path: Path, images: int) -> None:
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as shard:
        for number in range(images):
            content = io.BytesIO()
            pixels = random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            pixels[number % SIDE] = 255  # kinds, of a bar at another height
            Image.fromarray(pixels).save(content, "png")
            member = tarfile.TarInfo(f"{number:08d}.png")
            member.size = content.tell()
            content.seek(0)
            shard.addfile(member, content)


if __name__ == "__main__":
    out, *asked = sys.argv[1:]
    partial, found = Path(f"{out}.partial"), []
    for measured in measure([int(size) for size in asked]):
        found.append(measured)
        write_json(partial, {"torch": torch.__version__, "rows": found})
    partial.replace(out)
