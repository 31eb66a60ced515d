"""Cluster heads alone, trained on stored features: seconds, where an epoch of the network takes
minutes; half of them begin at the prototypes of k-means instead of at random."""

import math
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from configs.config_scan import ScanConfig
from src_py.clusters.kmeans import SAMPLE, kmeans_centers
from src_py.images.loaders import number_of_batches, shuffled_batches
from src_py.losses import ScanLoss
from src_py.models import ClusterHeads
from src_py.neighbor_pairs import NeighborPairs
from src_py.optimizers import descend
from src_py.run.planning import Trained, fit_head_epochs
from src_py.run.session import TrainingSession

FEWEST_HEAD_STEPS = 600  # a small set has few steps in an epoch; with 300 heads are not yet apart
SMALLEST_HEAD_BATCH = 512  # heads are small: a smaller batch takes no less time

SHARPNESS = 5.0  # logits per squared distance; features have a mean squared length of 1


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


def head_steps(
    heads: ClusterHeads,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    pairs: NeighborPairs,
    batches: Iterable[Tensor],
    generator: torch.Generator,
    entropy_weight: float,
    evenness: float = 1.0,
) -> Iterator[ScanLoss]:
    """SCAN for all heads at once, on the stored features of images and of drawn neighbors.

    Args:
        features: (N, D) float32, as the backbone gives them.
        batches: of anchors, (B,) int64 rows.
    """
    for anchors in batches:
        loss = pairs.drawn_loss(heads, features, anchors, generator, entropy_weight, evenness)
        descend(optimizer, loss.total.sum())
        yield loss


def train_heads(
    features: Tensor, pairs: NeighborPairs, config: ScanConfig, session: TrainingSession
) -> tuple[ClusterHeads, int]:
    """Trains many cluster heads and keeps those of lowest SCAN loss.

    Avoids what one unlucky initialisation costs.

    Args:
        features: (N, D) float32, as the backbone gives them.

    Returns:
        `config.heads` heads, and the epochs that they were trained for.
    """
    generator = session.generator(epoch=-1)
    heads = ClusterHeads(features.shape[1], config.clusters, config.candidate_heads)
    heads.to(features.device)
    if config.prototypes:
        start_at_prototypes(heads, features, range(0, config.candidate_heads, 2), config.seed)
    batch_size = max(config.batch_size, SMALLEST_HEAD_BATCH)
    optimizer = torch.optim.Adam(heads.parameters(), lr=config.head_learning_rate)
    trained: Trained = {"heads": heads, "optimizer": optimizer}
    steps = partial(
        head_steps,
        features=features,
        pairs=pairs,
        entropy_weight=config.entropy_weight,
        evenness=config.evenness,
    )
    fewest = math.ceil(FEWEST_HEAD_STEPS / number_of_batches(len(features), batch_size))
    asked = max(config.head_epochs, fewest)
    trial = list(torch.arange(len(features), device=features.device).split(batch_size))
    epochs, seconds = fit_head_epochs(asked, steps, trained, trial, config, session)
    if seconds is not None:
        session.end_training_in(seconds)
    trained_epochs = 0
    while trained_epochs < epochs and session.time_used < 1:
        trained_epochs += 1
        batches = shuffled_batches(len(features), batch_size, generator)
        for _ in steps(**trained, batches=batches, generator=generator):
            pass
    with torch.no_grad():
        totals = pairs.loss(heads(features), config.entropy_weight, config.evenness).total
    best = totals.argsort()[: config.heads].tolist()
    session.say(
        f"heads: {len(totals)} trained on the stored features for {trained_epochs} epochs, "
        f"losses {totals.min():.3f} to {totals.max():.3f}, {len(best)} go on"
        + (f", {sum(h % 2 == 0 for h in best)} from prototypes" if config.prototypes else "")
    )
    return heads.keep(best), trained_epochs
