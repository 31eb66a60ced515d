"""ResNets in torchvision's naming: torchvision's own, or a file's, whatever wraps it."""

import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from configs.bounds import BOUNDS
from src_py.backbones import BackboneSpec, ResNet18
from src_py.run.errors import UserError, first_line
from src_py.run.vocabulary import Vocabulary, imagenet_vocabulary
from src_py.run.weight_files import InitReport, fill

SMALLEST_SIDE = 64  # px: with ImageNet's stem the last stage then still sees 2 x 2 places
MOST_BLOCKS = 100  # of a stage; ResNet-152 has 36
STEM = "conv1.weight"  # names the place of a ResNet in a file ...
FIRST_BLOCK = "layer1.0.conv1.weight"  # ... where this stands beside it


def load_resnet(
    init: str, state: dict[str, Tensor], source: str, channels: int, image_size: int, frozen: bool
) -> tuple[ResNet18, InitReport]:
    """
    Args:
        init: as typed, for messages.
        state: by torchvision's names.
        source: what it is, in words.

    Raises:
        UserError: when it does not go with the images.
    """
    spec = _describe(init, state, channels, frozen)
    if not spec.small_stem and image_size < SMALLEST_SIDE:
        raise UserError(
            f"--image-size {image_size}: --init {init} needs at least {SMALLEST_SIDE} px"
        )
    backbone = ResNet18(spec)
    if channels == 1 and state[STEM].shape[1] == 3:
        state = state | {STEM: state[STEM].sum(dim=1, keepdim=True)}
    return backbone, fill(backbone, state, source)


def resnet_vocabulary(state: dict[str, Tensor]) -> Vocabulary | None:
    """ImageNet's words with the classifier among torchvision's names, where there is one."""
    weight, bias = state.get("fc.weight"), state.get("fc.bias")
    return None if weight is None else imagenet_vocabulary(weight, bias)


def download_folder() -> Path:
    """Where torchvision keeps its weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def download_resnet(name: str) -> tuple[dict[str, Tensor], str]:
    """torchvision's weights and what they are; from its cache once they are there.

    Raises:
        UserError: when they can neither be found nor downloaded.
    """
    from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)

    from torchvision.models import get_model_weights  # isort: skip

    weights = get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--init {name}: its weights cannot be downloaded ({first_line(error)}); fetch "
            f"{weights.url} on another machine and put it into {download_folder()}, or give the "
            f"file itself: --init {name}@FILE"
        ) from None
    return state, f"{name} of torchvision ({weights.name})"


def split_resnet(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str], str] | None:
    """The ResNet among a file's tensors by torchvision's names, the names of all else, and what
    stood before the names. None where there is no ResNet.

    Of several, as in MoCo's files (encoder_q, encoder_k), the first: the one that was trained
    comes before its moving average.
    """
    prefixes = (name.removesuffix(STEM) for name in tensors if name.endswith(STEM))
    prefix = next((prefix for prefix in prefixes if prefix + FIRST_BLOCK in tensors), None)
    if prefix is None:
        return None
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return state, [name for name in tensors if not name.startswith(prefix)], prefix


def has_small_stem(state: dict[str, Tensor]) -> bool:
    return state[STEM].shape[-1] == 3


def _describe(init: str, state: dict[str, Tensor], channels: int, frozen: bool) -> BackboneSpec:
    """The ResNet that a state dict is of, by its names and shapes."""
    if state[STEM].dim() != 4:
        raise UserError(f"--init {init}: {STEM} is not of images in two dimensions")
    width, of_images, _, kernel = state[STEM].shape
    if kernel not in (3, 7):
        raise UserError(f"--init {init}: {STEM} is {kernel} px wide, expected 3 or 7")
    if of_images not in (channels, 3):
        raise UserError(
            f"--init {init}: made for images of {of_images} channels, these have {channels}; "
            f"--channels sets it"
        )
    if width > BOUNDS["width"][1]:
        raise UserError(f"--init {init}: {STEM} has {width} channels: no ResNet is as wide")
    one, two, three, four = (_count_blocks(init, state, f"layer{stage}") for stage in range(1, 5))
    return BackboneSpec(
        width,
        channels,
        has_small_stem(state),
        blocks=(one, two, three, four),
        bottleneck="layer1.0.conv3.weight" in state,
        frozen=frozen,
    )


def _count_blocks(init: str, state: dict[str, Tensor], stage: str) -> int:
    numbers = {match[1] for name in state if (match := re.match(rf"{stage}\.(\d+)\.", name))}
    if len(numbers) > MOST_BLOCKS:
        raise UserError(f"--init {init}: {stage} has {len(numbers)} blocks: no ResNet is as deep")
    return max(1, len(numbers))
