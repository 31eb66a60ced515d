"""Options of ablation.py."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.base_config import DeviceOption, LoadingOption, RunConfig
from configs.bounds import BOUNDS, as_flag, parse_numbers, shortened
from configs.presets import BEST_RECIPE, PAPER_RECIPE
from src_py.run.errors import UserError

# What is taken away from the recipe 'best', exchanged or changed in it: options of each script.
# {clusters} is the preset's number of them, {twice} twice as many.
VARIANTS = {
    "moco": {},  # moco.py in the place of simclr.py
    "compact": {"simclr": ["--backbone", "compact", "--optimizer", "muon"]},
    "sgd": {"simclr": ["--backbone", "compact", "--optimizer", "sgd"]},
    "resnet18": {"simclr": ["--backbone", "resnet18", "--optimizer", "sgd"]},
    "muon": {"simclr": ["--backbone", "resnet18", "--optimizer", "muon"]},
    "two-views": {"simclr": ["--views", "2", "--view-side", "1"]},
    "uneven": {"scan": ["--evenness", "0.85"]},
    "merged": {"scan": ["--clusters", "{twice}"], "label": ["--merge-to", "{clusters}"]},
    "mutual": {"scan": ["--mutual"]},
    "no-mutual": {"scan": ["--no-mutual"]},
    "no-components": {"scan": ["--components", "0", "--head-learning-rate", "1e-2"]},
    "strong-neighbors": {"scan": ["--no-plain-neighbors"]},
    "no-prototypes": {"scan": ["--no-prototypes"]},
    "no-heads-first": {"scan": ["--no-prototypes", "--head-epochs", "0"]},
    "no-reliable": {"selflabel": ["--reliable-share", "0"]},
    "no-teacher": {"selflabel": ["--ema-decay", "0"]},
}


@dataclass(frozen=True)
class AblationConfig(LoadingOption, DeviceOption, RunConfig):
    recipes: str = f"{PAPER_RECIPE},{BEST_RECIPE}"  # separated by commas
    variants: str = ""
    """of the recipe best: moco, compact and sgd (the compact network by Muon and by SGD, with four
    views where they are crops), resnet18 and muon (ResNet-18 with two, likewise), two-views,
    uneven, merged, mutual, no-mutual, no-components, strong-neighbors, no-prototypes,
    no-heads-first, no-reliable, no-teacher; separated by commas"""
    seeds: str = "0,1,2"  # separated by commas
    simclr: str = ""  # options for simclr.py in all runs: --simclr="--width 16 --epochs 20"
    scan: str = ""  # options for scan.py
    selflabel: str = ""  # options for selflabel.py
    pixels: bool = False  # also score k-means and a Gaussian mixture on the pixels
    folder_labels: bool = False  # score an undivided folder by its first folder level
    out: Path | None = None  # where the results go (default: results/<run>)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_known("recipes", (PAPER_RECIPE, BEST_RECIPE))
        self._require_known("variants", tuple(VARIANTS))
        parse_numbers("--seeds", self.seeds, *BOUNDS["seed"])
        for name in ("simclr", "scan", "selflabel"):
            self.options_of(name)

    @property
    def settings(self) -> list[str]:
        """The names of what is compared."""
        return [name for name in f"{self.recipes},{self.variants}".split(",") if name]

    def options_of(self, script: str) -> list[str]:
        """What is given for simclr, scan or selflabel, in words.

        Raises:
            UserError: when a quote in it is not closed.
        """
        text = getattr(self, script)
        try:
            return shlex.split(text)
        except ValueError as error:
            reason = str(error).lower()
            raise UserError(f"--{script} {shortened(text)}: {reason}") from None

    def _require_known(self, field: Literal["recipes", "variants"], known: tuple) -> None:
        for name in filter(None, getattr(self, field).split(",")):
            if name not in known:
                raise UserError(f"{as_flag(field)} {name}: must be of {', '.join(known)}")
