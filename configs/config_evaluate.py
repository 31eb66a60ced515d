"""Options of evaluate.py."""

from dataclasses import dataclass

from configs.base_config import LoadingOption, NetworkOptions, RunConfig, SeedOption


@dataclass(frozen=True)
class EvaluateConfig(SeedOption, LoadingOption, NetworkOptions, RunConfig):
    batch_size: int = 512  # images a step
    pixels: bool = False
    """also score k-means and PCA with a Gaussian mixture on the pixels (slow for large sets)"""
    folder_labels: bool = False  # take the first folder level of an undivided folder as classes
