"""Options of predict.py."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from configs.base_config import BaseConfig, require_at_least


@dataclass
class PredictConfig(BaseConfig):
    paths: Positional[tuple[Path, ...]] = ()  # images, and folders of images
    out: Path = Path("out")  # folder for predictions.csv and skipped.csv
    batch_size: int = 256  # images a step

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "batch_size")
