"""Applying a model to all images, in order."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from src_py.augmentation import Augmentation
from src_py.backbones import Backbone
from src_py.feature_space import gathered
from src_py.images.loaders import ImageLoader, ordered_batches
from src_py.models import ClusteringModel
from src_py.run.bars import progress_bar
from src_py.run.hardware import Hardware
from src_py.transforms import normalize, random_view, to_float

# Of a batch, on a CPU: more do not stay in its caches. Large images take about half of the time so
# (32 of 128 px in the place of 512), and less memory; batches of small ones stay whole.
PIXELS_AT_ONCE = 2**19


@torch.no_grad()
def infer(
    model: Backbone | ClusteringModel,
    images: ImageLoader,
    hardware: Hardware,
    batch_size: int,
    first: int = 0,
) -> Iterator[Tensor]:
    """Yields the model's float32 outputs in order, batch by batch, in `eval()` mode.

    Args:
        first: image at which to begin.
    """
    model.eval()
    for rows, batch in images.batches(ordered_batches(len(images), batch_size, first)):
        outputs = outputs_of(model, normalize(to_float(batch), *model.statistics), hardware)
        yield hardware.world.whole(outputs, len(rows), dim=-2)


@torch.no_grad()
def infer_views(
    backbone: Backbone,
    images: ImageLoader,
    hardware: Hardware,
    batch_size: int,
    augmentations: Sequence[Augmentation],
    generator: torch.Generator,
    first: int = 0,
) -> Iterator[Tensor]:
    """Yields float32 features (B, V, D) of a random view for each of V augmentations, in order.

    Args:
        first: image at which to begin.
    """
    backbone.eval()
    for rows, batch in images.batches(ordered_batches(len(images), batch_size, first)):
        numbers = hardware.world.numbers(generator, len(rows))
        features = []
        for augmentation in augmentations:
            views = random_view(batch, augmentation, numbers, backbone.statistics)
            features.append(outputs_of(backbone, views, hardware))
        yield hardware.world.whole(torch.stack(features, dim=1), len(rows))


def outputs_of(
    model: Backbone | ClusteringModel,
    pixels: Tensor,
    hardware: Hardware,
    at_most: int | None = None,
) -> Tensor:
    """The model's float32 outputs for a batch of normalised images, (B, D) or (H, B, C).

    Args:
        at_most: images that the network sees at once; on a CPU they may be fewer.
    """
    if not len(pixels):  # of several processes, one that has no part of a small batch
        return outputs_of(model, pixels.new_zeros(1, *pixels.shape[1:]), hardware)[..., :0, :]
    at_once = at_most or len(pixels)
    if hardware.device.type == "cpu":
        at_once = min(at_once, max(1, PIXELS_AT_ONCE // (pixels.shape[-1] * pixels.shape[-2])))
    with hardware.autocast():
        parts = [model(part).float() for part in pixels.split(at_once)]
    return torch.cat(parts, dim=-2)


def watched(batches: Iterable[Tensor], images: int, title: str, first: int = 0) -> Iterator[Tensor]:
    """The same batches, with a bar where somebody watches.

    Args:
        images: of all batches together, and those before them.
        title: of the bar.
        first: image at which they begin.
    """
    with progress_bar(title, images, done=first) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def all_logits(
    model: ClusteringModel,
    images: ImageLoader,
    hardware: Hardware,
    batch_size: int,
    scratch: Path | None = None,
) -> Tensor:
    """(H, N, C) float32 of every head for all images, in order.

    Args:
        scratch: see `feature_space.in_blocks`.
    """
    return gathered(infer(model, images, hardware, batch_size), len(images), 1, scratch)


@torch.no_grad()
def folded(backbone: Backbone, image_size: int) -> Backbone:
    """A copy in `eval()` mode whose batch norms have become a part of the convolutions before them.

    It gives the same features but for rounding, and takes less time: a fifth of a MobileNet's on a
    CPU is batch norms. Where that cannot be done, the backbone as it is.

    Args:
        image_size: of the images it will be shown, px.
    """
    copied = copy.deepcopy(backbone).eval()
    random = torch.Generator().manual_seed(0)
    shape = (2, backbone.spec.channels, image_size, image_size)
    shown = torch.rand(shape, generator=random).to(backbone.mean.device)
    expected = copied(shown)
    for convolution, name in _batch_norms_after_convolutions(copied, shown):
        norm = copied.get_submodule(name)
        if not isinstance(norm, nn.BatchNorm2d):  # asked twice
            return backbone
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None, "a backbone's norms keep statistics"
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        # timm's batch norms end in an activation of their own.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        copied.set_submodule(name, nn.Sequential(*rest))
    is_same = torch.allclose(copied(shown), expected, rtol=1e-3, atol=1e-3)
    return copied.requires_grad_(False) if is_same else backbone


def _batch_norms_after_convolutions(
    network: nn.Module, shown: Tensor
) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions, and the names of the batch norms that are given what they give."""
    last: list[tuple[nn.Conv2d, Tensor]] = []
    found: list[tuple[nn.Conv2d, str]] = []

    def remember(convolution: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        last[:] = [(convolution, output)]

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        elif isinstance(module, nn.BatchNorm2d):

            def compare(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                found.extend((convolution, name) for convolution, o in last if given[0] is o)

            hooks.append(module.register_forward_pre_hook(compare))
    network(shown)
    for hook in hooks:
        hook.remove()
    return found
