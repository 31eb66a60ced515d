"""Collapse, noticed while it happens: how the images spread over the clusters in each epoch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_OF_EQUAL = 0.2  # a smaller cluster than this share of an equal one is about to be lost
MOST_OF_EQUAL = 3.0  # a larger one swallows others
LEAST_ENTROPY = 0.8  # of the batch means, as a share of the largest possible
LEAST_RELIABLE = 0.02  # of the images; fewer teach nothing
REMEDIES = {
    "scan": "raise --entropy-weight",
    "selflabel": "raise --threshold, or end with fewer --epochs",
}


@dataclass(frozen=True)
class ClusterHealth:
    """One epoch of one head.

    Attributes:
        entropy: of the batches' mean predictions, as a share of its maximum, log C; no more than
            the clusters that got an image allow.
        alive: clusters that got an image.
        clusters: C.
        smallest, largest: shares of the images.
        reliable: share of the images that have a pseudo-label; None where none is needed.
    """

    entropy: float
    alive: int
    clusters: int
    smallest: float
    largest: float
    reliable: float | None = None

    def columns(self) -> dict[str, float]:
        """What the log keeps of it."""
        columns = {
            "batch_entropy": round(self.entropy, 4),
            "clusters_alive": self.alive,
            "smallest_cluster": round(self.smallest, 4),
            "largest_cluster": round(self.largest, 4),
        }
        return columns if self.reliable is None else columns | {"reliable": round(self.reliable, 4)}

    def __str__(self) -> str:
        reliable = "" if self.reliable is None else f"{self.reliable:.1%} reliable, "
        return reliable + (
            f"{self.alive} of {self.clusters} clusters alive, "
            f"smallest {self.smallest:.1%}, largest {self.largest:.1%}, "
            f"batch entropy {self.entropy:.0%}"
        )

    def warnings(self, stage: str) -> dict[str, str]:
        """What has passed its limit, and what helps, by kind. Empty for a healthy epoch."""
        equal = 1 / self.clusters
        found = {}
        if self.alive < self.clusters:
            found["empty"] = (
                f"{self.clusters - self.alive} of {self.clusters} clusters are empty: "
                f"{REMEDIES[stage]}, or ask scan.py for fewer --clusters"
            )
        elif self.smallest < FEWEST_OF_EQUAL * equal:
            found["small"] = f"the smallest cluster holds {self.smallest:.2%}: {REMEDIES[stage]}"
        if self.largest > MOST_OF_EQUAL * equal and self.clusters > MOST_OF_EQUAL:
            found["large"] = (
                f"one cluster holds {self.largest:.0%} of the images: {REMEDIES[stage]}, or train "
                f"the pretext for more epochs"
            )
        if self.entropy < LEAST_ENTROPY:
            found["entropy"] = (
                f"the batch entropy is {self.entropy:.0%} of its maximum: {REMEDIES[stage]}"
            )
        if self.reliable is not None and self.reliable < LEAST_RELIABLE:
            found["reliable"] = (
                f"only {self.reliable:.1%} of the images have a pseudo-label to learn from: lower "
                f"--threshold, raise --reliable-share, or train scan.py for more epochs"
            )
        return found


class ClusterCounts:
    """Adds up an epoch's predictions on the device, without waiting for it."""

    def __init__(self, heads: int, clusters: int, device: torch.device) -> None:
        self.counts = torch.zeros(heads, clusters, device=device)
        self.entropy = torch.zeros(heads, device=device)
        self.batches = 0

    def add(self, logits: Tensor) -> None:
        """
        Args:
            logits: (H, B, C).
        """
        clusters = logits.argmax(dim=2)  # (H, B)
        self.counts.scatter_add_(1, clusters, torch.ones_like(clusters, dtype=torch.float32))
        mean = logits.float().softmax(dim=2).mean(dim=1)  # (H, C)
        self.entropy -= torch.xlogy(mean, mean).sum(dim=1)
        self.batches += 1

    def health(self, head: int = 0, reliable: float | None = None) -> ClusterHealth:
        """What the predictions of one head say."""
        shares = (self.counts[head] / self.counts[head].sum()).tolist()
        alive = sum(share > 0 for share in shares)
        # Where all images get the same undecided answer, its mean is even and the clusters are not.
        entropy = min(float(self.entropy[head]) / self.batches, math.log(alive))
        return ClusterHealth(
            entropy=entropy / math.log(len(shares)),
            alive=alive,
            clusters=len(shares),
            smallest=min(shares),
            largest=max(shares),
            reliable=reliable,
        )
