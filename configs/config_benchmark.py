"""Options of benchmark.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.base_config import BaseConfig, require_at_least

STAGES = ("pretext", "scan", "selflabel", "extraction", "predict", "mining")


@dataclass
class BenchmarkConfig(BaseConfig):
    stage: Literal["all", "pretext", "scan", "selflabel", "extraction", "predict", "mining"] = "all"
    # what to measure
    widths: tuple[int, ...] = (16, 64)  # of the network
    image_size: int = 32  # side in px
    batch_size: int = 128  # images a step
    rounds: int = 5  # times every arm is run, in turn
    seconds: float = 5.0  # of one arm in one round
    sizes: tuple[int, ...] = (10_000, 50_000, 200_000, 1_000_000)  # rows that are mined
    quick: bool = False  # the pretext at width 16 and mining of 10,000 rows, within 50 s
    out: Path = Path("results/benchmark.json")  # where the figures go

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "batch_size", "rounds")
        if self.quick:
            self.stage, self.widths, self.sizes = "all", (16,), (10_000,)
            self.rounds, self.seconds = 3, 3.0
