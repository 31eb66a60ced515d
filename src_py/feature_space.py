"""The space that cluster heads and neighbors see the features in."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src_py.run.writing import scratch_array

BLOCK = 16_384  # images at once: what is made of all of them, a block at a time


class FeatureSpace(nn.Module):
    """Features (B, D) as they are, at length 1, or conditioned: (B, D or components).

    Conditioned features are centred, reduced to their principal components and scaled to length 1:

        z = u / |u|,   u = (features - shift) basis

    Networks that others trained give features with a large common part (of ReLUs, all positive) and
    directions in which images differ by chance. Without them, distances tell more of what is shown.

    Attributes:
        dim: of what it gives.
        shift, basis: (D,) and (D, components) float32 buffers, where there are components.
    """

    shift: Tensor
    basis: Tensor

    def __init__(self, feature_dim: int, normalized: bool = False, components: int = 0) -> None:
        """
        Args:
            normalized: whether to scale to length 1; with components it is done anyway.
            components: principal components to keep; 0 keeps the features as they are.
        """
        super().__init__()
        self.normalized = normalized or components > 0
        self.components = components
        self.dim = components or feature_dim
        if components:
            self.register_buffer("shift", torch.zeros(feature_dim))
            self.register_buffer("basis", torch.eye(feature_dim, components))

    @torch.no_grad()
    def fit(self, features: Tensor) -> "FeatureSpace":
        """Finds the components of the features (N, D) float32; itself, for a chain of calls."""
        if self.components:
            # The covariance rather than the (N, D) matrix: its size does not grow with the images.
            shift, dim = features.mean(dim=0), features.shape[1]
            covariance = torch.zeros(dim, dim, dtype=torch.float64)
            for block in features.split(BLOCK):
                centred = (block - shift).cpu().double()  # MPS has no float64
                covariance += centred.T @ centred
            values, vectors = torch.linalg.eigh(covariance)
            order = values.argsort(descending=True)[: self.components]
            self.shift.copy_(shift)
            self.basis.copy_(_with_positive_peaks(vectors[:, order]).float())
        return self

    def forward(self, features: Tensor) -> Tensor:
        if self.components:
            features = (features - self.shift) @ self.basis
        return F.normalize(features, dim=1) if self.normalized else features

    def of_all(self, features: Tensor, scratch: Path | None = None) -> Tensor:
        """Features (..., D) of many images: (..., dim) float32; see `in_blocks`."""
        if not self.components and not self.normalized:
            return features
        return in_blocks(self, features, self.dim, scratch)


@torch.no_grad()
def in_blocks(
    function: Callable[[Tensor], Tensor], features: Tensor, dim: int, scratch: Path | None = None
) -> Tensor:
    """What a function of features (B, D) gives for those of many images, a block at a time.

    Args:
        features: (N, ..., D).
        dim: of what it gives: (N, ..., dim) float32.
        scratch: folder for a temporary file, where they are many; None keeps them in memory.
    """
    blocks = features.split(BLOCK)
    made = (function(b.float().flatten(0, -2)).view(*b.shape[:-1], dim) for b in blocks)
    return gathered(made, len(features), scratch=scratch)


@torch.no_grad()
def gathered(
    blocks: Iterable[Tensor], images: int, dim: int = 0, scratch: Path | None = None
) -> Tensor:
    """What `torch.cat` makes of float32 blocks along `dim`, without having all of them at once.

    Args:
        images: of all blocks together.
        scratch: see `in_blocks`.
    """
    found, first = torch.empty(0), 0
    for block in blocks:
        if not first:
            shape = (*block.shape[:dim], images, *block.shape[dim + 1 :])
            if block.device.type == "cpu":
                found = torch.from_numpy(scratch_array(shape, scratch))
            else:
                found = torch.empty(shape, device=block.device)
        found.narrow(dim, first, block.shape[dim]).copy_(block)
        first += block.shape[dim]
    return found


def condition(features: Tensor, components: int, scratch: Path | None = None) -> Tensor:
    """Features (N, D) float32 in the space of their own principal components, (N, components).

    Args:
        components: as many as the features allow, at most; 0 gives the features as they are.
        scratch: see `in_blocks`.
    """
    return fitted_space(features, components).of_all(features, scratch)


def fitted_space(features: Tensor, components: int) -> FeatureSpace:
    """The space of the features (N, D), with at most so many components as they have."""
    components = min(components, features.shape[1], len(features) - 1)
    space = FeatureSpace(features.shape[1], components=components).to(features.device)
    return space.fit(features)


def _with_positive_peaks(vectors: Tensor) -> Tensor:
    """Columns whose largest element is positive: which of both signs is found is arbitrary."""
    peaks = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * peaks.sign()
