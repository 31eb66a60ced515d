"""The same code on a GPU, where there is one: no waiting for it inside a step, and the pipeline."""

import itertools
import json

import numpy as np
import pytest
import torch

from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.backbones import BackboneSpec, ResNet18
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.neighbors import find_neighbors
from src_py.optimizers import adam, pretext_optimizer
from src_py.pseudo_labels import PseudoLabels
from src_py.run.hardware import choose_hardware
from src_py.training_loops import scan_steps, self_label_steps, simclr_steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SPEC = BackboneSpec(width=16, channels=3, small_stem=True)
STEPS = 20  # of 64 images: views of up to sixteen such batches are made at once


def classifier():
    return ClusteringModel(ResNet18(SPEC), ClusterHeads(128, 10, 1))


def endless(batch, *shape):
    """The same batch for ever, as the generators of steps take it; its rows in this shape."""
    rows = torch.arange(len(batch), device="cuda").view(*shape, -1)
    return ((rows, batch) for _ in itertools.count())


def simclr(batch, generator, hardware):
    config = SimCLRConfig(run="cuda")
    model = hardware.place(ContrastiveModel(SPEC))
    return simclr_steps(
        model, pretext_optimizer(model, config), endless(batch), generator, config, hardware
    )


def scan(batch, generator, hardware):
    config = ScanConfig(run="cuda")
    model = hardware.place(classifier())
    batches = endless(batch, 2)
    return scan_steps(model, adam(model, config), batches, generator, config, hardware)


def self_label(batch, generator, hardware):
    config = SelfLabelConfig(run="cuda")
    model = hardware.place(classifier())
    trained = (model, model, PseudoLabels(len(batch), hardware.device), adam(model, config))
    return self_label_steps(*trained, endless(batch), generator, config, hardware)


@pytest.mark.parametrize("make_steps", [simclr, scan, self_label])
def test_a_step_does_not_wait_for_the_device(make_steps):
    hardware = choose_hardware("cuda")
    batch = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    steps = make_steps(batch, hardware.generator(0), hardware)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(STEPS):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_it_finds_the_neighbors_that_a_cpu_finds():
    features = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    expected, similarity = find_neighbors(features, 5)
    found = find_neighbors(features, 5, device=torch.device("cuda"))
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-6)
    assert (found.indices == expected).mean() > 0.999  # two may be as similar but for rounding


def test_the_four_stages_run(run_script, tmp_path):
    for script, *options in (
        ("simclr.py", "--epochs", "5"),
        ("extract_features.py",),
        ("scan.py", "--epochs", "2"),
        ("selflabel.py", "--epochs", "2"),
        ("evaluate.py",),
    ):
        # Started afresh: CUDA may not be used in a copy of a process that has looked for it.
        run_script(script, "--device", "cuda", *options, environment=tmp_path)
    scores = json.loads((tmp_path / "logs" / "digits" / "evaluation.json").read_text())
    assert scores["train"]["selflabel"]["acc"] > 0.3
