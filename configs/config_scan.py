"""Options of scan.py, the clustering stage. The defaults are the paper's for CIFAR-10."""

from dataclasses import dataclass
from typing import Literal

from configs.base_config import TrainingConfig
from src_py.augmentation import STRONG_VIEW, Augmentation
from src_py.run.errors import UserError


@dataclass(frozen=True)
class ScanConfig(TrainingConfig):
    clusters: int = 10  # more than the classes is allowed
    epochs: int = 50  # passes over the images with the whole network
    batch_size: int = 128  # anchors a step, one neighbor of each
    optimizer: Literal["adam", "sgd"] = "adam"  # of the network; sgd has a momentum of 0.9
    learning_rate: float = 1e-4  # of the optimizer
    weight_decay: float = 1e-4  # L2 penalty
    entropy_weight: float = 5.0  # lambda: how strongly clusters of equal size are asked for
    evenness: float = 1.0
    """entropy of the cluster sizes that is asked for, as a share of that of equal ones: lower it
    where kinds are unequal, to 0.85 for ten to one"""
    heads: int = 1  # cluster heads that share the backbone; the one of lowest loss is kept
    head_epochs: int = 0
    """passes over the stored features that train the heads alone, first; never fewer than 600
    steps, unless --minutes are short"""
    head_learning_rate: float = 1e-2  # of Adam in those passes
    candidate_heads: int = 50  # heads in those passes; the `heads` of lowest loss go on
    prototypes: bool = False  # begin these heads at the prototypes of k-means, each at its own
    components: int = 0
    """principal components that the features are reduced to for the heads, centred and at length 1;
    0: the features as they are"""
    mutual: bool = False  # only draw neighbors that have the image among their own neighbors
    fresh_views: bool = False
    """of frozen weights: show the network new views of the images in every step, as published, in
    the place of the stored features"""
    plain_neighbors: bool = False  # show the neighbor as it is, only the image in a strong view
    ema_decay: float = 0.0  # of the moving average of the weights that is kept; 0: the last weights
    guard: bool = True
    """keep k-means on the pretext's features where SCAN's clusters are worse, by evidence without
    labels"""
    augment: Augmentation = STRONG_VIEW  # one strong view

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prototypes and not self.head_epochs:
            raise UserError("--prototypes: needs --head-epochs of at least 1")
        if self.head_epochs and self.candidate_heads < self.heads:
            raise UserError(
                f"--candidate-heads {self.candidate_heads}: must be at least --heads {self.heads}"
            )
