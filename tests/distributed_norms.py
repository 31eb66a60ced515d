"""Batch norm and outputs of two processes against one's: for tests/test_distributed.py.

Writes norms.json: of each case the largest difference from float64, as a part of three times what
one process differs by, and of what float32 cannot tell.
"""

import copy
import itertools
import json
from pathlib import Path

import torch
from torch import nn

from src_py.backbones import TimmSpec, build_backbone
from src_py.images.loaders import ResidentImages
from src_py.inference import infer
from src_py.run.hardware import choose_hardware

# Of one image the second process has none.
CASES = itertools.product((0.0, 30.0, 1000.0), (torch.float32, torch.bfloat16), (1, 9))


def output_and_gradient(norm, images, upstream):
    images = images.clone().requires_grad_()
    output = norm.train()(images)
    output.backward(upstream)
    return torch.stack([output.detach(), images.grad]).double()


def main():
    hardware = choose_hardware("cpu")
    world = hardware.world
    found = {}
    for offset, dtype, count in CASES:
        torch.manual_seed(0)
        images = (torch.randn(count, 4, 6, 6) + offset).to(dtype)
        upstream = torch.randn(count, 4, 6, 6).to(dtype)
        part = world.own(torch.arange(count))
        one = output_and_gradient(nn.BatchNorm2d(4), images, upstream)
        true = output_and_gradient(nn.BatchNorm2d(4).double(), images.double(), upstream.double())
        shared = world.join(nn.BatchNorm2d(4))
        ours = output_and_gradient(shared, images[part], upstream[part])
        allowed = 3 * (one - true).abs().max() + 1e-6 * (1 + offset)
        gap = (ours - true[:, part]).abs().amax() if len(part) else torch.zeros(())
        found[f"{offset} {dtype} {count}"] = float(gap / allowed)
    torch.manual_seed(0)
    images = torch.randn(5, 3, 32, 32)
    mobile = build_backbone(TimmSpec("test_efficientnet.r160_in1k", 3, 32)).train()
    expected = copy.deepcopy(mobile)(images)
    ours = world.join(mobile)(images[world.own(torch.arange(5))])
    torch.testing.assert_close(ours, expected[world.part(5)], rtol=1e-3, atol=1e-4)
    transformer = build_backbone(TimmSpec("test_vit.r160_in1k", 3, 32, frozen=True))
    pixels = ResidentImages(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), hardware.device, world)
    assert [len(each) for each in infer(transformer, pixels, hardware, 2)] == [2, 1]
    if world.is_first:
        Path("norms.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
