"""Cluster heads alone, trained on stored features: seconds, where an epoch of the network takes
minutes. They are all there is to train where the weights are frozen."""

import math
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from src_py.clusters.health import ClusterCounts
from src_py.clusters.kmeans import kmeans_centers, sample_of
from src_py.feature_space import BLOCK, fitted_space
from src_py.images.loaders import number_of_batches, shuffled_batches
from src_py.losses import ScanLoss, self_label_loss
from src_py.models import ClusterHeads
from src_py.neighbor_pairs import NeighborPairs
from src_py.optimizers import descend, moving_average, update_average
from src_py.pseudo_labels import PseudoLabels
from src_py.run.planning import Trained, asked_for, fit_head_epochs, in_minutes
from src_py.run.schedule import ClusterStep
from src_py.run.session import TrainingSession
from src_py.run.training_stage import TrainingStage
from src_py.stored_features import StoredFeatures

FEWEST_HEAD_STEPS = 600  # a small set has few steps in an epoch; with 300 heads are not yet apart
SMALLEST_HEAD_BATCH = 512  # heads are small: a smaller batch takes no less time

SHARPNESS = 5.0  # logits per squared distance; features have a mean squared length of 1


@torch.no_grad()
def start_at_prototypes(heads: ClusterHeads, features: Tensor, seed: int) -> None:
    """Sets each of the heads to the prototypes of its own start of k-means.

    With z the features, shifted and scaled to mean 0 and mean squared length 1, and m_c the
    prototypes in that space, logit_c = -SHARPNESS |z - m_c|^2 up to what all clusters share.

    Args:
        heads: that see the features as they are.
        features: (N, D) float32.
    """
    shift = features.mean(dim=0)
    squares = [(block - shift).square().sum(dim=1) for block in features.split(BLOCK)]
    scale = torch.cat(squares).mean().sqrt().clamp(min=1e-6)
    sample = sample_of(len(features), heads.clusters, seed).to(features.device)
    points = ((features[sample] - shift) / scale).cpu().numpy()
    weight = heads.linear.weight.unflatten(0, (heads.heads, heads.clusters))
    bias = heads.linear.bias.unflatten(0, (heads.heads, heads.clusters))
    for head in range(heads.heads):
        found = kmeans_centers(points, heads.clusters, seed + head, iterations=25)
        prototypes = torch.from_numpy(found).to(features)  # (C, D)
        weight[head] = 2 * SHARPNESS * prototypes / scale
        bias[head] = -SHARPNESS * prototypes.square().sum(dim=1) - weight[head] @ shift


def random_heads(stored: StoredFeatures, config: ScanConfig) -> ClusterHeads:
    """`config.heads` heads for features as the backbone gives them, as they are initialised."""
    space = fitted_space(stored.plain, config.components)
    return ClusterHeads(space.dim, config.clusters, config.heads).behind(space)


def head_steps(
    heads: ClusterHeads,
    optimizer: torch.optim.Optimizer,
    stored: StoredFeatures,
    pairs: NeighborPairs,
    batches: Iterable[Tensor],
    generator: torch.Generator,
    entropy_weight: float,
    evenness: float = 1.0,
) -> Iterator[ScanLoss]:
    """SCAN for all heads at once, on the stored features of images and of drawn neighbors.

    Args:
        batches: of anchors, (B,) int64 rows.
    """
    for anchors in batches:
        loss = pairs.drawn_loss(heads, stored, anchors, generator, entropy_weight, evenness)
        descend(optimizer, loss.total.sum())
        yield loss


def train_heads(
    stored: StoredFeatures, pairs: NeighborPairs, config: ScanConfig, session: TrainingStage
) -> tuple[ClusterHeads, int]:
    """Trains many cluster heads and keeps those of lowest SCAN loss, the lowest first.

    Avoids what one unlucky initialisation costs.

    Args:
        stored: features as the backbone gives them.

    Returns:
        `config.heads` heads for such features, and the epochs that they were trained for.
    """
    generator = session.generator(epoch=-1)
    space = fitted_space(stored.plain, config.components)
    seen = stored.seen_in(space)
    heads = ClusterHeads(space.dim, config.clusters, config.candidate_heads)
    heads.to(seen.plain.device)
    if config.prototypes:
        start_at_prototypes(heads, seen.plain, config.seed)
    batch_size = max(config.batch_size, SMALLEST_HEAD_BATCH)
    optimizer = torch.optim.Adam(heads.parameters(), lr=config.head_learning_rate)
    trained: Trained = {"heads": heads, "optimizer": optimizer}
    steps = partial(
        head_steps,
        stored=seen,
        pairs=pairs,
        entropy_weight=config.entropy_weight,
        evenness=config.evenness,
    )
    fewest = math.ceil(FEWEST_HEAD_STEPS / number_of_batches(len(seen), batch_size))
    asked = max(config.head_epochs, fewest)
    trial = list(torch.arange(len(seen), device=seen.plain.device).split(batch_size))
    epochs, seconds = fit_head_epochs(asked, steps, trained, trial, config, session)
    if seconds is not None:
        session.end_training_in(seconds)
    trained_epochs = 0
    while trained_epochs < epochs and session.time_used < 1:
        trained_epochs += 1
        batches = shuffled_batches(len(seen), batch_size, generator)
        for _ in steps(**trained, batches=batches, generator=generator):
            pass
    totals = pairs.losses(heads, seen, config)
    best = totals.argsort()[: config.heads].tolist()
    session.say(
        f"heads: {len(totals)} trained on the stored features for {trained_epochs} epochs, "
        f"losses {totals.min():.3f} to {totals.max():.3f}, {len(best)} of the lowest kept"
    )
    return heads.keep(best).behind(space), trained_epochs


@torch.no_grad()
def keep_best_head(
    heads: ClusterHeads,
    stored: StoredFeatures,
    pairs: NeighborPairs,
    config: ScanConfig,
    session: TrainingStage,
) -> ClusterHeads:
    """The one head whose SCAN loss over the whole set is lowest: no labels.

    It looks at a few heads at a time where the logits of all would fill the memory.

    Args:
        heads: for features as the backbone gives them.
    """
    if heads.heads == 1:
        return heads
    totals = pairs.losses(heads, stored, config)
    best = int(totals.argmin())
    session.say(f"scan: head {best} of {len(totals)} kept, its loss {totals[best]:.4f}")
    return heads.keep([best])


def self_label_head_steps(
    heads: ClusterHeads,
    teacher: ClusterHeads,
    pseudo_labels: PseudoLabels,
    optimizer: torch.optim.Optimizer,
    stored: StoredFeatures,
    batches: Iterable[Tensor],
    generator: torch.Generator,
    config: SelfLabelConfig,
) -> Iterator[ClusterStep]:
    """Self-labelling on stored features: what the teacher is sure of on the plain image teaches a
    random view.

    Args:
        heads: with one head.
        batches: of (B,) int64 rows.
    """
    for rows in batches:
        view = stored.draw(rows, generator)
        with torch.no_grad():
            weak_logits = teacher(stored.plain[rows])  # (1, B, C)
        loss, kept = self_label_loss(
            weak_logits[0],
            heads(view)[0],
            config.threshold,
            config.balanced,
            pseudo_labels.reliable[rows],
        )
        skipped = (kept == 0).float()
        descend(optimizer, loss, skipped)
        measured = {"loss": loss, "kept": kept / len(rows), "skipped": skipped}
        yield ClusterStep(len(rows), measured, weak_logits)


def self_label_heads(
    heads: ClusterHeads,
    stored: StoredFeatures,
    neighbors: Tensor,
    config: SelfLabelConfig,
    session: TrainingSession,
    given: Tensor | None = None,
) -> ClusterHeads:
    """Self-labelling where the weights are frozen: training_loops.train_self_label without a
    network.

    Args:
        heads: with one head, for features as the backbone gives them.
        neighbors: (N, k) int64 on the device.
        given: (N,) int64, the clusters that a person has given, -1 where nothing is said.

    Returns:
        the final head: the EMA teacher where there is one, else `heads`.
    """
    device = session.hardware.device
    teacher = moving_average(heads, config.ema_decay, session.hardware, compiled=False)
    pseudo_labels = PseudoLabels(len(stored), device, given)
    optimizer = torch.optim.Adam(heads.parameters(), lr=config.head_learning_rate, fused=True)
    trained: Trained = {"heads": heads, "teacher": teacher}
    trained |= {"pseudo_labels": pseudo_labels, "optimizer": optimizer}
    schedule = session.stored_schedule(len(stored)) or in_minutes(
        asked_for(config, len(stored)), config, session
    )
    for epoch in session.epochs(schedule, **trained):
        generator = session.generator(epoch)
        if config.reliable_share and epoch % config.refresh_epochs == 0:
            logits = stored.all_logits(teacher)[0]
            pseudo_labels.renew(logits, neighbors, config.reliable_share)
        rows = shuffled_batches(
            len(stored), schedule.batch_size, generator, schedule.images_per_epoch
        )
        counts = ClusterCounts(1, heads.clusters, device)
        drawn = (stored, session.in_time(rows), generator, config)
        for step in self_label_head_steps(heads, teacher, pseudo_labels, optimizer, *drawn):
            session.record(step)
            counts.add(step.logits)
            if config.ema_decay:
                update_average(teacher, heads, schedule.ema_decay)
        health = counts.health(reliable=session.mean("kept"))
        session.report(epoch, health, f"{session.total('skipped'):.0f} steps skipped")
    return teacher
