"""Options of extract_features.py: features of the pretext model and their nearest neighbors."""

from dataclasses import dataclass
from typing import Literal

from configs.base_config import LoadingOption, NetworkOptions, RunConfig
from src_py.augmentation import CROPPED_VIEW, Augmentation


@dataclass(frozen=True)
class ExtractFeaturesConfig(LoadingOption, NetworkOptions, RunConfig):
    neighbors: int = 20  # nearest neighbors of each image, itself excluded
    features: Literal["backbone", "projection"] = "backbone"  # layer whose output is searched
    components: int = 0
    """principal components in which neighbors are searched, centred and at length 1; 0: in the
    features as they are"""
    views: int = 2  # random views of each image whose features are stored, of frozen weights
    augment: Augmentation = CROPPED_VIEW  # one such view
    batch_size: int = 512  # images a step
