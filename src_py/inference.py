"""Applying a model to all images, in order."""

import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from src_py.augmentation import Augmentation
from src_py.backbones import Backbone
from src_py.images.loaders import ImageLoader, ordered_batches
from src_py.models import ClusteringModel
from src_py.run.hardware import Hardware
from src_py.transforms import normalize, random_view, to_float

# Of a batch, on a CPU: more do not stay in its caches. Large images take about half of the time so
# (32 of 128 px in the place of 512), and less memory; batches of small ones stay whole.
PIXELS_AT_ONCE = 2**19


@torch.no_grad()
def infer(
    model: Backbone | ClusteringModel, images: ImageLoader, hardware: Hardware, batch_size: int
) -> Iterator[Tensor]:
    """Yields the model's float32 outputs in order, batch by batch, in `eval()` mode."""
    model.eval()
    for rows, batch in images.batches(ordered_batches(len(images), batch_size)):
        outputs = _outputs(model, normalize(to_float(batch), *model.statistics), hardware)
        yield hardware.world.whole(outputs, len(rows), dim=-2)


@torch.no_grad()
def infer_views(
    backbone: Backbone,
    images: ImageLoader,
    hardware: Hardware,
    batch_size: int,
    augmentations: Sequence[Augmentation],
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yields float32 features (B, V, D) of a random view for each of V augmentations, in order."""
    backbone.eval()
    for rows, batch in images.batches(ordered_batches(len(images), batch_size)):
        numbers = hardware.world.numbers(generator, len(rows))
        features = []
        for augmentation in augmentations:
            views = random_view(batch, augmentation, numbers, backbone.statistics)
            features.append(_outputs(backbone, views, hardware))
        yield hardware.world.whole(torch.stack(features, dim=1), len(rows))


def _outputs(model: Backbone | ClusteringModel, pixels: Tensor, hardware: Hardware) -> Tensor:
    """The model's float32 outputs for a batch; on a CPU for a few images at a time."""
    at_once = len(pixels)
    if hardware.device.type == "cpu":
        at_once = max(1, PIXELS_AT_ONCE // (pixels.shape[-1] * pixels.shape[-2]))
    with hardware.autocast():
        parts = [model(part).float() for part in pixels.split(at_once)]
    return torch.cat(parts, dim=-2)  # (B, D), or (H, B, C)


def gathered(batches: Iterable[Tensor], images: int, title: str) -> Tensor:
    """All batches as one tensor on the CPU, with a bar where somebody watches.

    Args:
        images: of all batches together.
        title: of the bar.
    """
    hidden = not sys.stderr.isatty()
    parts = []
    with tqdm(total=images, desc=title, unit="img", dynamic_ncols=True, disable=hidden) as bar:
        for batch in batches:
            parts.append(batch.cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def all_logits(
    model: ClusteringModel, images: ImageLoader, hardware: Hardware, batch_size: int
) -> Tensor:
    """(H, N, C) float32 of every head for all images, in order."""
    return torch.cat(list(infer(model, images, hardware, batch_size)), dim=1)
