"""The pairs that SCAN trains on: every image with the neighbors that may be drawn for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from configs.config_scan import ScanConfig
from src_py.feature_space import BLOCK, gathered
from src_py.losses import ScanLoss, scan_loss, whole_scan_loss
from src_py.mining.neighbor_graph import mutual_first
from src_py.models import ClusterHeads
from src_py.stored_features import StoredFeatures

PROBABILITIES_AT_ONCE = 2**24  # numbers, of all images
LEAST_AGREEMENT = torch.finfo(torch.float32).tiny  # of two images


@dataclass(frozen=True)
class NeighborPairs:
    """
    Attributes:
        neighbors: (N, k) int64, on the device.
        counts: (N,) int64, how many of a row's first columns may be drawn, at least 1.
    """

    neighbors: Tensor
    counts: Tensor

    @staticmethod
    def of(
        neighbors: np.ndarray,
        device: torch.device,
        mutual: bool = False,
        scratch: Path | None = None,
    ) -> "NeighborPairs":
        """
        Args:
            neighbors: (N, k), as mined.
            mutual: leave out neighbors that do not have the image among their own.
            scratch: folder for a temporary file, where they are many; None keeps them in memory.
        """
        counts = np.full(len(neighbors), neighbors.shape[1])
        if mutual:
            neighbors, counts = mutual_first(neighbors, scratch)
        return NeighborPairs(
            torch.from_numpy(neighbors).to(device), torch.from_numpy(counts).to(device)
        )

    def __len__(self) -> int:
        return len(self.neighbors)

    def draw(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        """One neighbor of each anchor, uniformly: (B,) -> (B,)."""
        fractions = torch.rand(anchors.shape, generator=generator, device=anchors.device)
        # float32 can round up to the count itself.
        last = self.counts[anchors] - 1
        columns = (fractions * self.counts[anchors]).long().minimum(last)
        return self.neighbors[anchors, columns]

    def drawn_loss(
        self,
        heads: nn.Module,
        stored: StoredFeatures,
        anchors: Tensor,
        generator: torch.Generator,
        entropy_weight: float,
        evenness: float = 1.0,
    ) -> ScanLoss:
        """The SCAN loss of each head over the anchors (B,) and one drawn neighbor of each.

        Args:
            heads: ClusterHeads on the features.
            stored: features of the N images; a view of the anchor meets the neighbor as it is.
        """
        neighbors = stored.plain[self.draw(anchors, generator)]
        seen = torch.cat([stored.draw(anchors, generator), neighbors])
        anchor_logits, neighbor_logits = heads(seen).chunk(2, dim=1)
        return scan_loss(anchor_logits, neighbor_logits, entropy_weight, evenness)

    @torch.no_grad()
    def loss(
        self,
        logits: Iterable[Tensor],
        entropy_weight: float,
        evenness: float = 1.0,
        scratch: Path | None = None,
    ) -> ScanLoss:
        """The SCAN loss of every head over all pairs, a block of images at a time.

        The agreement of two images, <p, q>, counts as LEAST_AGREEMENT where it is smaller.

        Args:
            logits: (H, B, C) float32 of consecutive images, together of all.
            scratch: see `feature_space.in_blocks`.

        Returns:
            terms of shape (H,).
        """
        softmaxes = (block.softmax(dim=2).permute(1, 2, 0) for block in logits)
        # Heads last: processors add up whole rows of them.
        probabilities = gathered(softmaxes, len(self), scratch=scratch)  # (N, C, H)
        sizes = torch.zeros_like(probabilities[0])  # (C, H)
        log_agreement, pairs = torch.zeros_like(sizes[0]), 0
        for block in torch.arange(len(self), device=probabilities.device).split(BLOCK):
            sizes += probabilities[block].sum(dim=0)
            for column in range(self.neighbors.shape[1]):
                rows = block[self.counts[block] > column]
                others = probabilities[self.neighbors[rows, column]]
                agreement = others.mul_(probabilities[rows]).sum(dim=1)  # (B, H)
                log_agreement += agreement.clamp(min=LEAST_AGREEMENT).log().sum(dim=0)
                pairs += len(rows)
        sizes /= len(self)
        entropy = -torch.xlogy(sizes, sizes).sum(dim=0)
        # The sizes' part of the loss does not depend on which neighbors were compared.
        return whole_scan_loss(
            -log_agreement / pairs, entropy, len(sizes), entropy_weight, evenness
        )

    def losses(self, heads: ClusterHeads, stored: StoredFeatures, config: ScanConfig) -> Tensor:
        """The SCAN loss of each head over all pairs, (H,), of a few heads at a time.

        Args:
            stored: features as the heads see them.
        """
        at_once = max(1, PROBABILITIES_AT_ONCE // (len(self) * heads.clusters))
        weights = (config.entropy_weight, config.evenness)
        numbers = torch.arange(heads.heads).split(at_once)
        parts = (heads.keep(part.tolist()) for part in numbers)
        blocks = stored.plain.split(BLOCK)
        found = [self.loss(map(part, blocks), *weights, stored.scratch).total for part in parts]
        return torch.cat(found)
