"""Options of extract_features.py: features of the pretext model and their nearest neighbors."""

from dataclasses import dataclass
from typing import Literal

from configs.base_config import DeviceOption, LoadingOption, RunConfig, require_at_least


@dataclass(frozen=True)
class ExtractFeaturesConfig(LoadingOption, DeviceOption, RunConfig):
    neighbors: int = 20  # nearest neighbors of each image, itself excluded
    features: Literal["backbone", "projection"] = "backbone"  # layer whose output is searched
    batch_size: int = 512  # images a step

    def __post_init__(self) -> None:
        require_at_least(self, 1, "neighbors", "batch_size")
