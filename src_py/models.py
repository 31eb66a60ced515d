"""A backbone and the heads that the stages put on it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src_py.backbones import Backbone, Spec, build_backbone
from src_py.feature_space import FeatureSpace


class ContrastiveModel(nn.Module):
    """The pretext model: backbone and a two-layer projection head (SimCLR, Chen et al., 2020)."""

    def __init__(self, spec: Spec, projection_dim: int = 128) -> None:
        super().__init__()
        self.backbone = build_backbone(spec)
        dim = self.backbone.feature_dim
        self.projection_head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, projection_dim)
        )

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        return self.backbone.statistics

    def forward(self, images: Tensor) -> Tensor:
        """images (B, channels, S, S) -> projections (B, projection_dim), not normalised."""
        return self.projection_head(self.backbone(images))


class KeyQueue(nn.Module):
    """The keys of the latest batches, L2-normalised: MoCo's negatives. Begins with random ones."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.keys: Tensor  # (K, D)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Puts (B, D) keys, of any length, in the place of the oldest."""
        newest = torch.cat([F.normalize(keys.float(), dim=1), self.keys])
        self.keys.copy_(newest[: len(self.keys)])


class ClusterHeads(nn.Module):
    """Several linear cluster heads, computed as one: features (B, D) -> logits (heads, B, C).

    They compute in float32 under autocast too: the distances of a feature to the centers of k-means
    differ by less than bfloat16 can tell.

    Attributes:
        space: that the heads see the features in.
    """

    def __init__(
        self,
        feature_dim: int,
        clusters: int,
        heads: int,
        normalized: bool = False,
        components: int = 0,
    ) -> None:
        """
        Args:
            normalized, components: see FeatureSpace.
        """
        super().__init__()
        self.space = FeatureSpace(feature_dim, normalized, components)
        self.clusters = clusters
        self.heads = heads
        self.linear = nn.Linear(self.space.dim, heads * clusters)

    def forward(self, features: Tensor) -> Tensor:
        device = features.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.forward(features.float() if features.itemsize == 2 else features)
        logits = self.linear(self.space(features))
        return logits.unflatten(1, (self.heads, self.clusters)).movedim(1, 0)

    def keep(self, chosen: list[int]) -> "ClusterHeads":
        """A copy that has only the heads `chosen`, in that order."""
        rows = torch.arange(self.heads * self.clusters).unflatten(0, (self.heads, self.clusters))
        return self._with_rows(rows[chosen])

    def grow(self, parents: list[int]) -> "ClusterHeads":
        """A copy with one more cluster for each of `parents`, which begins as a copy of that."""
        rows = torch.arange(self.heads * self.clusters).unflatten(0, (self.heads, self.clusters))
        rows = torch.cat([rows, rows[:, parents]], dim=1)
        return self._with_rows(rows)

    def behind(self, space: FeatureSpace) -> "ClusterHeads":
        """These heads, which have seen features in `space`, for the features as they were."""
        self.space = space
        return self

    def _with_rows(self, rows: Tensor) -> "ClusterHeads":
        """A copy whose heads and clusters are the `rows` (heads, clusters) of the linear layer."""
        copied = copy.deepcopy(self)
        copied.heads, copied.clusters = rows.shape
        copied.linear = nn.Linear(self.space.dim, rows.numel()).to(self.linear.weight.device)
        with torch.no_grad():
            copied.linear.weight.copy_(self.linear.weight[rows.flatten()])
            copied.linear.bias.copy_(self.linear.bias[rows.flatten()])
        return copied


class ClusteringModel(nn.Module):
    """The classifier of scan.py and selflabel.py: images -> logits (heads, B, C)."""

    def __init__(self, backbone: Backbone, heads: ClusterHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        return self.backbone.statistics

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.backbone(images))
