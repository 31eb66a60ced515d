"""The same code on a GPU, where there is one: no waiting for it inside a step, and the pipeline."""

import json

import pytest
import torch

from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.hardware import choose_hardware
from src_py.losses import UNRELIABLE
from src_py.memory import descend
from src_py.models import BackboneSpec, ClusterHeads, ClusteringModel, ContrastiveModel, ResNet18
from src_py.training_loops import adam, pair_loss, pseudo_label_loss, sgd, simclr_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
STATISTICS = ((0.5,) * 3, (0.25,) * 3)
SPEC = BackboneSpec(width=16, channels=3, small_stem=True)


def classifier():
    return ClusteringModel(ResNet18(SPEC), ClusterHeads(128, 10, 1))


def simclr_step(batch, generator, hardware):
    config = SimCLRConfig(run="cuda")
    model = hardware.place(ContrastiveModel(SPEC))
    optimizer = sgd(model, config)
    return lambda: descend(
        optimizer, simclr_loss(model, batch, STATISTICS, config, generator, hardware)
    )


def scan_step(batch, generator, hardware):
    config = ScanConfig(run="cuda")
    model = hardware.place(classifier())
    optimizer = adam(model, config)
    return lambda: descend(
        optimizer,
        pair_loss(model, batch, STATISTICS, config, generator, hardware)[0].total.sum(),
    )


def self_label_step(batch, generator, hardware):
    config = SelfLabelConfig(run="cuda")
    model = hardware.place(classifier())
    optimizer = adam(model, config)
    reliable = torch.full((len(batch),), UNRELIABLE, device="cuda")
    return lambda: descend(
        optimizer,
        pseudo_label_loss(model, model, batch, reliable, STATISTICS, config, generator, hardware)[
            0
        ],
    )


@pytest.mark.parametrize("make_step", [simclr_step, scan_step, self_label_step])
def test_a_step_does_not_wait_for_the_device(make_step):
    hardware = choose_hardware("cuda")
    generator = hardware.generator(0)
    batch = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    step = make_step(batch, generator, hardware)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_four_stages_run(run_script, tmp_path):
    for script, *options in (
        ("simclr.py", "--epochs", "5"),
        ("extract_features.py",),
        ("scan.py", "--epochs", "2"),
        ("selflabel.py", "--epochs", "2"),
        ("evaluate.py",),
    ):
        run_script(script, "--device", "cuda", *options)
    scores = json.loads((tmp_path / "logs" / "digits" / "evaluation.json").read_text())
    assert scores["train"]["selflabel"]["acc"] > 0.3
