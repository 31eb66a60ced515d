"""The pipeline of the predecessors, for comparison only: Pillow transforms, one image at a time.

torchvision's transforms in DataLoader workers on all cores, float32, contiguous tensors.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src_py import torchvision_compat  # noqa: F401
from src_py.hardware import available_cores

import torchvision.transforms as T  # isort: skip

View = Callable[[Image.Image], Tensor]


class Cutout:
    """One black square of side `length` px, centred anywhere (DeVries & Taylor, 2017)."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        _, height, width = image.shape
        top = int(torch.randint(height, ())) - self.length // 2
        left = int(torch.randint(width, ())) - self.length // 2
        rows = slice(max(top, 0), max(top + self.length, 0))
        image[:, rows, max(left, 0) : max(left + self.length, 0)] = 0
        return image


def simclr_view(size: int) -> View:
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.2, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.ToTensor(),
            T.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )


def weak_view(size: int) -> View:
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.2, 1.0)),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )


def strong_view(size: int) -> View:
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.2, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandAugment(num_ops=4),
            T.ToTensor(),
            T.Normalize((0.5,) * 3, (0.25,) * 3),
            Cutout(size // 2),
        ]
    )


def plain_view() -> View:
    return T.Compose([T.ToTensor(), T.Normalize((0.5,) * 3, (0.25,) * 3)])


class ViewsOfImages(Dataset):
    """For each index, one image under each of `views`; of two images where `pairs` is set."""

    def __init__(self, images: np.ndarray, views: list[View], pairs: bool = False) -> None:
        self.images = images  # (N, S, S, 3) uint8
        self.views = views
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        other = int(torch.randint(len(self), ())) if self.pairs else index
        sources = (index, other) if self.pairs else (index,) * len(self.views)
        return [
            view(Image.fromarray(self.images[i]))
            for view, i in zip(self.views, sources, strict=True)
        ]


def endless_batches(dataset: ViewsOfImages, batch_size: int, device: torch.device) -> Iterator:
    """Batches of each view on the device, epoch after epoch."""
    loader = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=available_cores(),
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    while True:
        for views in loader:
            yield [view.to(device, non_blocking=True) for view in views]
