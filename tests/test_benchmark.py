"""benchmark.py on a tiny setting: every stage has its three arms, and the file says so."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import benchmark
from configs.config_benchmark import BenchmarkConfig
from configs.config_extract_features import ExtractFeaturesConfig
from src_py.augmentation import Augmentation
from src_py.backbones import new_spec
from src_py.research import benchmark_arms, device_peak
from src_py.research.benchmark_arms import measure_stage
from src_py.research.benchmarking import measure, steady
from src_py.research.device_peak import Peak, flops_per_image, measure_peak
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
        measured = figures["network"][f"{stage}, resnet18, width 4"]
        assert measured["arms"].keys() == {"reference", "ours", "network"}
        for arm in measured["arms"].values():
            assert arm["peak_memory_mib"] > 0 and arm["teraflops"] > 0 and arm["share_of_peak"] > 0
        assert f"{stage} ours/reference: " in told and f"{stage} ours/network: " in told
    assert figures["published_minutes"]["resnet18, width 4"] > 0
    assert figures["mining"]["500"]["recall"] == 1
    assert figures["peak"]["operation"] in figures["peak"]["teraflops"]
    assert f"TFLOP/s, by {figures['peak']['operation']}\n" in told and "% of the peak" in told


def test_a_quick_run_measures_both_networks(monkeypatch, tmp_path):
    arm = {"images_per_second": 1.0, "lowest": 1.0, "highest": 1.0, "peak_memory_mib": 1}
    stage = {"arms": {"ours": arm | {"teraflops": 0.1, "share_of_peak": 0.2}}}
    stage |= {"ours_over": {}, "top_operations": {}}
    mined = {"width": 128, "seconds": 0.1, "recall": 1.0, "peak_memory_mib": 1}
    specs = []
    monkeypatch.setattr(device_peak, "measure_peak", lambda hardware: Peak({"a product": 0.5}))
    monkeypatch.setattr(
        benchmark_arms, "measure_stage", lambda name, spec, *others: specs.append(spec) or stage
    )
    monkeypatch.setattr(benchmark_arms, "measure_mining", lambda rows, width: mined)
    out = tmp_path / "quick.json"
    benchmark.main(BenchmarkConfig(quick=True, device="cpu", out=out))
    figures = json.loads(out.read_text())
    assert list(figures["network"]) == ["pretext, compact, width 16", "pretext, resnet18, width 16"]
    assert specs == [new_spec(network, 16, 3, 32) for network in ("compact", "resnet18")]
    assert figures["peak"] == {"operation": "a product", "teraflops": {"a product": 0.5}}
    assert list(figures["mining"]) == ["10000"]


def test_operations_of_a_known_network_are_counted():
    """Two convolutions: both ways of both, but no gradient of the images."""
    first, second = (
        nn.Conv2d(*channels, 3, padding=1, bias=False) for channels in ((3, 4), (4, 5))
    )
    images = torch.rand(2, 3, 8, 8)

    def step():
        second(first(images)).sum().backward()
        return len(images)

    products = 9 * 8 * 8 * (2 * 3 * 4 + 3 * 4 * 5)
    assert flops_per_image(step) == 2 * products


@pytest.mark.parametrize("network", ["compact", "resnet18"])
def test_a_step_of_the_pretext_costs_three_times_its_forward_pass(network):
    spec, size = new_spec(network, 8, 3, 16), 16
    pixels = torch.zeros(4, 3, size, size, dtype=torch.uint8)
    hardware = choose_hardware("cpu")
    config = benchmark.STAGE_CONFIGS["pretext"]

    def flops(stage):
        arms = benchmark_arms.BUILDERS[stage](pixels, spec, 2, config, hardware)
        with arms["network"]() as step:
            return flops_per_image(step)

    assert flops("pretext") / flops("extraction") == pytest.approx(3, rel=0.1)


def test_the_share_of_the_peak_is_speed_times_operations():
    peak = Peak({"slow": 0.5, "fast": 2.0})
    assert peak.operation == "fast"
    reached = peak.reached(images_per_second=1000.0, flops_per_image=5e8)
    assert reached == {"teraflops": 0.5, "share_of_peak": 1000 * 5e8 / 2e12}


def test_the_peak_is_of_products_and_convolutions():
    measured = measure_peak(choose_hardware("cpu")).as_dict()
    assert measured["operation"] in measured["teraflops"]
    kinds = [name.split()[1] for name in measured["teraflops"]]
    assert kinds == ["product"] * 3 + ["3x3"] * 4
    assert all(value > 0 for value in measured["teraflops"].values())


def test_the_profile_of_an_arm_tells_what_takes_its_time():
    config = BenchmarkConfig(image_size=8, batch_size=8, rounds=1, seconds=0.01, profile=True)
    hardware = choose_hardware("cpu")
    stage_config, peak = ExtractFeaturesConfig(run="any"), Peak({"any": 1.0})
    spec = new_spec("compact", 4, 3, 8)
    measured = measure_stage("extraction", spec, config, stage_config, hardware, peak)
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
