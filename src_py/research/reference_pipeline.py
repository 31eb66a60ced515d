"""The authors' pipeline, for comparison of speed only: Pillow, one image at a time.

Their views of an image in DataLoader workers on all cores, as contiguous float32 tensors.
"""

import math
from collections.abc import Callable, Generator

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src_py.run import torchvision_compat  # noqa: F401
from src_py.run.cores import available_cores

import torchvision.transforms as T  # isort: skip

View = Callable[[Image.Image], Tensor]

# ------------------------------------------------------------------------------ the strong view


def _enhance(kind: type) -> Callable[[Image.Image, float], Image.Image]:
    """One of Pillow's enhancements; a factor of 1 leaves the image as it is."""
    return lambda image, factor: kind(image).enhance(factor)


def _affine(
    image: Image.Image, b: float = 0, c: float = 0, d: float = 0, f: float = 0
) -> Image.Image:
    """The output's point (x, y) comes from (x + b y + c, d x + y + f); black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, (1, b, c, d, 1, f))


# (image, strength) -> image, and the range that the strength is uniform in.
STRONG_OPERATIONS: tuple[tuple[Callable[[Image.Image, float], Image.Image], float, float], ...] = (
    (lambda image, _: image, 0, 1),
    (lambda image, _: ImageOps.autocontrast(image), 0, 1),
    (lambda image, _: ImageOps.equalize(image), 0, 1),
    (lambda image, degrees: image.rotate(degrees), -30, 30),
    # Pillow asks for a whole number: of grey levels, just the same ones lie below the ceiling.
    (lambda image, threshold: ImageOps.solarize(image, math.ceil(threshold)), 0, 256),
    (lambda image, bits: ImageOps.posterize(image, int(bits)), 4, 8),
    (_enhance(ImageEnhance.Color), 0.05, 0.95),
    (_enhance(ImageEnhance.Contrast), 0.05, 0.95),
    (_enhance(ImageEnhance.Brightness), 0.05, 0.95),
    (_enhance(ImageEnhance.Sharpness), 0.05, 0.95),
    (lambda image, slope: _affine(image, b=slope), -0.1, 0.1),
    (lambda image, slope: _affine(image, d=slope), -0.1, 0.1),
    (lambda image, share: _affine(image, c=share * image.width), -0.1, 0.1),
    (lambda image, share: _affine(image, f=share * image.height), -0.1, 0.1),
)


def four_operations(image: Image.Image) -> Image.Image:
    """Four strong operations in a row, drawn with replacement, each with a strength of its own."""
    drawn = torch.randint(len(STRONG_OPERATIONS), (4,)).tolist()
    for index, fraction in zip(drawn, torch.rand(4).tolist(), strict=True):
        operation, low, high = STRONG_OPERATIONS[index]
        image = operation(image, low + fraction * (high - low))
    return image


class Cutout:
    """Zeros in one square of random size, up to `largest` px a side, centred anywhere."""

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def __call__(self, view: Tensor) -> Tensor:
        _, height, width = view.shape
        half = int(torch.randint(1, self.largest + 1, ())) // 2
        row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
        view[:, max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
        return view


# ------------------------------------------------------------------------------ whole views


def _as_network_input() -> list[Callable]:
    return [T.ToTensor(), T.Normalize((0.5,) * 3, (0.25,) * 3)]


def plain_view() -> View:
    """The image as it is: for inference, and the authors' weak view in self-labelling."""
    return T.Compose(_as_network_input())


def simclr_view(size: int) -> View:
    """The authors' view for SimCLR."""
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.2, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            *_as_network_input(),
        ]
    )


def strong_view(size: int) -> View:
    """The authors' strong view of images of `size` px; cutout comes after the normalisation.

    Their crop to the training size is left out: at that size it does nothing.
    """
    return T.Compose(
        [T.RandomHorizontalFlip(), four_operations, *_as_network_input(), Cutout(size // 2)]
    )


# ------------------------------------------------------------------------------ batches


class ViewsOfImages(Dataset[list[Tensor]]):
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


def endless_batches(
    dataset: ViewsOfImages, batch_size: int, device: torch.device
) -> Generator[list[Tensor], None, None]:
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
