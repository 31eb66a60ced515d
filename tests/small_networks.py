"""Small networks of timm with random weights, in the place of those of the table."""

from dataclasses import replace

import torch

from configs.weights import WEIGHTS
from src_py.images.image_set import DataSettings
from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)

import timm  # isort: skip

SIZE = 64
# They pool as those of the table do.
SMALL = {"dinov2": "test_vit.r160_in1k", "siglip2": "test_vit3.r160_in1k"}


def use_small_networks(monkeypatch):
    """Puts them into the table, and takes the others out."""
    for name, timm_name in SMALL.items():
        monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], timm_name=timm_name))
    for name in WEIGHTS.keys() - {*SMALL, "efficientnet_lite0"}:
        monkeypatch.delitem(WEIGHTS, name)


def settings_of(size=SIZE):
    return DataSettings("folder", None, size, 3, (0.5,) * 3, (0.5,) * 3)


def random_weights(timm_name, file, **options):
    """A network of timm with weights that are nowhere zero or one, and a file of them."""
    torch.manual_seed(3)
    network = timm.create_model(timm_name, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.save(network.state_dict(), file)
    return network
