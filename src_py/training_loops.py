"""One loop for each training stage, all alike in shape."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src_py.hardware import Hardware
from src_py.loaders import ImageLoader, number_of_batches, ordered_batches, shuffled_batches
from src_py.losses import ScanLoss, nt_xent, scan_loss, self_label_loss
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.session import TrainingSession
from src_py.transforms import augment, normalize, to_float

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std of the pixels, per channel
PAPER_BATCH = 512  # the batch that SimCLR's learning rate is stated for


def train_simclr(
    model: ContrastiveModel,
    images: ImageLoader,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> None:
    """SimCLR: two views of every image, NT-Xent, SGD with a cosine schedule.

    Args:
        config: a SimCLRConfig.
    """
    optimizer = sgd(model, config)
    steps = number_of_batches(len(images), config.batch_size)
    peak = config.learning_rate * min(config.batch_size, len(images)) / PAPER_BATCH
    model.train()
    for epoch in session.epochs(config.epochs, len(images), model=model, optimizer=optimizer):
        generator = session.generator(epoch)
        batches = shuffled_batches(len(images), config.batch_size, generator)
        for step, (_, batch) in enumerate(images.batches(batches), start=epoch * steps):
            progress = step / (config.epochs * steps)
            set_learning_rate(
                optimizer, peak * warmup_cosine(progress, config.warmup_epochs / config.epochs)
            )
            loss = simclr_loss(model, batch, statistics, config, generator, session.hardware)
            descend(optimizer, loss)
            session.record(len(batch), loss=loss)


def simclr_loss(
    model: nn.Module,
    batch: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> Tensor:
    """NT-Xent of two random views of each image of a batch (B, C, S, S) uint8."""
    views = augment(torch.cat([batch, batch]), config.augment, generator, batch.shape[-1])
    with hardware.autocast():
        projections = model(normalize(views, *statistics))
    return nt_xent(*projections.chunk(2), config.temperature)


def train_heads(
    features: Tensor, neighbors: Tensor, config: Any, session: TrainingSession
) -> ClusterHeads:
    """Trains many cluster heads on stored features and keeps those of lowest SCAN loss.

    Takes seconds, where an epoch of the network takes minutes, and avoids what one unlucky
    initialisation costs.

    Args:
        features: (N, D) float32, as the backbone gives them.
        neighbors: (N, k) int64.
        config: a ScanConfig.
    """
    generator = session.generator(epoch=-1)
    heads = ClusterHeads(features.shape[1], config.clusters, config.candidate_heads)
    heads.to(features.device)
    optimizer = torch.optim.Adam(heads.parameters(), lr=config.head_learning_rate)
    batch_size = max(config.batch_size, 512)
    for _ in range(config.head_epochs):
        for anchors in shuffled_batches(len(features), batch_size, generator):
            pairs = torch.cat([anchors, draw_neighbors(neighbors, anchors, generator)])
            anchor_logits, neighbor_logits = heads(features[pairs]).chunk(2, dim=1)
            loss = scan_loss(anchor_logits, neighbor_logits, config.entropy_weight)
            descend(optimizer, loss.total.sum())
    with torch.no_grad():
        totals = full_scan_loss(heads(features), neighbors, config.entropy_weight).total
    best = totals.argsort()[: config.heads]
    session.say(
        f"heads: {len(totals)} trained on the stored features, "
        f"losses {totals.min():.3f} to {totals.max():.3f}, {len(best)} go on"
    )
    return heads.keep(best.tolist())


def train_scan(
    model: ClusteringModel,
    images: ImageLoader,
    neighbors: Tensor,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> None:
    """SCAN: an image and one of its neighbors, drawn anew each time, belong to one cluster.

    Args:
        neighbors: (N, k) int64 on the device.
        config: a ScanConfig.
    """
    optimizer = adam(model, config)
    model.train()
    for epoch in session.epochs(config.epochs, len(images), model=model, optimizer=optimizer):
        generator = session.generator(epoch)
        batches = shuffled_batches(len(images), config.batch_size, generator)
        # All drawn first, so that the views' random numbers do not depend on the kind of loader.
        pairs = [torch.cat([a, draw_neighbors(neighbors, a, generator)]) for a in batches]
        for _, batch in images.batches(pairs):
            loss = pair_loss(model, batch, statistics, config, generator, session.hardware)
            descend(optimizer, loss.total.sum())
            session.record(
                len(batch) // 2,
                loss=loss.total.mean(),
                consistency=loss.consistency.mean(),
                entropy=loss.entropy.mean(),
            )


def pair_loss(
    model: nn.Module,
    batch: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> ScanLoss:
    """The SCAN loss of every head: `batch` holds the anchors, then a neighbor of each, uint8."""
    views = augment(batch, config.augment, generator, batch.shape[-1])
    with hardware.autocast():
        logits = model(normalize(views, *statistics))  # (H, 2B, C)
    return scan_loss(*logits.chunk(2, dim=1), config.entropy_weight)


def keep_best_head(
    model: ClusteringModel,
    images: ImageLoader,
    neighbors: Tensor,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> ClusteringModel:
    """The classifier with the one head whose SCAN loss over the whole set is lowest: no labels."""
    batches = infer(model, images, statistics, session.hardware, config.batch_size)
    logits = torch.cat(list(batches), dim=1)  # (H, N, C)
    totals = full_scan_loss(logits, neighbors, config.entropy_weight).total
    best = int(totals.argmin())
    session.say(f"scan: head {best} of {len(totals)} kept, its loss {totals[best]:.4f}")
    return ClusteringModel(model.backbone, model.heads.keep([best]))


def train_self_label(
    model: ClusteringModel,
    images: ImageLoader,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> ClusteringModel:
    """Self-labelling: confident predictions on a weak view teach the strong view.

    Args:
        model: with one head.
        config: a SelfLabelConfig.

    Returns:
        the final classifier: the EMA teacher where there is one, else `model`.
    """
    teacher = model
    if config.ema_decay:
        teacher = session.hardware.place(copy.deepcopy(model), config.compile)
    optimizer = adam(model, config)
    epochs = session.epochs(
        config.epochs, len(images), model=model, teacher=teacher, optimizer=optimizer
    )
    for epoch in epochs:
        generator = session.generator(epoch)
        counts = torch.zeros(model.heads.clusters, device=session.hardware.device)
        for _, batch in images.batches(shuffled_batches(len(images), config.batch_size, generator)):
            loss, kept, clusters = pseudo_label_loss(
                model, teacher, batch, statistics, config, generator, session.hardware
            )
            # With no pseudo-label there is nothing to learn from in this step. The fused optimizer
            # then leaves weights and moments as they are, without the host having to ask.
            optimizer.found_inf = (kept == 0).float()
            if session.hardware.device.type != "mps" or kept > 0:  # MPS does not look at it
                descend(optimizer, loss)
            if config.ema_decay:
                update_average(teacher, model, config.ema_decay)
            counts.index_add_(0, clusters, torch.ones_like(clusters, dtype=counts.dtype))
            session.record(
                len(batch), loss=loss, confident=kept / len(batch), skipped_steps=kept == 0
            )
        alive = int((counts > 0).sum())
        session.say(
            f"selflabel epoch {epoch + 1}/{config.epochs}: "
            f"{session.mean('confident'):.1%} confident, "
            f"{alive} of {len(counts)} clusters alive, "
            f"{session.total('skipped_steps'):.0f} steps skipped"
        )
    return teacher


def pseudo_label_loss(
    model: nn.Module,
    teacher: nn.Module,
    batch: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> tuple[Tensor, Tensor, Tensor]:
    """The self-labelling loss of a batch (B, C, S, S) uint8.

    Returns:
        loss (scalar), kept samples (0-dim), and the cluster that the teacher gives each image (B,).
    """
    size = batch.shape[-1]
    weak = augment(batch, config.weak_augment, generator, size)
    strong = augment(batch, config.strong_augment, generator, size)
    teacher.eval()
    with hardware.autocast(), torch.no_grad():
        weak_logits = teacher(normalize(weak, *statistics))[0]
    model.train()
    with hardware.autocast():
        strong_logits = model(normalize(strong, *statistics))[0]
    loss, kept = self_label_loss(weak_logits, strong_logits, config.threshold, config.balanced)
    return loss, kept, weak_logits.argmax(dim=1)


@torch.no_grad()
def infer(
    model: nn.Module,
    images: ImageLoader,
    statistics: Statistics,
    hardware: Hardware,
    batch_size: int,
) -> Iterator[Tensor]:
    """Yields the model's float32 outputs in order, batch by batch, in `eval()` mode."""
    model.eval()
    for _, batch in images.batches(ordered_batches(len(images), batch_size)):
        with hardware.autocast():
            outputs = model(normalize(to_float(batch), *statistics))
        yield outputs.float()


def full_scan_loss(logits: Tensor, neighbors: Tensor, entropy_weight: float) -> ScanLoss:
    """The SCAN loss of every head over the whole set and all its neighbor pairs.

    Args:
        logits: (H, N, C) float32.
        neighbors: (N, k) int64.

    Returns:
        terms of shape (H,).
    """
    per_column = [scan_loss(logits, logits[:, column], entropy_weight) for column in neighbors.T]
    return ScanLoss(*(torch.stack(terms).mean(dim=0) for terms in zip(*per_column, strict=True)))


def draw_neighbors(neighbors: Tensor, anchors: Tensor, generator: torch.Generator) -> Tensor:
    """One neighbor of each anchor, uniformly: (N, k) and (B,) -> (B,)."""
    columns = torch.randint(
        neighbors.shape[1], anchors.shape, generator=generator, device=anchors.device
    )
    return neighbors[anchors, columns]


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate; `progress` and `warmup` are fractions of the training."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay x average + (1 - decay) x model; batch statistics are copied."""
    parameters = [list(module.parameters()) for module in (average, model)]
    torch._foreach_lerp_(*parameters, 1 - decay)
    for mean, current in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(current)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient of `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def sgd(model: nn.Module, config: Any) -> torch.optim.SGD:
    """SGD in one fused kernel for all weights, as SimCLR trains."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )


def adam(model: nn.Module, config: Any) -> torch.optim.Adam:
    """Adam in one fused kernel for all weights, as SCAN and the self-labelling train."""
    return torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
