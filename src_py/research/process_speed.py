"""What a second process on the same machine gains: images/s of the steps with one and with two.

    python -m src_py.research.process_speed results/processes.json

Each process has one thread. Two views of an image, or an image and its neighbor, count as two.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from configs.config_scan import ScanConfig
from configs.config_simclr import SimCLRConfig
from src_py.backbones import new_spec
from src_py.images.loaders import ResidentImages
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.optimizers import adam, pretext_optimizer
from src_py.run.distributed import leave
from src_py.run.files import write_json
from src_py.run.hardware import choose_hardware
from src_py.training_loops import scan_steps, simclr_steps

SETTINGS = (  # stage, network, side in px, batch: the last as published, but for the width
    ("simclr", "compact", 16, 128),
    ("simclr", "compact", 32, 512),
    ("simclr", "resnet18", 32, 512),
    ("scan", "compact", 32, 512),
    ("scan", "resnet18", 32, 512),
)
WIDTH, CLUSTERS = 16, 10
PROCESSES = (1, 2)
STEPS, ROUNDS = 4, 3


def measure() -> dict:
    """The median of the rounds; one and two processes take turns, so that both meet the same
    machine."""
    rows = []
    for setting in SETTINGS:
        found: dict[int, list[float]] = {count: [] for count in PROCESSES}
        for _ in range(ROUNDS):
            for count in PROCESSES:
                found[count].append(_speed(count, *setting))
        speeds = {count: sorted(each)[ROUNDS // 2] for count, each in found.items()}
        stage, network, size, batch = setting
        row = {"stage": stage, "network": network, "image_size": size, "batch": batch}
        row |= {f"images_per_second_{count}": round(speeds[count], 1) for count in PROCESSES}
        row["gain"] = round(speeds[2] / speeds[1], 2)
        print(row, flush=True)
        rows.append(row)
    return {"width": WIDTH, "threads_a_process": 1, "torch": torch.__version__, "rows": rows}


def _speed(processes: int, *setting: str | int) -> float:
    """Images/s, as one of the processes tells it in a file."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "speed.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(processes), "-m", "--", __spec__.name]
        command = [*launcher, "worker", str(told), *map(str, setting)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        return json.loads(told.read_text())


def _work(told: Path, stage: str, network: str, size: int, batch: int) -> None:
    """One of the processes: steps on random pixels."""
    hardware = choose_hardware("cpu")
    torch.set_num_threads(1)  # not the process's share of the cores
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (batch, 3, size, size), generator=random, dtype=torch.uint8)
    images = ResidentImages(pixels, hardware.device, hardware.world)
    spec = new_spec(network, WIDTH, 3, size)
    generator, rows = hardware.generator(0), torch.arange(batch)
    if stage == "simclr":
        encoder = hardware.place(ContrastiveModel(spec)).train()
        config = SimCLRConfig(optimizer="sgd", run="speed")
        batches = images.batches([rows] * (STEPS + 1))
        parts = (encoder, pretext_optimizer(encoder, config), batches, generator, config, hardware)
        steps = iter(simclr_steps(*parts))
    else:
        backbone = ContrastiveModel(spec).backbone
        heads = ClusterHeads(backbone.feature_dim, CLUSTERS, heads=1)
        model = hardware.place(ClusteringModel(backbone, heads)).train()
        of_scan = ScanConfig(run="speed")
        batches = images.batches([torch.stack([rows, rows.flip(0)])] * (STEPS + 1))
        steps = iter(scan_steps(model, adam(model, of_scan), batches, generator, of_scan, hardware))
    next(steps)  # sets up caches and kernels
    started = time.perf_counter()
    seen = sum(2 * step.images for step in steps)
    if hardware.world.is_first:
        told.write_text(json.dumps(seen / (time.perf_counter() - started)))
    leave()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        _, _, file, stage, network, size, batch = sys.argv
        _work(Path(file), stage, network, int(size), int(batch))
    elif len(sys.argv) == 2:
        write_json(Path(sys.argv[1]), measure())
    else:
        print("process_speed: expected the file to write", file=sys.stderr)
        sys.exit(2)
