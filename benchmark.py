"""Throughput on this machine: the predecessors' way, ours, and the network alone, in turn.

    python benchmark.py --quick                                   # within 50 s on two cores
    python benchmark.py                                           # every stage, widths 16 and 64
    python benchmark.py --stage mining --sizes 10000,200000

Two views of an image, or an image and its neighbor, count as two images. Random pixels stand for
the images: speed does not depend on what they show. Prints a table; writes results/benchmark.json.
"""

from dataclasses import replace

from configs.base_config import TrainingConfig
from configs.config_benchmark import BenchmarkConfig
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_predict import PredictConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.run.options import run_script

TRAINING_CONFIGS: dict[str, TrainingConfig] = {
    "pretext": SimCLRConfig(run="benchmark"),
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
    from src_py.research.benchmark_arms import measure_mining, measure_stage
    from src_py.run.files import write_json
    from src_py.run.hardware import choose_hardware

    hardware = choose_hardware(config.device)
    print(f"benchmark: {hardware}, {config.image_size} px")
    network: dict[str, dict] = {}
    minutes: dict[str, float] = {}
    mining: dict[str, dict] = {}
    stages = tuple(STAGE_CONFIGS)
    if config.quick:
        config = replace(config, stage="all", widths="16", sizes="10000", rounds=3, seconds=2.5)
        stages = ("pretext",)
    elif config.stage != "all":
        stages = tuple(stage for stage in stages if stage == config.stage)

    for width in config.numbers("widths"):
        for stage in stages:
            measured = measure_stage(stage, width, config, STAGE_CONFIGS[stage], hardware)
            network[f"{stage}, width {width}"] = measured
            print_stage(stage, width, measured)
        if TRAINING_CONFIGS.keys() <= set(stages):
            minutes[str(width)] = published_minutes(network, width)
            print(
                f"CIFAR-10's published epochs at width {width}: "
                f"{minutes[str(width)]:,.0f} minutes, projected"
            )
    if config.stage in ("all", "mining"):
        for rows in config.numbers("sizes"):
            measured = measure_mining(rows, 128 if rows <= MOST_ROWS_OF_128 else 64)
            mining[str(rows)] = measured
            print(
                f"mining {rows:>10,} x {measured['width']}: {measured['seconds']:8.1f} s, "
                f"recall@20 {measured['recall']:.3f}, "
                f"peak memory {measured['peak_memory_mib']} MiB"
            )
    about = {"hardware": str(hardware), "versions": versions()}
    projected = {"published_minutes": minutes} if minutes else {}
    write_json(config.out, {**about, "network": network, "mining": mining, **projected})
    print(f"{config.out} written")


def print_stage(stage: str, width: int, measured: dict) -> None:
    """A row for each arm, then the ratios of ours to the others."""
    for arm, row in measured["arms"].items():
        print(
            f"{stage:<11} width {width:<3} {arm:<10} {row['images_per_second']:>10,.0f} images/s "
            f"({row['lowest']:,.0f} to {row['highest']:,.0f}), "
            f"peak memory {row['peak_memory_mib']} MiB"
        )
    for other, ratio in measured["ours_over"].items():
        print(f"{stage} ours/{other}: {ratio:.2f}")
    for arm, shares in measured["top_operations"].items():
        print(f"{stage} width {width}, where a step of '{arm}' spends its time:")
        for operation, share in shares.items():
            print(f"    {share:6.1%}  {operation}")


def published_minutes(measured: dict, width: int) -> float:
    """What CIFAR-10's published 500 + 50 + 200 epochs take at our arms' measured speeds."""
    views = 2 * CIFAR10_IMAGES
    seconds = sum(
        config.epochs
        * views
        / measured[f"{stage}, width {width}"]["arms"]["ours"]["images_per_second"]
        for stage, config in TRAINING_CONFIGS.items()
    )
    return round(seconds / 60, 1)


def versions() -> dict[str, str]:
    import platform

    import torch

    return {"python": platform.python_version(), "torch": torch.__version__}


if __name__ == "__main__":
    run_script(BenchmarkConfig, "benchmark", main, __doc__)
