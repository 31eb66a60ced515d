"""One loop for each training stage, all alike in shape."""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src_py.augmentation import PLAIN_VIEW
from src_py.budget import fit_head_epochs, fit_schedule
from src_py.calibration import fit_temperature
from src_py.hardware import Hardware
from src_py.health import ClusterCounts
from src_py.loaders import ImageLoader, number_of_batches, ordered_batches, shuffled_batches
from src_py.losses import UNRELIABLE, ScanLoss, info_nce, nt_xent, scan_loss, self_label_loss
from src_py.memory import BatchParts, descend
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel, KeyQueue
from src_py.neighbor_pairs import NeighborPairs
from src_py.prototypes import start_at_prototypes
from src_py.reliable import reliable_labels
from src_py.session import Stateful, TrainingSession
from src_py.transforms import Statistics, normalize, random_view, to_float

FEWEST_HEAD_STEPS = 600  # a small set has few steps in an epoch; with 300 heads are not yet apart
PAPER_BATCH = 512  # the batch that SimCLR's learning rate is stated for
FINE_TUNE_FACTOR = 0.1  # of the learning rate, where the weights are good already


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

    def loss_of(trial: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        return simclr_loss(trial, batch, statistics, config, generator, session.hardware)

    fit_schedule(model, images, config, session, loss_of)
    _train_pretext(model, images, config, session, partial(loss_of, model))


def simclr_loss(
    model: nn.Module,
    batch: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> Tensor:
    """NT-Xent of two random views of each image of a batch (B, C, S, S) uint8."""
    views = random_view(torch.cat([batch, batch]), config.augment, generator, statistics)
    with hardware.autocast():
        projections = model(views)
    return nt_xent(*projections.chunk(2), config.temperature)


def train_moco(
    model: ContrastiveModel,
    images: ImageLoader,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> None:
    """MoCo (He et al., 2020; both views ask and answer): keys from a moving average of the model.

    Args:
        config: a MoCoConfig.
    """
    hardware = session.hardware

    def loss_of(trial: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        return moco_loss(trial, target, queue, batch, statistics, config, generator, hardware)[0]

    # The keys' batch statistics are their own: this copy stays in train() mode.
    target = hardware.place(copy.deepcopy(model), config.compile).train()
    queue = hardware.place(KeyQueue(min(config.queue_size, len(images)), config.projection_dim))
    fit_schedule(model, images, config, session, loss_of)

    def train_loss(part: Tensor, generator: torch.Generator) -> Tensor:
        loss, keys = moco_loss(model, target, queue, part, statistics, config, generator, hardware)
        queue.push(keys)
        return loss

    def follow() -> None:
        update_average(target, model, config.target_decay, buffers=False)

    _train_pretext(model, images, config, session, train_loss, follow, target=target, queue=queue)


def moco_loss(
    model: nn.Module,
    target: nn.Module,
    queue: KeyQueue,
    batch: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> tuple[Tensor, Tensor]:
    """The mean of both directions' losses, and the keys (2B, D), for (B, C, S, S) uint8."""
    views = random_view(torch.cat([batch, batch]), config.augment, generator, statistics)
    with hardware.autocast():
        first, second = model(views).chunk(2)
        with torch.no_grad():
            keys = target(views)
    first_keys, second_keys = keys.chunk(2)
    loss = info_nce(first, second_keys, queue.keys, config.temperature)
    loss = loss + info_nce(second, first_keys, queue.keys, config.temperature)
    return loss / 2, keys


def _train_pretext(
    model: nn.Module,
    images: ImageLoader,
    config: Any,
    session: TrainingSession,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    after_step: Callable[[], None] = lambda: None,
    **state: Stateful,
) -> None:
    """The loop of both pretexts.

    Args:
        loss_of: loss of a batch, or of a part of one, for the model.
        state: what must be restored on resume besides the model and the optimizer.
    """

    def train_loss(generator: torch.Generator, part: Tensor) -> Tensor:
        loss = loss_of(part, generator)
        session.record(len(part), loss=loss)
        return loss

    optimizer, parts = sgd(model, config), BatchParts(session)
    count = images_per_epoch(len(images), config)
    schedule = PretextSchedule(config, count)
    model.train()
    epochs = session.epochs(
        config.epochs, count, model=model, optimizer=optimizer, parts=parts, **state
    )
    for epoch in epochs:
        generator = session.generator(epoch)
        batches = shuffled_batches(len(images), config.batch_size, generator, count)
        for step, (_, batch) in enumerate(session.in_time(images.batches(batches))):
            schedule.set(optimizer, epoch, step, session.time_used)
            parts.descend(optimizer, partial(train_loss, generator), batch)
            after_step()


class PretextSchedule:
    """Linear warm-up to a peak in proportion to the batch, then half a cosine to zero."""

    def __init__(self, config: Any, images: int) -> None:
        """images: of one epoch."""
        self.peak = config.learning_rate * min(config.batch_size, images) / PAPER_BATCH
        if config.fine_tune:
            self.peak *= FINE_TUNE_FACTOR
        self.steps = number_of_batches(images, config.batch_size)  # of one epoch
        self.epochs = config.epochs
        self.warmup = config.warmup_epochs / config.epochs

    def set(
        self, optimizer: torch.optim.Optimizer, epoch: int, step: int, time_used: float
    ) -> None:
        """
        Args:
            time_used: of what the stage may take, a fraction. Where the machine has become slower
                than the epochs were planned for, the clock is ahead of them and decides, so that
                the rate is down when the time is up.
        """
        progress = max((epoch + step / self.steps) / self.epochs, time_used)
        for group in optimizer.param_groups:
            group["lr"] = self.peak * warmup_cosine(progress, self.warmup)


def train_heads(
    features: Tensor, pairs: NeighborPairs, config: Any, session: TrainingSession
) -> ClusterHeads:
    """Trains many cluster heads on stored features and keeps those of lowest SCAN loss.

    Takes seconds, where an epoch of the network takes minutes, and avoids what one unlucky
    initialisation costs.

    Args:
        features: (N, D) float32, as the backbone gives them.
        config: a ScanConfig.
    """
    generator = session.generator(epoch=-1)
    heads = ClusterHeads(features.shape[1], config.clusters, config.candidate_heads)
    heads.to(features.device)
    if config.prototypes:
        start_at_prototypes(heads, features, range(0, config.candidate_heads, 2), config.seed)
    anchors = torch.arange(len(features), device=features.device)
    drawn_loss = partial(
        pairs.drawn_loss,
        features=features,
        entropy_weight=config.entropy_weight,
        evenness=config.evenness,
    )
    batch_size = max(config.batch_size, 512)
    steps = number_of_batches(len(anchors), batch_size)
    trial, random = copy.deepcopy(heads), session.generator(epoch=-2)

    def try_step() -> None:
        loss = drawn_loss(trial, anchors=anchors[:batch_size], generator=random)
        loss.total.sum().backward()

    config.head_epochs = max(config.head_epochs, math.ceil(FEWEST_HEAD_STEPS / steps))
    fit_head_epochs(config, session, try_step, steps)
    session.settle_options()
    fit_heads(
        heads,
        anchors,
        lambda anchors: drawn_loss(heads, anchors=anchors, generator=generator),
        generator,
        config.head_epochs,
        batch_size,
        config.head_learning_rate,
        lambda: session.time_used >= 1,
    )
    with torch.no_grad():
        logits = heads(features)
        totals = pairs.loss(logits, config.entropy_weight, config.evenness).total
    best = totals.argsort()[: config.heads].tolist()
    session.say(
        f"heads: {len(totals)} trained on the stored features for {config.head_epochs} epochs, "
        f"losses {totals.min():.3f} to {totals.max():.3f}, {len(best)} go on"
        + (f", {sum(h % 2 == 0 for h in best)} from prototypes" if config.prototypes else "")
    )
    return heads.keep(best)


def fit_heads(
    heads: ClusterHeads,
    anchors: Tensor,
    loss_of: Callable[[Tensor], ScanLoss],
    generator: torch.Generator,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    is_late: Callable[[], bool] = lambda: False,
) -> None:
    """Trains heads alone, with Adam.

    Args:
        anchors: (M,) int64, the rows that are trained on.
        loss_of: the loss of each head for a batch of anchors (B,).
        is_late: whether to end, asked before each.
    """
    optimizer = torch.optim.Adam(heads.parameters(), lr=learning_rate)
    for _ in range(epochs):
        if is_late():
            return
        for batch in shuffled_batches(len(anchors), batch_size, generator):
            descend(optimizer, loss_of(anchors[batch]).total.sum())


def train_scan(
    model: ClusteringModel,
    images: ImageLoader,
    pairs: NeighborPairs,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> ClusteringModel:
    """SCAN: an image and one of its neighbors, drawn anew each time, belong to one cluster.

    Args:
        config: a ScanConfig.

    Returns:
        the trained classifier with all its heads: the moving average of the weights where
        `ema_decay` asks for one, else `model`.
    """

    def loss_of(trial: nn.Module, pairs: Tensor, generator: torch.Generator) -> Tensor:
        loss, _ = pair_loss(trial, pairs, statistics, config, generator, session.hardware)
        return loss.total.sum()

    def pair_train_loss(
        generator: torch.Generator,
        counts: ClusterCounts,
        totals: Tensor,
        anchors: Tensor,
        neighbors: Tensor,
    ) -> Tensor:
        pair = torch.cat([anchors, neighbors])
        loss, logits = pair_loss(model, pair, statistics, config, generator, session.hardware)
        counts.add(logits.detach())
        totals += loss.total.detach()
        session.record(
            len(anchors),
            loss=loss.total.mean(),
            consistency=loss.consistency.mean(),
            entropy=loss.entropy.mean(),
        )
        return loss.total.sum()

    # An image in the place of its neighbor costs the same.
    fit_schedule(model, images, config, session, loss_of, rows_per_image=2)
    average = moving_average(model, config, session.hardware)
    optimizer, parts = adam(model, config), BatchParts(session)
    count = images_per_epoch(len(images), config)
    model.train()
    epochs = session.epochs(
        config.epochs,
        count,
        model=model,
        average=average,
        optimizer=optimizer,
        parts=parts,
    )
    for epoch in epochs:
        generator = session.generator(epoch)
        counts = ClusterCounts(model.heads.heads, config.clusters, session.hardware.device)
        totals = torch.zeros_like(counts.entropy)
        anchors = shuffled_batches(len(images), config.batch_size, generator, count)
        # All drawn first, so that the views' random numbers do not depend on the kind of loader.
        rows = [torch.cat([a, pairs.draw(a, generator)]) for a in anchors]
        for _, batch in session.in_time(images.batches(rows)):
            train_loss = partial(pair_train_loss, generator, counts, totals)
            parts.descend(optimizer, train_loss, *batch.chunk(2))
            if config.ema_decay:
                update_average(average, model, config.ema_decay)
        session.report(epoch, counts.health(int(totals.argmin())))
    return average


def pair_loss(
    model: nn.Module,
    batch: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> tuple[ScanLoss, Tensor]:
    """The SCAN loss of every head, and the anchors' logits (H, B, C).

    Both sides are seen in strong views, as published; with `plain_neighbors` the neighbor is not.

    Args:
        batch: (2B, C, S, S) uint8, the anchors and then a neighbor of each.
    """
    if config.plain_neighbors:
        anchors, neighbors = batch.chunk(2)
        strong = random_view(anchors, config.augment, generator, statistics)
        plain = random_view(neighbors, PLAIN_VIEW, generator, statistics)
        views = torch.cat([strong, plain])
    else:
        views = random_view(batch, config.augment, generator, statistics)
    with hardware.autocast():
        logits = model(views)  # (H, 2B, C)
    anchor_logits, neighbor_logits = logits.chunk(2, dim=1)
    loss = scan_loss(anchor_logits, neighbor_logits, config.entropy_weight, config.evenness)
    return loss, anchor_logits


def keep_best_head(
    model: ClusteringModel,
    images: ImageLoader,
    pairs: NeighborPairs,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> tuple[ClusteringModel, Tensor]:
    """The classifier with the one head whose SCAN loss over the whole set is lowest: no labels.

    Returns:
        the classifier, and its logits (N, C) of all images.
    """
    logits = all_logits(model, images, statistics, config, session.hardware)
    totals = pairs.loss(logits, config.entropy_weight, config.evenness).total
    best = int(totals.argmin())
    session.say(f"scan: head {best} of {len(totals)} kept, its loss {totals[best]:.4f}")
    return ClusteringModel(model.backbone, model.heads.keep([best])), logits[best]


def calibrate(logits: Tensor, neighbors: Tensor, session: TrainingSession) -> float:
    """The temperature for logits (N, C) of all images, found without labels (fit_temperature)."""
    temperature = fit_temperature(logits.cpu(), neighbors.cpu())  # MPS has no float64
    session.say(f"{session.stage}: confidence calibrated with a temperature of {temperature:.2f}")
    return temperature


def train_self_label(
    model: ClusteringModel,
    images: ImageLoader,
    neighbors: Tensor,
    statistics: Statistics,
    config: Any,
    session: TrainingSession,
) -> ClusteringModel:
    """Self-labelling: predictions that can be relied upon teach a strong view of their image.

    An image's label is what its confident prediction on a weak view says. With `reliable_share`,
    images whose neighbors agree with them have a label from the first step on, which a pass over
    all images renews every `refresh_epochs` (after SPICE, Niu et al., 2022).

    Args:
        model: with one head.
        neighbors: (N, k) int64 on the device.
        config: a SelfLabelConfig.

    Returns:
        the final classifier: the EMA teacher where there is one, else `model`.
    """
    hardware = session.hardware

    def loss_of(trial: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        none = labels.reliable[: len(batch)]
        return pseudo_label_loss(
            trial, trial, batch, none, statistics, config, generator, hardware
        )[0]

    labels = Labels(len(images), hardware.device)
    fit_schedule(model, images, config, session, loss_of)
    teacher = moving_average(model, config, hardware)
    optimizer, parts = adam(model, config), BatchParts(session, accumulate=True)
    count = images_per_epoch(len(images), config)

    def pseudo_label_train_loss(
        generator: torch.Generator, counts: ClusterCounts, part: Tensor, known: Tensor
    ) -> Tensor:
        loss, kept, logits = pseudo_label_loss(
            model, teacher, part, known, statistics, config, generator, hardware
        )
        optimizer.found_inf *= kept == 0
        counts.add(logits)
        session.record(len(part), loss=loss, kept=kept / len(part))
        return loss

    epochs = session.epochs(
        config.epochs,
        count,
        model=model,
        teacher=teacher,
        optimizer=optimizer,
        parts=parts,
        labels=labels,
    )
    for epoch in epochs:
        generator = session.generator(epoch)
        counts = ClusterCounts(1, model.heads.clusters, hardware.device)
        skipped = torch.zeros((), device=hardware.device)
        if config.reliable_share and epoch % config.refresh_epochs == 0:
            logits = all_logits(teacher, images, statistics, config, hardware)[0]
            share = config.reliable_share
            labels.reliable = reliable_labels(logits.softmax(dim=1), neighbors, share)
        order = shuffled_batches(len(images), config.batch_size, generator, count)
        for rows, batch in session.in_time(images.batches(order)):
            # With no pseudo-label there is nothing to learn from in a step. The fused optimizer
            # then leaves weights and moments as they are: every part that has one clears this.
            optimizer.found_inf = torch.ones((), device=hardware.device)
            train_loss = partial(pseudo_label_train_loss, generator, counts)
            parts.descend(optimizer, train_loss, batch, labels.reliable[rows])
            skipped += optimizer.found_inf
            if config.ema_decay:
                update_average(teacher, model, config.ema_decay)
        health = counts.health(reliable=session.mean("kept"))
        session.report(epoch, health, f"{int(skipped)} steps skipped")
    return teacher


class Labels:
    """The reliable labels that hold until they are renewed, as a part of what is resumed."""

    def __init__(self, images: int, device: torch.device) -> None:
        self.reliable = torch.full((images,), UNRELIABLE, device=device)  # (N,) int64

    def state_dict(self) -> dict[str, Tensor]:
        return {"reliable": self.reliable}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.reliable = state["reliable"].to(self.reliable.device)


def pseudo_label_loss(
    model: nn.Module,
    teacher: nn.Module,
    batch: Tensor,
    reliable: Tensor,
    statistics: Statistics,
    config: Any,
    generator: torch.Generator,
    hardware: Hardware,
) -> tuple[Tensor, Tensor, Tensor]:
    """The self-labelling loss of a batch (B, C, S, S) uint8.

    Args:
        reliable: (B,) int64, a reliable label or UNRELIABLE.

    Returns:
        loss (scalar), images with a label (0-dim), and the teacher's logits (1, B, C).
    """
    weak = random_view(batch, config.weak_augment, generator, statistics)
    strong = random_view(batch, config.strong_augment, generator, statistics)
    teacher.eval()
    with hardware.autocast(), torch.no_grad():
        weak_logits = teacher(weak)
    model.train()
    with hardware.autocast():
        strong_logits = model(strong)[0]
    loss, kept = self_label_loss(
        weak_logits[0], strong_logits, config.threshold, config.balanced, reliable
    )
    return loss, kept, weak_logits


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


def all_logits(
    model: ClusteringModel,
    images: ImageLoader,
    statistics: Statistics,
    config: Any,
    hardware: Hardware,
) -> Tensor:
    """(H, N, C) float32 of every head for all images, in order."""
    return torch.cat(list(infer(model, images, statistics, hardware, config.batch_size)), dim=1)


def images_per_epoch(size: int, config: Any) -> int:
    return min(config.images_per_epoch or size, size)


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate; `progress` and `warmup` are fractions of the training."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def moving_average(model: nn.Module, config: Any, hardware: Hardware) -> nn.Module:
    """A copy of the model for `update_average`; the model itself where there is no EMA."""
    if not config.ema_decay:
        return model
    return hardware.place(copy.deepcopy(model), config.compile)


@torch.no_grad()
def update_average(
    average: nn.Module, model: nn.Module, decay: float, buffers: bool = True
) -> None:
    """average <- decay x average + (1 - decay) x model.

    Args:
        buffers: whether the batch statistics are copied.
    """
    parameters = [list(module.parameters()) for module in (average, model)]
    torch._foreach_lerp_(*parameters, 1 - decay)
    if buffers:
        for mean, current in zip(average.buffers(), model.buffers(), strict=True):
            mean.copy_(current)


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
