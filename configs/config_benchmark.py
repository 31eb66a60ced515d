"""Options of benchmark.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.base_config import DeviceOption, ScriptConfig, SeedOption
from configs.bounds import as_flag, parse_numbers
from src_py.run.errors import UserError

LARGEST_BATCH = 2048  # twice as many random images are made
NUMBERS = {"widths": (1, 1024), "sizes": (100, 10**9)}  # the least and the largest of each list


@dataclass(frozen=True)
class BenchmarkConfig(SeedOption, DeviceOption, ScriptConfig):
    stage: Literal["all", "pretext", "scan", "selflabel", "extraction", "predict", "mining"] = "all"
    """what to measure"""
    backbone: Literal["resnet18", "resnet50", "compact"] = "resnet18"
    """the network, as simclr.py has it"""
    widths: str = "16,64"  # of the network, separated by commas
    image_size: int = 32  # side in px
    batch_size: int | None = None  # images a step (default: 128 on a CPU, else the stage's own)
    rounds: int = 5  # times every arm is run, in turn
    seconds: float = 5.0  # of one arm in one round
    sizes: str = "10000,50000,200000,1000000"  # rows that are mined, separated by commas
    compile: bool = False  # a further arm: ours, compiled (torch.compile)
    profile: bool = False  # also print the operations that a step of each arm spends its time in
    quick: bool = False
    """only the pretext at width 16, of compact and of resnet18, and mining of 10,000 rows, within
    50 s, whatever else is asked for"""
    out: Path = Path("results/benchmark.json")  # where the figures go

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size > LARGEST_BATCH:
            raise UserError(f"--batch-size {self.batch_size}: must be at most {LARGEST_BATCH}")
        self.numbers("widths"), self.numbers("sizes")

    def numbers(self, name: str) -> list[int]:
        """A field of comma-separated numbers as a list."""
        lowest, highest = NUMBERS[name]
        return parse_numbers(as_flag(name), getattr(self, name), lowest, highest)
