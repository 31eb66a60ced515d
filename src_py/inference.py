"""Applying a model to all images, in order."""

from collections.abc import Iterator

import torch
from torch import Tensor

from src_py.images.loaders import ImageLoader, ordered_batches
from src_py.models import Backbone, ClusteringModel
from src_py.run.hardware import Hardware
from src_py.transforms import normalize, to_float


@torch.no_grad()
def infer(
    model: Backbone | ClusteringModel, images: ImageLoader, hardware: Hardware, batch_size: int
) -> Iterator[Tensor]:
    """Yields the model's float32 outputs in order, batch by batch, in `eval()` mode."""
    model.eval()
    for _, batch in images.batches(ordered_batches(len(images), batch_size)):
        with hardware.autocast():
            outputs = model(normalize(to_float(batch), *model.statistics))
        yield outputs.float()


def all_logits(
    model: ClusteringModel, images: ImageLoader, hardware: Hardware, batch_size: int
) -> Tensor:
    """(H, N, C) float32 of every head for all images, in order."""
    return torch.cat(list(infer(model, images, hardware, batch_size)), dim=1)
