"""Networks that turn images into features: ResNets, a compact one for small images, timm's.

The ResNets' parameter names are torchvision's (`conv1`, `layer1.0.bn2`, ...), so that weights of
either can be read by the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src_py.run.errors import UserError

SMALL_STEM_UP_TO = 64  # px: images this small lose too much in the ImageNet stem's stride of 4
FEWEST_COMPACT_BLOCKS = 3
COMPACT_MAP = 4  # px: the side of the compact network's last map, at most


@dataclass(frozen=True)
class BackboneSpec:
    """What rebuilds a ResNet; stored in every checkpoint.

    Attributes:
        width: channels of the first stage; the features have 8 x width dimensions (64 -> 512), or
            four times as many with bottlenecks.
        channels: of the images, 1 or 3.
        small_stem: a 3x3 convolution of stride 1 and no max-pool, instead of ImageNet's stem.
        blocks: of each of the four stages; the default is ResNet-18's.
        bottleneck: blocks of three convolutions, as ResNet-50 has them, instead of two.
        frozen: no stage trains the backbone.
    """

    width: int
    channels: int
    small_stem: bool
    blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    bottleneck: bool = False
    frozen: bool = False

    @staticmethod
    def for_images(width: int, channels: int, image_size: int) -> "BackboneSpec":
        return BackboneSpec(width, channels, small_stem=image_size <= SMALL_STEM_UP_TO)


@dataclass(frozen=True)
class CompactSpec:
    """What rebuilds a compact network; stored in every checkpoint.

    Attributes:
        width: channels of the first block; the features have 8 x width dimensions, as a ResNet-18's
            of this width.
        channels: of the images, 1 or 3.
        blocks: each of them halves the side of the map.
        shortcuts: around the second convolution of each block; the first networks had none.
        frozen: no stage trains the backbone.
    """

    width: int
    channels: int
    blocks: int = FEWEST_COMPACT_BLOCKS
    shortcuts: bool = False
    frozen: bool = False

    @staticmethod
    def for_images(width: int, channels: int, image_size: int) -> "CompactSpec":
        blocks = math.ceil(math.log2(image_size / COMPACT_MAP))
        return CompactSpec(width, channels, max(FEWEST_COMPACT_BLOCKS, blocks), shortcuts=True)


@dataclass(frozen=True)
class TimmSpec:
    """What rebuilds a network of the timm package; stored in every checkpoint.

    Attributes:
        timm_name: as `timm.create_model` takes it.
        channels: of the images, 1 or 3.
        image_size: side in px, which the position embeddings of a transformer depend on.
        frozen: no stage trains the backbone.
        pooling: timm's `global_pool`; "" is the network's own.
        projected: whether the last layer stays: a projection, as CLIP's, not a classifier.
    """

    timm_name: str
    channels: int
    image_size: int
    frozen: bool = False
    pooling: str = ""
    projected: bool = False

    def network_options(self) -> dict[str, str]:
        """What `timm.create_model` must be told, with the classifier or without."""
        return {"global_pool": self.pooling} if self.pooling else {}


Spec = BackboneSpec | CompactSpec | TimmSpec


class Backbone(nn.Module):
    """Images (B, channels, S, S) -> features (B, feature_dim).

    A frozen backbone has no trainable parameter and is always in eval() mode: its batch statistics
    stay what they are while the heads on top of it are trained.

    Attributes:
        mean, std: (channels,) float32 buffers: of pixels in [0, 1], by which images are normalised
            before they are shown. 0 and 1 until `set_statistics` is called.
    """

    spec: Spec
    feature_dim: int
    mean: Tensor
    std: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.channels))
        self.register_buffer("std", torch.ones(spec.channels))

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """As `transforms.normalize` takes them."""
        return self.mean, self.std

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Both of as many numbers as the images have channels."""
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def freeze_if_asked(self) -> None:
        """To be called at the end of a constructor, when all parameters are there."""
        self.requires_grad_(not self.spec.frozen)
        self.train(self.training)

    def set_frozen(self, frozen: bool) -> None:
        """Whether the stages from here on leave the backbone as it is.

        One that was frozen and is so no more learns with the statistics of each batch, but keeps
        its running ones, as in the authors' self-labelling on ImageNet.
        """
        if self.spec.frozen and not frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = 0.0
        self.spec = replace(self.spec, frozen=frozen)
        self.freeze_if_asked()

    def train(self, mode: bool = True) -> "Backbone":
        return super().train(mode and not self.spec.frozen)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    expansion = 1  # channels of the output, as a multiple of the convolutions' own

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection_shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the 3x3 has the stride, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


def _projection_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """What brings the shortcut to the block's output shape, where the two differ."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet18(Backbone):
    """ResNet-18, or the deeper ResNet that the spec describes, without its classifier."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__(spec)
        width = spec.width
        block = Bottleneck if spec.bottleneck else BasicBlock
        self.feature_dim = 8 * width * block.expansion
        if spec.small_stem:
            self.conv1 = nn.Conv2d(spec.channels, width, 3, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(spec.channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(block, width, width, spec.blocks[0], stride=1)
        self.layer2 = _stage(block, width * block.expansion, 2 * width, spec.blocks[1], stride=2)
        self.layer3 = _stage(
            block, 2 * width * block.expansion, 4 * width, spec.blocks[2], stride=2
        )
        self.layer4 = _stage(
            block, 4 * width * block.expansion, 8 * width, spec.blocks[3], stride=2
        )
        _initialise(self)
        self.freeze_if_asked()

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))  # (B, feature_dim)


def _stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    more = (block(channels * block.expansion, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *more)


def _initialise(network: nn.Module) -> None:
    """As torchvision initialises its ResNets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CompactBlock(nn.Module):
    """Two 3x3 convolutions; the map is halved between them, before the batch norm, so that most of
    the work is done on the smaller one. The shortcut goes around the second, whose input and output
    have one shape, so that it needs no weights."""

    def __init__(self, in_channels: int, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2, ceil_mode=True)
        x = F.relu(self.bn1(x), inplace=True)
        changed = self.bn2(self.conv2(x))
        return F.relu(changed + x if self.shortcut else changed, inplace=True)


class CompactNetwork(Backbone):
    """A network for small images: a 2x2 convolution, then blocks that grow to 8 x width.

    After the networks of airbench (Jordan, 2024), which learn CIFAR-10 in few operations: wide on
    small maps, where processors convolve fastest.
    """

    def __init__(self, spec: CompactSpec) -> None:
        super().__init__(spec)
        width = spec.width
        self.feature_dim = 8 * width
        self.conv1 = nn.Conv2d(spec.channels, width, 2)
        channels = [width, width, 4 * width] + [8 * width] * (spec.blocks - 2)
        self.blocks = nn.Sequential(
            *(CompactBlock(*pair, spec.shortcuts) for pair in pairwise(channels))
        )
        _initialise(self)
        self.freeze_if_asked()

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.conv1(images), inplace=True))
        return x.mean(dim=(2, 3))  # (B, feature_dim)


class TimmBackbone(Backbone):
    """Any network of the timm package without its classifier."""

    def __init__(self, spec: TimmSpec) -> None:
        """
        Raises:
            UserError: when timm is not installed.
        """
        super().__init__(spec)
        options: dict[str, str | int] = {**spec.network_options(), "in_chans": spec.channels}
        if not spec.projected:
            options["num_classes"] = 0
        network = import_timm().create_model(spec.timm_name, pretrained=False, **options)
        set_input_size(network, spec.image_size)
        self.network = network
        self.feature_dim = network.num_classes if spec.projected else network.head_hidden_size
        self.freeze_if_asked()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def set_input_size(network: Any, image_size: int) -> None:
    """Resamples the position embeddings, if a network of timm has any, from the size it has had."""
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=image_size)


def import_timm() -> ModuleType:
    """
    Raises:
        UserError: when timm is not installed.
    """
    from src_py.run import torchvision_compat  # noqa: F401  (timm imports torchvision)

    try:
        import timm
    except ImportError:
        raise UserError("these weights need the timm package: pip install timm") from None
    return timm


def new_spec(backbone: str, width: int, channels: int, image_size: int) -> Spec:
    """Of a network that begins with random weights.

    Args:
        backbone: resnet18, resnet50 or compact.
        image_size: side in px.
    """
    if backbone == "compact":
        return CompactSpec.for_images(width, channels, image_size)
    spec = BackboneSpec.for_images(width, channels, image_size)
    return replace(spec, blocks=(3, 4, 6, 3), bottleneck=True) if backbone == "resnet50" else spec


def build_backbone(spec: Spec) -> Backbone:
    if isinstance(spec, TimmSpec):
        return TimmBackbone(spec)
    return CompactNetwork(spec) if isinstance(spec, CompactSpec) else ResNet18(spec)


def spec_from_dict(stored: dict) -> Spec:
    """The inverse of `dataclasses.asdict`."""
    if "timm_name" in stored:
        return TimmSpec(**stored)
    return BackboneSpec(**stored) if "small_stem" in stored else CompactSpec(**stored)
