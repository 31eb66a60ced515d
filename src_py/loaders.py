"""Batches of images by index, from a set that lives on the training device as uint8."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class ResidentImages:
    """A decoded set kept on the device, so that a batch is one index operation."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        """images: (N, C, S, S) uint8."""
        self.images = images.to(device)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (indices (B,), images (B, C, S, S) uint8), both on the device."""
        for indices in index_batches:
            indices = indices.to(self.images.device)
            yield indices, self.images[indices]


def shuffled_batches(size: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch in random order: every index once, in batches of nearly equal size.

    Equal sizes mean that no batch is dropped or too small for batch statistics, whatever `size` is.
    """
    order = torch.randperm(size, generator=generator, device=generator.device)
    return list(order.tensor_split(number_of_batches(size, batch_size)))


def ordered_batches(size: int, batch_size: int) -> list[Tensor]:
    """Every index once, in order."""
    return list(torch.arange(size).split(batch_size))


def number_of_batches(size: int, batch_size: int) -> int:
    return -(-size // batch_size)
