"""Files of weights: read without running code in them, unwrapped, and put into a network."""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from src_py.run.errors import UserError, why_unreadable

FILE_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".safetensors")  # MoCo's files end in .pth.tar
LEAST_MATCH = 0.5  # of the backbone's tensors; below it the file is of another network

# Where training scripts keep the weights in their checkpoints; the first that is there counts.
# DINO's teacher is the network that its authors evaluate.
CONTAINERS = ("state_dict", "teacher", "student", "model")
STATISTICS = ("mean", "std")  # of the images, which every backbone has as buffers


@dataclass(frozen=True)
class InitReport:
    """Which tensors of a backbone its start has filled.

    Attributes:
        source: what the weights are, in words.
        matched: names in the backbone, filled.
        missing: names in the backbone, left random.
        unexpected: names in the source that the backbone has no use for.
        words: how many classes' names were kept, with the classifier that tells them.
    """

    source: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    words: int = 0

    @property
    def is_of_another_network(self) -> bool:
        return len(self.matched) < LEAST_MATCH * (len(self.matched) + len(self.missing))

    def lines(self) -> list[str]:
        """What to print: one line for each kind of names there is."""
        total = len(self.matched) + len(self.missing)
        lines = [
            f"init: {self.source}: {len(self.matched)} of {total} tensors matched "
            f"({_by_part(self.matched)})"
        ]
        if self.words:
            lines.append(f"init: its classifier of {self.words:,} words is kept, to suggest names")
        if self.unexpected:
            lines.append(f"init: not used: {_by_part(self.unexpected)}")
        if self.missing:
            lines.append(f"init: warning: not found, so left random: {_by_part(self.missing)}")
        return lines


def read_tensors(init: str, path: Path) -> dict[str, Tensor]:
    """The state dict in a file, whatever wraps it; no code in the file is ever run.

    Raises:
        UserError: when the file is missing, of another kind, or damaged.
    """
    if not path.is_file():
        raise UserError(f"--init {init}: {path} is not a file")
    if path.suffix not in FILE_SUFFIXES:
        raise UserError(f"--init {init}: must end in one of {', '.join(FILE_SUFFIXES)}")
    try:
        return _unwrap(_read(path))
    except UserError:
        raise
    except Exception as error:  # torch.load and safetensors raise many kinds for a damaged file
        raise UserError(
            f"--init {init}: cannot be read as weights ({why_unreadable(error)}); it must be what "
            f"torch.save(model.state_dict(), FILE) writes, or a .safetensors file"
        ) from None


def fill(network: nn.Module, state: dict[str, Tensor], source: str) -> InitReport:
    """Loads all tensors whose name and shape agree."""
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    network.load_state_dict(fitting, strict=False)
    asked = weights_among(own)
    return InitReport(
        source,
        matched=[name for name in asked if name in fitting],
        missing=[name for name in asked if name not in fitting],
        unexpected=[name for name in state if name not in fitting],
    )


def weights_among(names: Iterable[str]) -> list[str]:
    """The names that a report counts: not the images' statistics, which are the run's own, nor
    counts of batches, which older files lack and nothing here reads."""
    return [n for n in names if n not in STATISTICS and not n.endswith("num_batches_tracked")]


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    # DINO's checkpoints also hold the options of the run; a Namespace is only a bag of values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"--init {path}: needs a package: pip install safetensors") from None
    return load_file(path)


def _unwrap(content: object) -> dict[str, Tensor]:
    """The state dict in a checkpoint, with the tensors only."""
    if not isinstance(content, dict):
        return {}
    inner = next((content[k] for k in CONTAINERS if isinstance(content.get(k), dict)), content)
    tensors = ((name, value) for name, value in inner.items() if isinstance(value, Tensor))
    return {name: value for name, value in tensors if isinstance(name, str)}


def _by_part(names: Iterable[str]) -> str:
    """Counts of names by what stands before their first number, in order: 'conv1 1, layer1 60'."""
    parts = Counter(re.split(r"\.\d+\.|\.[^.]*$", name)[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in parts.items())
