"""The space that cluster heads and neighbors see the features in."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
            shift = features.mean(dim=0)
            centred = (features - shift).double().cpu()
            values, vectors = torch.linalg.eigh(centred.T @ centred)
            order = values.argsort(descending=True)[: self.components]
            self.shift.copy_(shift)
            self.basis.copy_(_with_positive_peaks(vectors[:, order]))
        return self

    def forward(self, features: Tensor) -> Tensor:
        if self.components:
            features = (features - self.shift) @ self.basis
        return F.normalize(features, dim=1) if self.normalized else features


def condition(features: Tensor, components: int) -> Tensor:
    """Features (N, D) float32 in the space of their own principal components, (N, components).

    Args:
        components: as many as the features allow, at most; 0 gives the features as they are.
    """
    return fitted_space(features, components)(features)


def fitted_space(features: Tensor, components: int) -> FeatureSpace:
    """The space of the features (N, D), with at most so many components as they have."""
    components = min(components, features.shape[1], len(features) - 1)
    space = FeatureSpace(features.shape[1], components=components).to(features.device)
    return space.fit(features)


def _with_positive_peaks(vectors: Tensor) -> Tensor:
    """Columns whose largest element is positive: which of both signs is found is arbitrary."""
    peaks = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * peaks.sign()
