"""benchmark.py on a tiny setting: every stage has its three arms, and the file says so."""

import json

import numpy as np
import torch
from PIL import Image

from configs.config_benchmark import BenchmarkConfig
from configs.config_extract_features import ExtractFeaturesConfig
from src_py.augmentation import Augmentation
from src_py.research.benchmark_arms import measure_stage
from src_py.research.benchmarking import measure, steady
from src_py.research.reference_pipeline import strong_view
from src_py.run.hardware import choose_hardware
from src_py.transforms import random_view


def test_every_stage_is_measured(run_script, tmp_path):
    told = run_script(
        "benchmark.py", "--widths", "4", "--image-size", "8", "--batch-size", "8", "--rounds", "1",
        "--seconds", "0.01", "--sizes", "500,600", "--device", "cpu", "--out", "figures.json",
    ).stdout  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    for stage in ("pretext", "scan", "selflabel", "extraction", "predict"):
        measured = figures["network"][f"{stage}, width 4"]
        assert measured["arms"].keys() == {"reference", "ours", "network"}
        assert all(arm["peak_memory_mib"] > 0 for arm in measured["arms"].values())
        assert f"{stage} ours/reference: " in told and f"{stage} ours/network: " in told
    assert figures["published_minutes"]["4"] > 0
    assert figures["mining"]["500"]["recall"] == 1


def test_the_profile_of_an_arm_tells_what_takes_its_time():
    config = BenchmarkConfig(image_size=8, batch_size=8, rounds=1, seconds=0.01, profile=True)
    hardware = choose_hardware("cpu")
    measured = measure_stage("extraction", 4, config, ExtractFeaturesConfig(run="any"), hardware)
    assert measured["top_operations"].keys() == {"reference", "ours", "network"}
    for shares in measured["top_operations"].values():
        assert "aten::mkldnn_convolution" in shares and 0 < sum(shares.values()) <= 1


def test_arms_take_turns_and_every_round_counts():
    calls = []

    def arm(name):
        def step():
            calls.append(name)
            return 10

        return lambda: steady(step)

    found = measure({"a": arm("a"), "b": arm("b")}, 2, 0.0, torch.device("cpu"))
    assert [len(found[name].rates) for name in "ab"] == [2, 2]
    order = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert order == ["a", "b", "a", "b"]


def test_the_references_strong_view_looks_like_ours():
    side, copies = 32, 500
    y, x = np.mgrid[0:side, 0:side, 0:1][:2] / side
    pixels = (40 + 120 * x + y * np.array([90, 40, 10])).astype(np.uint8)
    torch.manual_seed(0)
    view = strong_view(side)
    theirs = torch.stack([view(Image.fromarray(pixels)) for _ in range(copies)])
    assert theirs.shape == (copies, 3, side, side) and theirs.dtype == torch.float32
    ours = random_view(
        torch.from_numpy(pixels).permute(2, 0, 1).expand(copies, 3, side, side),
        Augmentation(flip=0.5, strong_ops=4, cutout=0.5),
        torch.Generator().manual_seed(0),
        ((0.5,) * 3, (0.25,) * 3),
    )

    def looks(views: torch.Tensor) -> torch.Tensor:
        levels = views * 0.25 + 0.5
        black, erased = levels < 1 / 510, views == 0  # erased: no grey level is the mean itself
        return torch.stack([levels.mean(), black.float().mean(), erased.float().mean()])

    torch.testing.assert_close(looks(theirs), looks(ours), atol=0.03, rtol=0)
