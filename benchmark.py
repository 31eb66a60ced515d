"""Throughput on this machine: the predecessors' way, ours, and the network alone, in turn.

    python benchmark.py --quick                                   # within 50 s on two cores
    python benchmark.py                                           # every stage, widths 16 and 64
    python benchmark.py --backbone compact                        # the same of another network
    python benchmark.py --stage mining --sizes 10000,200000

Two views of an image, or an image and its neighbor, count as two images. Random pixels stand for
the images: speed does not depend on what they show. TFLOP/s are the network's matrix products and
convolutions, forward and backward; the peak is the most that a few of them alone reach in the same
run. Prints a table; writes results/benchmark.json.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from configs.base_config import TrainingConfig
from configs.config_benchmark import BenchmarkConfig
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_predict import PredictConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.run.options import run_script

if TYPE_CHECKING:  # torch takes seconds to load
    from src_py.run.hardware import Hardware

TRAINING_CONFIGS: dict[str, TrainingConfig] = {
    "pretext": SimCLRConfig(run="benchmark", optimizer="sgd"),  # whichever network
    "scan": ScanConfig(run="benchmark"),
    "selflabel": SelfLabelConfig(run="benchmark", threshold=0.0),  # every image counts: all work
}
STAGE_CONFIGS: dict[str, TrainingConfig | ExtractFeaturesConfig | PredictConfig] = {
    **TRAINING_CONFIGS,
    "extraction": ExtractFeaturesConfig(run="benchmark"),
    "predict": PredictConfig(run="benchmark"),
}
CIFAR10_IMAGES = 50_000
MOST_ROWS_OF_128 = 1_000_000  # more have 64 dimensions, the components that scan.py sees


def main(config: BenchmarkConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.run.files import write_json
    from src_py.run.hardware import choose_hardware

    hardware = choose_hardware(config.device)
    print(f"benchmark: {hardware}, {config.image_size} px")
    stages = tuple(stage for stage in STAGE_CONFIGS if config.stage in ("all", stage))
    backbones: tuple[str, ...] = (config.backbone,)
    if config.quick:
        config = replace(config, stage="all", widths="16", sizes="10000", rounds=2, seconds=0.5)
        stages, backbones = ("pretext",), ("compact", "resnet18")

    figures: dict[str, Any] = {
        "hardware": str(hardware),
        "versions": versions(),
        "network": {},
        "mining": {},
    }
    if stages:
        figures |= networks_figures(stages, backbones, config, hardware)
    if config.stage in ("all", "mining"):
        figures["mining"] = mining_figures(config.numbers("sizes"))
    write_json(config.out, figures)
    print(f"{config.out} written")


def networks_figures(
    stages: Sequence[str], backbones: Sequence[str], config: BenchmarkConfig, hardware: "Hardware"
) -> dict[str, dict]:
    """The peak of the hardware, and every stage with every network at every width."""
    from src_py.backbones import new_spec
    from src_py.research.benchmark_arms import measure_stage
    from src_py.research.device_peak import measure_peak

    peak = measure_peak(hardware)
    print(f"peak: {peak}")
    measured: dict[str, dict] = {}
    minutes: dict[str, float] = {}
    for backbone, width in product(backbones, config.numbers("widths")):
        network = f"{backbone}, width {width}"
        spec = new_spec(backbone, width, 3, config.image_size)
        for stage in stages:
            found = measure_stage(stage, spec, config, STAGE_CONFIGS[stage], hardware, peak)
            measured[f"{stage}, {network}"] = found
            print_stage(stage, network, found)
        if TRAINING_CONFIGS.keys() <= set(stages):
            minutes[network] = published_minutes(measured, network)
            print(
                f"CIFAR-10's published epochs with {network}: "
                f"{minutes[network]:,.0f} minutes, projected"
            )
    projected = {"published_minutes": minutes} if minutes else {}
    return {"peak": peak.as_dict(), "network": measured, **projected}


def mining_figures(sizes: Sequence[int]) -> dict[str, dict]:
    """
    Args:
        sizes: numbers of rows.
    """
    from src_py.research.benchmark_arms import measure_mining

    mining = {}
    for rows in sizes:
        measured = measure_mining(rows, 128 if rows <= MOST_ROWS_OF_128 else 64)
        mining[str(rows)] = measured
        print(
            f"mining {rows:>10,} x {measured['width']}: {measured['seconds']:8.1f} s, "
            f"recall@20 {measured['recall']:.3f}, peak memory {measured['peak_memory_mib']} MiB"
        )
    return mining


def print_stage(stage: str, network: str, measured: dict) -> None:
    """A row for each arm, then the ratios of ours to the others.

    Args:
        network: its name and width.
    """
    for arm, row in measured["arms"].items():
        print(
            f"{stage:<11} {network:<18} {arm:<10} {row['images_per_second']:>10,.0f} images/s "
            f"({row['lowest']:,.0f} to {row['highest']:,.0f}), "
            f"{row['teraflops']:.3g} TFLOP/s, {row['share_of_peak']:.1%} of the peak, "
            f"peak memory {row['peak_memory_mib']} MiB"
        )
    for other, ratio in measured["ours_over"].items():
        print(f"{stage} ours/{other}: {ratio:.2f}")
    for arm, shares in measured["top_operations"].items():
        print(f"{stage}, {network}, where a step of '{arm}' spends its time:")
        for operation, share in shares.items():
            print(f"    {share:6.1%}  {operation}")


def published_minutes(measured: dict, network: str) -> float:
    """What CIFAR-10's published 500 + 50 + 200 epochs take at our arms' measured speeds.

    Args:
        network: its name and width.
    """
    views = 2 * CIFAR10_IMAGES
    seconds = 0.0
    for stage, config in TRAINING_CONFIGS.items():
        ours = measured[f"{stage}, {network}"]["arms"]["ours"]
        seconds += config.epochs * views / ours["images_per_second"]
    return round(seconds / 60, 1)


def versions() -> dict[str, str]:
    import platform

    import torch

    return {"python": platform.python_version(), "torch": torch.__version__}


if __name__ == "__main__":
    run_script(BenchmarkConfig, "benchmark", main, __doc__)
