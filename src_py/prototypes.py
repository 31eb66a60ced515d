"""Cluster heads that begin at the prototypes of k-means instead of at random."""

import numpy as np
import torch
from torch import Tensor

from src_py.models import ClusterHeads

SAMPLE = 20_000  # rows that k-means sees; its prototypes hardly move with more
SHARPNESS = 5.0  # logits per squared distance; features have a mean squared length of 1


def kmeans_centers(
    points: np.ndarray, clusters: int, seed: int, iterations: int, starts: int = 1
) -> np.ndarray:
    """(C, D) float32 centers of the points (M, D), at most SAMPLE of them; the best of `starts`."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=starts,
        seed=seed % 2**31,  # a C int
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLE,
    )
    kmeans.train(np.ascontiguousarray(points))
    return kmeans.centroids


@torch.no_grad()
def start_at_prototypes(heads: ClusterHeads, features: Tensor, chosen: range, seed: int) -> None:
    """Sets each of the heads `chosen` to the prototypes of its own start of k-means.

    With z the features, shifted and scaled to mean 0 and mean squared length 1, and m_c the
    prototypes in that space, logit_c = -SHARPNESS |z - m_c|^2 up to what all clusters share.

    Args:
        features: (N, D) float32.
    """
    shift = features.mean(dim=0)
    scale = (features - shift).square().sum(dim=1).mean().sqrt().clamp(min=1e-6)
    random = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(features), generator=random)[:SAMPLE].to(features.device)
    points = ((features[sample] - shift) / scale).cpu().numpy()
    weight = heads.linear.weight.unflatten(0, (heads.heads, heads.clusters))
    bias = heads.linear.bias.unflatten(0, (heads.heads, heads.clusters))
    for head in chosen:
        found = kmeans_centers(points, heads.clusters, seed + head, iterations=25)
        prototypes = torch.from_numpy(found).to(features)  # (C, D)
        weight[head] = 2 * SHARPNESS * prototypes / scale
        bias[head] = -SHARPNESS * prototypes.square().sum(dim=1) - weight[head] @ shift
