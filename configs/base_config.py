"""Options that mean the same in every script that has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.bounds import require_in_bounds
from configs.presets import BEST_RECIPE, DEFAULT_PRESET
from src_py.run.files import RunFiles


@dataclass(frozen=True)
class ScriptConfig:
    """Options of all scripts."""

    show_config: bool = False  # print each option's value and where it comes from, and stop

    def __post_init__(self) -> None:
        require_in_bounds(self)


@dataclass(frozen=True)
class RunConfig(ScriptConfig):
    """Which run: by its name, or by the preset or the folder that it would be named after."""

    run: str = DEFAULT_PRESET  # name of the run (default: the folder's or the preset's)
    preset: str = DEFAULT_PRESET  # settings for a known kind of images (see configs/presets.py)
    data: Path | None = None
    """folder of images, .tar shards of them, or where a built-in set is or will be downloaded"""

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.run)


@dataclass(frozen=True)
class DeviceOption:
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # what to compute on


@dataclass(frozen=True)
class NetworkOptions(DeviceOption):
    """Of the scripts that compute a network."""

    precision: Literal["auto", "float32"] = "auto"
    """auto: bfloat16 where the device computes it faster; simclr.py's choice is the run's"""


@dataclass(frozen=True)
class LoadingOption:
    loading: Literal["auto", "resident", "streamed"] = "auto"
    """keep a folder's decoded images in memory, or decode them as they are needed; auto: by size"""


@dataclass(frozen=True)
class SeedOption:
    seed: int = 0  # of every random number


@dataclass(frozen=True)
class TrainingConfig(SeedOption, LoadingOption, NetworkOptions, RunConfig):
    """Options of the stages that train."""

    recipe: Literal["best", "paper"] = BEST_RECIPE
    """paper: the published algorithm; best: with all that improves it"""
    epochs: int = 100  # passes over the images
    minutes: float | None = None
    """for all four stages together: epochs, images per epoch and batches are chosen to fit; of
    scan.py and selflabel.py no more epochs than --epochs, and with fewer at a higher rate"""
    images_per_epoch: int | None = None  # drawn anew for each epoch (default: all)
    batch_size: int = 512  # images a step
    learning_rate: float = 1e-3  # peak of the optimizer's schedule
    weight_decay: float = 1e-4  # L2 penalty
    compile: bool = False  # fuse operations with torch.compile; takes half a minute to start
    restart: bool = False  # begin again, although the stage is finished or half done
    checkpoint_seconds: float = 30.0  # least time between two resumable states, s
    tensorboard: bool = False  # also write TensorBoard logs, where it is installed
