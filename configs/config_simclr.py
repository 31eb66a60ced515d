"""Options of simclr.py, the pretext stage. The defaults are the paper's for CIFAR-10."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.base_config import TrainingConfig
from src_py.augmentation import SIMCLR_VIEW, Augmentation
from src_py.run.errors import UserError

PAPER_WIDTH = 64
SMALLEST_VIEW = 4  # px


@dataclass(frozen=True)
class SimCLRConfig(TrainingConfig):
    epochs: int = 500  # passes over the images
    batch_size: int = 512  # images a step, some views of each
    learning_rate: float = 0.4
    """peak, for two views of 512 images; in proportion to the views of a step"""
    weight_decay: float = 1e-4  # L2 penalty
    optimizer: Literal["auto", "sgd", "muon"] = "auto"
    """the paper's, or one whose steps are as large in all directions of a weight matrix, which
    learns more in few steps; auto: muon for the compact network, unless --recipe paper, else sgd"""
    momentum: float = 0.9  # of SGD; with muon, of biases and batch norms
    warmup_epochs: int = 0  # of linear rise to the peak, before the cosine; at most half of all
    temperature: float = 0.1  # of NT-Xent
    views: int | None = None
    """random views of each image in a step (default: 2, as published; 4 where they are crops, for
    the compact network unless --recipe paper)"""
    view_side: float | None = None
    """side of a view, as a share of the image's (default: 1; 2/3 where the default is 4 views)"""
    backbone: Literal["auto", "resnet18", "resnet50", "compact"] = "auto"
    """the network: the paper's, its deeper one for ImageNet, or a compact one that learns small
    images in a fraction of the time; auto: compact on a CPU for images of up to 64 px, unless
    --recipe paper, else resnet18 (--init has its own)"""
    width: int | None = None
    """channels of its first stage; features have eight times as many, of resnet50 32 times
    (default: 64, as published; 32 of the compact network on a CPU, unless --recipe paper)"""
    freeze: bool = False
    """leave the weights as they are after this stage: scan.py trains heads alone, and selflabel.py
    too, unless with --fine-tune (those of --init without --fine-tune always stay)"""
    projection_dim: int = 128  # output of the projection head
    init: str | None = None
    """start from weights: a name of configs/weights.py (efficientnet_lite0, resnet18, dinov2, ...),
    timm:NAME, either with @FILE, or a ResNet's file; without --fine-tune they stay and nothing is
    trained here"""
    words: Path | None = None
    """names to suggest, one a line, for --init clip or siglip2 (default: configs/words.txt)"""
    fine_tune: bool = False  # train the weights of --init further, at a tenth of the learning rate
    image_size: int | None = None
    """side in px (default: the preset's, or chosen from the images; with --init, the weights')"""
    channels: Literal[1, 3] | None = None  # grey or colour (default: the preset's, else colour)
    use_unlabelled: bool = False  # also train on the unlabelled part that STL-10 has
    augment: Augmentation = SIMCLR_VIEW  # one random view

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fine_tune and self.init is None:
            raise UserError("--fine-tune: needs weights to start from: add --init")
        if self.views is not None and self.views < 2:
            raise UserError(f"--views {self.views}: must be at least 2")
        if self.words is not None and (self.init is None or self.fine_tune):
            raise UserError(
                "--words: needs weights that know text and stay: --init clip or siglip2"
            )

    @property
    def width_of_network(self) -> int:
        return self.width or PAPER_WIDTH

    @property
    def views_of_image(self) -> int:
        return self.views or 2

    @property
    def whole_views(self) -> float:
        """The pixels that the network sees of an image in a step, as a multiple of the image's."""
        return self.views_of_image * (self.view_side or 1.0) ** 2

    def view_size(self, image_size: int) -> int:
        """Side of a random view, px.

        Args:
            image_size: side of the image, px.
        """
        return max(SMALLEST_VIEW, round((self.view_side or 1.0) * image_size))
