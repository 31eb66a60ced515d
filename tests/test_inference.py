"""Batch norms that become a part of the convolutions before them."""

import pytest
import torch
from torch import nn

from src_py.backbones import Backbone, BackboneSpec, CompactSpec, TimmSpec, build_backbone
from src_py.inference import folded

SIZE = 32


def with_statistics(backbone):
    """As after a training: no batch norm that changes nothing."""
    torch.manual_seed(1)
    for norm in (part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return backbone.eval()


def norms(backbone):
    return sum(isinstance(part, nn.BatchNorm2d) for part in backbone.modules())


@pytest.mark.parametrize(
    "spec, left",
    [
        (BackboneSpec(8, 3, small_stem=True), 0),
        (BackboneSpec(8, 1, small_stem=False, bottleneck=True), 0),
        (CompactSpec(8, 3), 3),  # those behind a pooling stay
        (TimmSpec("test_efficientnet.r160_in1k", 3, SIZE, frozen=True), 0),
        (TimmSpec("test_vit.r160_in1k", 3, SIZE, frozen=True), 0),
    ],
)
def test_a_folded_backbone_gives_the_same_features(spec, left):
    backbone = with_statistics(build_backbone(spec))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    fast = folded(backbone, SIZE)
    images = torch.randn(5, spec.channels, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), backbone(images), rtol=1e-3, atol=1e-4)
    assert norms(fast) == left and not fast.training and fast.spec == spec
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())


class UsedTwice(Backbone):
    """What the convolution gives goes to the batch norm and past it."""

    def __init__(self):
        super().__init__(CompactSpec(8, 3))
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.conv(images)
        return (self.norm(maps) + maps).mean(dim=(2, 3))


def test_what_cannot_be_folded_stays():
    backbone = with_statistics(UsedTwice())
    assert folded(backbone, SIZE) is backbone and norms(backbone) == 1
