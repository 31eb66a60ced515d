"""Options of choose_clusters.py."""

from dataclasses import dataclass

from configs.base_config import DeviceOption, RunConfig, SeedOption
from src_py.run.errors import UserError


@dataclass(frozen=True)
class ChooseClustersConfig(SeedOption, DeviceOption, RunConfig):
    lowest: int = 2  # the smallest number of clusters that is tried
    highest: int | None = None  # the largest (default: 20, or fewer where there are few images)
    seeds: int = 3  # times that heads are trained for each number, on different halves
    images: int = 10_000  # drawn to train and to judge the heads; all where there are fewer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.highest is not None and self.highest <= self.lowest:
            raise UserError(f"--highest {self.highest}: must be above --lowest {self.lowest}")
