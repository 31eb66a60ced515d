"""What a stage's loop reads: how long to train and with which batches, and what a step measured."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """
    Attributes:
        images: of the whole set.
        epochs: of the whole stage.
        images_per_epoch: drawn anew for each epoch.
        batch_size: images a step.
        warmup_epochs: in which the pretext's learning rate rises.
        ema_decay: of the moving average of the weights; 0 where there is none.
        head_epochs: of heads alone on stored features.
        rate_factor: on the learning rate of Adam, which is meant for all epochs that are asked for;
            1 unless they are fewer.
        seconds: that training may take; None where nothing limits it.
    """

    images: int
    epochs: int
    images_per_epoch: int
    batch_size: int
    warmup_epochs: int = 0
    ema_decay: float = 0.0
    head_epochs: int = 0
    rate_factor: float = 1.0
    seconds: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images_per_epoch / self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Step:
    """What one step of training measured, on the device: reading it would wait for the step.

    Attributes:
        images: of the batch.
        values: by name, scalars, or one number for each head.
    """

    images: int
    values: dict[str, Tensor]


@dataclass(frozen=True)
class ClusterStep(Step):
    """A step of a classifier.

    Attributes:
        logits: (H, B, C) of the images, without a gradient.
    """

    logits: Tensor
