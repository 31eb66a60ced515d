"""Making confidence mean something: a temperature for the logits, found without labels."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from src_py.feature_space import BLOCK

LOWEST, HIGHEST = 0.05, 20.0
STEPS = 40  # halvings of the interval: far finer than a float of the checkpoint shows


def fit_temperature(logits: Tensor, neighbors: Tensor) -> float:
    """The temperature T at which softmax(logits / T) is as confident as the neighbors agree.

    Labels would tell how often a confident prediction is right. Without them, the neighbors do in
    their place: they were mined by the pretext model, which has never seen a cluster, and an image
    and its neighbor mostly show the same kind. The share of an image's neighbors that are put into
    its own cluster therefore estimates, on average over many images, how far the clusters can be
    relied on; training drives the confidence far above it. Where the pretext model itself mixes
    kinds, the agreement is too low an estimate, and the confidence errs on the side of doubt.

    T changes no prediction, only its confidence. The mean confidence falls as T rises, so the T at
    which it equals the mean agreement is found by bisection between 0.05 and 20.

    Args:
        logits: (N, C) float.
        neighbors: (N, k) int64, rows of `logits`.

    Raises:
        ValueError: when the shapes do not fit.
    """
    if logits.ndim != 2 or neighbors.ndim != 2 or len(logits) != len(neighbors):
        raise ValueError(
            f"logits {tuple(logits.shape)} and neighbors {tuple(neighbors.shape)}: "
            "expected (N, C) and (N, k)"
        )
    cluster = logits.argmax(dim=1)
    blocks = zip(cluster.split(BLOCK), neighbors.split(BLOCK), strict=True)
    agreeing = sum(int((cluster[others] == own[:, None]).sum()) for own, others in blocks)
    agreement = agreeing / neighbors.numel()
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _mean_confidence(logits, math.exp(middle)) > agreement:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _mean_confidence(logits: Tensor, temperature: float) -> Tensor:
    confidence = torch.empty(len(logits), dtype=torch.float64)
    for part, into in zip(logits.split(BLOCK), confidence.split(BLOCK), strict=True):
        into.copy_(torch.softmax(part.double() / temperature, dim=1).amax(dim=1))
    return confidence.mean()


def calibrate(stage: str, logits: Tensor, neighbors: Tensor, say: Callable[[str], None]) -> float:
    """The temperature for logits (N, C) of all images, found without labels; says it."""
    temperature = fit_temperature(logits.cpu(), neighbors.cpu())  # MPS has no float64
    say(f"{stage}: confidence calibrated with a temperature of {temperature:.2f}")
    return temperature
