"""Options of moco.py, the other pretext stage: those of simclr.py and two more."""

from dataclasses import dataclass

from configs.config_simclr import SimCLRConfig
from src_py.run.errors import UserError


@dataclass(frozen=True)
class MoCoConfig(SimCLRConfig):
    queue_size: int = 4096  # keys of earlier batches that serve as negatives; at most the images
    target_decay: float = 0.99  # of the moving average of the weights that makes the keys
    views: int | None = 2
    """random views of each image in a step; there can be no others"""
    view_side: float | None = None
    """side of a view, as a share of the image's (default: 1)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init is not None:
            raise UserError("--init: is an option of simclr.py; run python simclr.py instead")
        if self.views != 2:
            raise UserError("--views: is an option of simclr.py; MoCo has two")
