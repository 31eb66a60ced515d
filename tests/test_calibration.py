"""The temperature, against confidences and agreements that are known."""

import pytest
import torch

from src_py.clusters.calibration import HIGHEST, LOWEST, fit_temperature


def overconfident(images=600, clusters=4, seed=0):
    """Logits of noisy predictions, and neighbors of the same kind."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(images) % clusters
    logits = torch.randn(images, clusters, generator=generator) * 4
    logits[torch.arange(images), kind] += 6
    steps = torch.randint(1, images // clusters, (images, 5), generator=generator) * clusters
    return logits, (torch.arange(images)[:, None] + steps) % images


def mean_confidence(logits, temperature):
    return (logits / temperature).softmax(1).amax(1).mean().item()


def test_confidence_equals_agreement():
    logits, neighbors = overconfident()
    cluster = logits.argmax(1)
    agreement = (cluster[neighbors] == cluster[:, None]).float().mean().item()
    temperature = fit_temperature(logits, neighbors)
    assert mean_confidence(logits, 1) > agreement + 0.05
    assert temperature > 1
    assert mean_confidence(logits, temperature) == pytest.approx(agreement, abs=1e-4)


def test_it_scales_with_the_logits():
    logits, neighbors = overconfident()
    once = fit_temperature(logits, neighbors)
    assert fit_temperature(logits * 2, neighbors) == pytest.approx(2 * once, rel=1e-4)


def test_the_limits():
    logits, _ = overconfident(images=8)
    same = torch.arange(8)[:, None].repeat(1, 3)  # in full agreement
    assert fit_temperature(logits * 0.01, same) == pytest.approx(LOWEST)
    other = (torch.arange(8)[:, None] + torch.tensor([[1, 2, 3]])) % 8
    apart = torch.eye(4).repeat(2, 1) * 1000  # in none
    assert fit_temperature(apart, other) == pytest.approx(HIGHEST)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"expected \(N, C\)"):
        fit_temperature(torch.zeros(3, 2), torch.zeros(4, 2, dtype=torch.int64))
