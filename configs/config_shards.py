"""Options of python -m src_py.images.shards."""

from dataclasses import dataclass
from pathlib import Path

from tyro import MISSING
from tyro.conf import Positional

from configs.base_config import ScriptConfig


@dataclass(frozen=True)
class ShardsConfig(ScriptConfig):
    folder: Positional[Path] = MISSING  # of images
    out: Positional[Path] = MISSING  # folder that the shards are written to
    images_per_shard: int = 10_000  # the last one has what is left
