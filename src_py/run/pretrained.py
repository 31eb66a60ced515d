"""Weights that others have trained, as the start of a run: by name, or from a file.

resnet18, resnet34, resnet50    torchvision's ImageNet weights, downloaded once
timm:NAME                       any network of the timm package, where that is installed
FILE.pth, .pt, .safetensors     a ResNet in torchvision's naming, whatever wraps it: torchvision,
                                MoCo v2, DINO, SimSiam and others alike
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from configs.presets import Preset
from src_py.images.image_set import DataSettings
from src_py.models import (
    Backbone,
    BackboneSpec,
    ContrastiveModel,
    ResNet18,
    TimmBackbone,
    TimmSpec,
    import_timm,
)
from src_py.run.errors import UserError

TORCHVISION_NAMES = ("resnet18", "resnet34", "resnet50")
TIMM_PREFIX = "timm:"
FILE_SUFFIXES = (".pth", ".pt", ".tar", ".safetensors")  # MoCo's files end in .pth.tar
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIDE = 224  # px, what nearly all such weights were trained with
SIDE_ON_CPU = 128  # px: a third of the time, and objects are still as large as the network knows
SMALLEST_SIDE = 64  # px: with ImageNet's stem the last stage then still sees 2 x 2 places
LEAST_MATCH = 0.5  # of the backbone's tensors; below it the file is of another network

# Where training scripts keep the weights in their checkpoints; the first that is there counts.
# DINO's teacher is the network that its authors evaluate.
CONTAINERS = ("state_dict", "teacher", "student", "model")
STEM = "conv1.weight"  # names the place of a ResNet in a file ...
FIRST_BLOCK = "layer1.0.conv1.weight"  # ... where this stands beside it
SHOWN = 3  # names that a line quotes
STATISTICS = ("mean", "std")  # of the images, which every backbone has as buffers


@dataclass(frozen=True)
class InitReport:
    """Which tensors of a backbone its start has filled.

    Attributes:
        source: what the weights are, in words.
        matched: names in the backbone, filled.
        missing: names in the backbone, left random.
        unexpected: names in the source that the backbone has no use for, a classifier's for one.
    """

    source: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]

    def lines(self) -> list[str]:
        """What to print: one line for each kind of names there is."""
        total = len(self.matched) + len(self.missing)
        lines = [
            f"init: {self.source}: {len(self.matched)} of {total} tensors matched "
            f"({_by_part(self.matched)})"
        ]
        if self.unexpected:
            lines.append(f"init: not used: {_by_part(self.unexpected)}")
        if self.missing:
            lines.append(f"init: warning: not found, so left random: {_by_part(self.missing)}")
        return lines


def pretrained_preset(init: str, preset: Preset, channels: int, on_cpu: bool) -> Preset:
    """The preset with the image size, mean and standard deviation that the weights go with.

    Small images are enlarged: the weights know objects at ImageNet's scale. Only a ResNet with a
    small stem keeps the preset's size.

    Args:
        channels: of the images, 1 or 3.

    Raises:
        UserError: when `init` is neither a known name nor a readable file.
    """
    size: int | None = SIDE_ON_CPU if on_cpu else SIDE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if init.startswith(TIMM_PREFIX):
        mean, std = _timm_statistics(init)
    elif init not in TORCHVISION_NAMES and _has_small_stem(_open_file(init)[0]):
        size = preset.image_size
    if channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return replace(preset, image_size=size, mean=mean, std=std)


def pretrained_model(
    init: str, settings: DataSettings, projection_dim: int, frozen: bool
) -> ContrastiveModel:
    """A pretext model with a pretrained backbone and a new projection head; prints what matched.

    Raises:
        UserError: as `load_backbone`.
    """
    backbone, report = load_backbone(init, settings.channels, settings.image_size, frozen)
    print(*report.lines(), sep="\n")
    sys.stdout.flush()
    model = ContrastiveModel(backbone.spec, projection_dim)
    model.backbone = backbone
    return model


def load_backbone(
    init: str, channels: int, image_size: int, frozen: bool = True
) -> tuple[Backbone, InitReport]:
    """A backbone with the weights `init`, without its classifier.

    Args:
        init: 'resnet18', 'resnet34', 'resnet50', 'timm:NAME', or a file's path.
        channels: of the images, 1 or 3; with 1 the first convolution is summed over red, green
            and blue, so that a grey image gives what it gave as a colour one.
        image_size: side in px.
        frozen: whether the stages leave the weights as they are.

    Raises:
        UserError: when the weights cannot be had, are of another network, or do not go with the
            images.
    """
    if init.startswith(TIMM_PREFIX):
        return _load_timm(init, channels, image_size, frozen)
    if init in TORCHVISION_NAMES:
        state, source = _download(init)
        unused: list[str] = []
    else:
        state, unused, source = _open_file(init)
    spec = _describe_resnet(init, state, channels, frozen)
    if not spec.small_stem and image_size < SMALLEST_SIDE:
        raise UserError(
            f"--image-size {image_size}: --init {init} needs at least {SMALLEST_SIDE} px"
        )
    backbone = ResNet18(spec)
    if channels == 1 and state[STEM].shape[1] == 3:
        state[STEM] = state[STEM].sum(dim=1, keepdim=True)
    report = _fill(backbone, state, source, unused)
    total = len(report.matched) + len(report.missing)
    if len(report.matched) < LEAST_MATCH * total:
        raise UserError(
            f"--init {init}: only {len(report.matched)} of the {total} tensors of a ResNet match "
            f"(not found, for one: {report.missing[0]}); the file must hold a ResNet-18, 34 or 50 "
            f"in torchvision's naming, for others use --init timm:NAME"
        )
    return backbone, report


# --- sources -------------------------------------------------------------------------------------


def _download(name: str) -> tuple[dict[str, Tensor], str]:
    """torchvision's weights and what they are; from its cache once they are there."""
    from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)

    from torchvision.models import get_model_weights  # isort: skip

    weights = get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"--init {name}: its weights cannot be downloaded ({_first_line(error)}); fetch "
            f"{weights.url} on another machine and put it into {folder}, or give the file itself: "
            f"--init FILE"
        ) from None
    return state, f"{name} of torchvision ({weights.name})"


def _open_file(init: str) -> tuple[dict[str, Tensor], list[str], str]:
    """The ResNet in a file by torchvision's names, the names of all else, and what it is."""
    path = Path(init).expanduser()
    if not path.is_file():
        known = ", ".join(TORCHVISION_NAMES)
        raise UserError(f"--init {init}: not a file, nor one of {known}, nor timm:NAME")
    if path.suffix not in FILE_SUFFIXES:
        raise UserError(f"--init {init}: must end in one of {', '.join(FILE_SUFFIXES)}")
    tensors = _unwrap(_read(path))
    prefix = _find_resnet(tensors)
    if prefix is None:
        first = ", ".join(list(tensors)[:SHOWN]) or "none"
        raise UserError(
            f"--init {init}: no ResNet in torchvision's naming ({STEM}, {FIRST_BLOCK}, ...) among "
            f"its {len(tensors)} tensors (first: {first}); for other networks use --init timm:NAME"
        )
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    unused = [name for name in tensors if not name.startswith(prefix)]
    source = f"{path.name}, names beginning with '{prefix}'" if prefix else path.name
    return state, unused, source


def _read(path: Path) -> object:
    """The content of a file of tensors; no code in it is ever run."""
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        # DINO's checkpoints also hold the options of the run; a Namespace is only a bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load and safetensors raise many kinds for a damaged file
        raise UserError(
            f"--init {path}: cannot be read as weights ({_first_line(error)}); it must be what "
            f"torch.save(model.state_dict(), FILE) writes, or a .safetensors file"
        ) from None


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
    return {name: value for name, value in inner.items() if isinstance(value, Tensor)}


def _find_resnet(tensors: dict[str, Tensor]) -> str | None:
    """What stands before a ResNet's names. Of several, as in MoCo's files (encoder_q, encoder_k),
    the first: the one that was trained comes before its moving average."""
    prefixes = (name.removesuffix(STEM) for name in tensors if name.endswith(STEM))
    return next((prefix for prefix in prefixes if prefix + FIRST_BLOCK in tensors), None)


# --- ResNets -------------------------------------------------------------------------------------


def _has_small_stem(state: dict[str, Tensor]) -> bool:
    return state[STEM].shape[-1] == 3


def _describe_resnet(
    init: str, state: dict[str, Tensor], channels: int, frozen: bool
) -> BackboneSpec:
    """The ResNet that a state dict is of, by its names and shapes."""
    width, of_images, _, kernel = state[STEM].shape
    if kernel not in (3, 7):
        raise UserError(f"--init {init}: {STEM} is {kernel} px wide, expected 3 or 7")
    if of_images not in (channels, 3):
        raise UserError(
            f"--init {init}: made for images of {of_images} channels, these have {channels}; "
            f"--channels sets it"
        )
    one, two, three, four = (_count_blocks(state, f"layer{stage}") for stage in range(1, 5))
    return BackboneSpec(
        width,
        channels,
        _has_small_stem(state),
        blocks=(one, two, three, four),
        bottleneck="layer1.0.conv3.weight" in state,
        frozen=frozen,
    )


def _count_blocks(state: dict[str, Tensor], stage: str) -> int:
    numbers = {match[1] for name in state if (match := re.match(rf"{stage}\.(\d+)\.", name))}
    return max(1, len(numbers))


def _fill(
    backbone: Backbone, state: dict[str, Tensor], source: str, unused: list[str]
) -> InitReport:
    """Loads all tensors whose name and shape agree."""
    own = backbone.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    backbone.load_state_dict(fitting, strict=False)
    asked = _weights_among(own)
    return InitReport(
        source,
        matched=[name for name in asked if name in fitting],
        missing=[name for name in asked if name not in fitting],
        unexpected=[name for name in state if name not in fitting] + unused,
    )


def _weights_among(names: Iterable[str]) -> list[str]:
    """The names that a report counts: not the images' statistics, which are the run's own, nor
    counts of batches, which older files lack and nothing here reads."""
    return [n for n in names if n not in STATISTICS and not n.endswith("num_batches_tracked")]


# --- timm ----------------------------------------------------------------------------------------


def _timm_statistics(init: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that timm's weights go with, of pixels in [0, 1].

    Raises:
        UserError: when timm has no such model, or no weights of it.
    """
    timm = import_timm()
    name = init.removeprefix(TIMM_PREFIX)
    if not timm.is_model(name):
        raise UserError(
            f"--init {init}: timm {timm.__version__} has no such model; "
            f"python -c 'import timm; print(timm.list_pretrained())' lists them"
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"--init {init}: {_first_line(error)}") from None
    if not config.has_weights:
        raise UserError(f"--init {init}: timm has no trained weights of this model")
    return tuple(config.mean), tuple(config.std)


def _load_timm(
    init: str, channels: int, image_size: int, frozen: bool
) -> tuple[TimmBackbone, InitReport]:
    _timm_statistics(init)  # for its errors, which say more
    spec = TimmSpec(init.removeprefix(TIMM_PREFIX), channels, image_size, frozen)
    try:
        backbone = TimmBackbone(spec, pretrained=True)
    except Exception as error:  # what a hub's client raises offline differs from version to version
        raise UserError(
            f"--init {init}: its weights cannot be loaded ({_first_line(error)}); they are kept "
            f"once they have been downloaded, or give a ResNet's file: --init FILE"
        ) from None
    _require_size(init, backbone, image_size)
    matched = _weights_among(backbone.network.state_dict())
    return backbone, InitReport(f"{spec.timm_name} of timm", matched, missing=[], unexpected=[])


def _require_size(init: str, backbone: TimmBackbone, image_size: int) -> None:
    """
    Raises:
        UserError: when the network cannot take images of this size, as a transformer whose patches
            do not divide it.
    """
    was_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, backbone.spec.channels, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"--image-size {image_size}: does not go with --init {init} ({_first_line(error)}); "
            f"{SIDE} mostly does"
        ) from None
    backbone.train(was_training)


# --- words ---------------------------------------------------------------------------------------


def _by_part(names: Iterable[str]) -> str:
    """Counts of names by what stands before their first number, in order: 'conv1 1, layer1 60'."""
    parts = Counter(re.split(r"\.\d+\.|\.[^.]*$", name)[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in parts.items())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
