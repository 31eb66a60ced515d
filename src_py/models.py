"""ResNet-18 and the heads that the stages put on it.

The backbone's parameter names are torchvision's (`conv1`, `layer1.0.bn2`, ...), so that weights of
either can be read by the other.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL_STEM_UP_TO = 64  # px: images this small lose too much in the ImageNet stem's stride of 4


@dataclass(frozen=True)
class BackboneSpec:
    """What rebuilds a backbone; stored in every checkpoint.

    Attributes:
        width: channels of the first stage; the features have 8 x width dimensions (64 -> 512).
        channels: of the images, 1 or 3.
        small_stem: a 3x3 convolution of stride 1 and no max-pool, instead of ImageNet's stem.
    """

    width: int
    channels: int
    small_stem: bool

    @staticmethod
    def for_images(width: int, channels: int, image_size: int) -> "BackboneSpec":
        return BackboneSpec(width, channels, small_stem=image_size <= SMALL_STEM_UP_TO)

    def as_dict(self) -> dict:
        return asdict(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 without its classifier: images (B, channels, S, S) -> features (B, 8 x width)."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.feature_dim = 8 * width
        if spec.small_stem:
            self.conv1 = nn.Conv2d(spec.channels, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(spec.channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))  # (B, 8 x width)


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1)
    )


class ContrastiveModel(nn.Module):
    """The pretext model: backbone and a two-layer projection head (SimCLR, Chen et al., 2020)."""

    def __init__(self, spec: BackboneSpec, projection_dim: int = 128) -> None:
        super().__init__()
        self.backbone = ResNet18(spec)
        dim = self.backbone.feature_dim
        self.projection_head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, projection_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        """images (B, channels, S, S) -> projections (B, projection_dim), not normalised."""
        return self.projection_head(self.backbone(images))


class KeyQueue(nn.Module):
    """The keys of the latest batches, L2-normalised: MoCo's negatives. Begins with random ones."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))  # (K, D)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Puts (B, D) keys, of any length, in the place of the oldest."""
        newest = torch.cat([F.normalize(keys.float(), dim=1), self.keys])
        self.keys.copy_(newest[: len(self.keys)])


class ClusterHeads(nn.Module):
    """Several linear cluster heads, computed as one: features (B, D) -> logits (heads, B, C)."""

    def __init__(self, feature_dim: int, clusters: int, heads: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.heads = heads
        self.linear = nn.Linear(feature_dim, heads * clusters)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features).unflatten(1, (self.heads, self.clusters)).movedim(1, 0)

    def keep(self, chosen: list[int]) -> "ClusterHeads":
        """A copy that has only the heads `chosen`, in that order."""
        kept = ClusterHeads(self.linear.in_features, self.clusters, len(chosen))
        kept.to(self.linear.weight.device)
        rows = torch.arange(self.heads * self.clusters).unflatten(0, (self.heads, self.clusters))
        rows = rows[chosen].flatten()
        with torch.no_grad():
            kept.linear.weight.copy_(self.linear.weight[rows])
            kept.linear.bias.copy_(self.linear.bias[rows])
        return kept


class ClusteringModel(nn.Module):
    """The classifier of scan.py and selflabel.py: images -> logits (heads, B, C)."""

    def __init__(self, backbone: ResNet18, heads: ClusterHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.backbone(images))
