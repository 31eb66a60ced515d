"""Options of selflabel.py, the last stage. The defaults are the paper's for CIFAR-10."""

from dataclasses import dataclass
from typing import Literal

from configs.base_config import TrainingConfig
from src_py.augmentation import PLAIN_VIEW, STRONG_VIEW, Augmentation


@dataclass(frozen=True)
class SelfLabelConfig(TrainingConfig):
    epochs: int = 200  # passes over the images
    batch_size: int = 1000  # images a step
    optimizer: Literal["adam", "sgd"] = "adam"  # of the network; sgd has a momentum of 0.9
    learning_rate: float = 1e-4  # of the optimizer
    weight_decay: float = 1e-4  # L2 penalty
    head_learning_rate: float = 1e-2  # of Adam, where the weights are frozen: heads alone train
    fine_tune: bool = False  # train the whole network, also where its weights were frozen so far
    threshold: float = 0.99  # a pseudo-label counts when its probability is above this
    ema_decay: float = 0.0  # of the teacher that gives the pseudo-labels; 0: the model itself
    reliable_share: float = 0.0
    """of each cluster, images whose neighbors agree: they have a pseudo-label from the first step
    on; 0: only confident images have one"""
    refresh_epochs: int = 5  # epochs after which the reliable pseudo-labels are found anew
    balanced: bool = True  # weigh every class alike, whatever the number of its pseudo-labels
    guard: bool = True
    """keep scan.py's classifier where self-labelling has made it worse, by evidence without
    labels"""
    weak_augment: Augmentation = PLAIN_VIEW
    """the view that is pseudo-labelled: the plain image"""
    strong_augment: Augmentation = STRONG_VIEW
    """the view that is trained on"""
