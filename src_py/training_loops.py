"""The training of each stage: a generator of steps, which is the method, and a loop around it.

A generator takes what it trains, batches of (row numbers, uint8 images), a random generator and the
options, and yields what each step measured. The same generators serve `--minutes`, which times
them on a copy (planning.plan), benchmark.py and the tests.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.augmentation import PLAIN_VIEW
from src_py.clusters.health import ClusterCounts
from src_py.feature_space import BLOCK
from src_py.images.loaders import ImageLoader, shuffled_batches
from src_py.inference import all_logits
from src_py.losses import info_nce, nt_xent, scan_loss, self_label_loss
from src_py.models import ClusteringModel, ContrastiveModel, KeyQueue
from src_py.neighbor_pairs import NeighborPairs
from src_py.optimizers import (
    PretextRate,
    classifier_optimizer,
    descend,
    moving_average,
    pretext_optimizer,
    scale_rate,
    update_average,
)
from src_py.pseudo_labels import PseudoLabels
from src_py.run.hardware import Batches, Hardware
from src_py.run.planning import Steps, Trained, plan
from src_py.run.schedule import ClusterStep, Step
from src_py.run.session import TrainingSession
from src_py.transforms import Statistics, random_view

# --- pretext: SimCLR, or MoCo --------------------------------------------------------------------


def simclr_steps(
    model: ContrastiveModel,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    generator: torch.Generator,
    config: SimCLRConfig,
    hardware: Hardware,
) -> Iterator[Step]:
    """SimCLR (Chen et al., 2020): random views of an image find one another in the batch.

    Two of them, as large as the image, as published, or more and smaller ones.
    """
    world = hardware.world
    for rows, images in batches:
        count = config.views_of_image
        repeated = torch.cat(count * [images])
        numbers = world.numbers(generator, len(rows), copies=count)
        size = config.view_size(images.shape[-1])
        views = random_view(repeated, config.augment, numbers, model.statistics, size)
        with hardware.autocast():
            projections = model(views).chunk(count)
        loss = nt_xent([world.whole(part, len(rows)) for part in projections], config.temperature)
        descend(optimizer, loss, world=world)
        yield Step(len(rows), {"loss": loss})


def moco_steps(
    model: ContrastiveModel,
    target: ContrastiveModel,
    queue: KeyQueue,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    generator: torch.Generator,
    config: MoCoConfig,
    hardware: Hardware,
) -> Iterator[Step]:
    """MoCo (He et al., 2020): a view finds the key of the other view among those of a queue.

    Keys come from a moving average of the model, whose batch statistics are its own. Both views
    ask and answer.
    """
    world = hardware.world
    for rows, images in batches:
        pairs = torch.cat([images, images])
        numbers = world.numbers(generator, len(rows), copies=2)
        size = config.view_size(images.shape[-1])
        views = random_view(pairs, config.augment, numbers, model.statistics, size)
        with hardware.autocast():
            queries = model(views).chunk(2)
            with torch.no_grad():
                keys = target(views).chunk(2)
        first, second = (world.whole(part, len(rows)) for part in queries)
        first_keys, second_keys = (world.whole(part, len(rows)) for part in keys)
        loss = info_nce(first, second_keys, queue.keys, config.temperature)
        loss = loss + info_nce(second, first_keys, queue.keys, config.temperature)
        loss = loss / 2
        descend(optimizer, loss, world=world)
        update_average(target, model, config.target_decay, buffers=False)
        queue.push(torch.cat([first_keys, second_keys]))
        yield Step(len(rows), {"loss": loss})


def train_simclr(
    model: ContrastiveModel, images: ImageLoader, config: SimCLRConfig, session: TrainingSession
) -> None:
    trained: Trained = {"model": model, "optimizer": pretext_optimizer(model, config)}
    _train_pretext(simclr_steps, trained, images, config, session)


def train_moco(
    model: ContrastiveModel, images: ImageLoader, config: MoCoConfig, session: TrainingSession
) -> None:
    hardware = session.hardware
    target = hardware.place(copy.deepcopy(model), config.compile).train()
    queue = hardware.place(KeyQueue(min(config.queue_size, len(images)), config.projection_dim))
    trained: Trained = {"model": model, "target": target, "queue": queue}
    trained["optimizer"] = pretext_optimizer(model, config)
    _train_pretext(moco_steps, trained, images, config, session)


def _train_pretext(
    steps: Steps,
    trained: Trained,
    images: ImageLoader,
    config: SimCLRConfig,
    session: TrainingSession,
) -> None:
    """SGD or Muon with a cosine schedule, for either generator of steps."""
    trained["model"].train()
    schedule = session.stored_schedule(len(images)) or plan(steps, trained, images, config, session)
    rate = PretextRate(trained["optimizer"], config, schedule)
    for epoch in session.epochs(schedule, **trained):
        generator = session.generator(epoch)
        rows = shuffled_batches(
            len(images), schedule.batch_size, generator, schedule.images_per_epoch
        )
        batches = rate.for_each(session.in_time(images.batches(rows)), epoch, session)
        context = {"generator": generator, "config": config, "hardware": session.hardware}
        for step in steps(**trained, batches=batches, **context):
            session.record(step)


# --- SCAN ----------------------------------------------------------------------------------------


def scan_steps(
    model: ClusteringModel,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    generator: torch.Generator,
    config: ScanConfig,
    hardware: Hardware,
) -> Iterator[ClusterStep]:
    """SCAN: an image and one of its neighbors belong to one cluster, and clusters are even.

    Both are seen in strong views, as published; with `plain_neighbors` the neighbor is not.

    Args:
        batches: of rows (2, B) and (2B, C, S, S) images, the anchors and then a neighbor of each.
    """
    world = hardware.world
    for total, views in _scan_views(batches, model.statistics, generator, config, hardware):
        with hardware.autocast():
            logits = model(views).chunk(2, dim=1)  # (H, B, C) each
        anchor_logits, neighbor_logits = (world.whole(part, total, dim=1) for part in logits)
        loss = scan_loss(anchor_logits, neighbor_logits, config.entropy_weight, config.evenness)
        descend(optimizer, loss.total.sum(), world=world)
        measured = {
            "loss": loss.total,
            "consistency": loss.consistency,
            "entropy": loss.entropy,
        }
        yield ClusterStep(total, measured, anchor_logits.detach())


def _scan_views(
    batches: Batches,
    statistics: Statistics,
    generator: torch.Generator,
    config: ScanConfig,
    hardware: Hardware,
) -> Iterator[tuple[int, Tensor]]:
    """Of each batch: how many anchors the whole of it has, and views (2b, C, S, S) of this
    process's, then of a neighbor of each."""
    for group in hardware.together(batches):
        totals = [rows.shape[-1] for rows, _ in group]
        halves = [pairs.chunk(2) for _, pairs in group]
        anchors, neighbors = (torch.cat(half) for half in zip(*halves, strict=True))
        if config.plain_neighbors:
            numbers = hardware.world.numbers(generator, *totals)
            first = random_view(anchors, config.augment, numbers, statistics)
            second = random_view(neighbors, PLAIN_VIEW, numbers, statistics)
        else:
            numbers = hardware.world.numbers(generator, *totals, copies=2)
            pairs = torch.cat([anchors, neighbors])
            first, second = random_view(pairs, config.augment, numbers, statistics).chunk(2)
        sizes = [len(half) for half, _ in halves]
        for total, *views in zip(totals, first.split(sizes), second.split(sizes), strict=True):
            yield total, torch.cat(views)


def train_scan(
    model: ClusteringModel,
    images: ImageLoader,
    pairs: NeighborPairs,
    config: ScanConfig,
    session: TrainingSession,
    head_epochs: int = 0,
) -> ClusteringModel:
    """
    Args:
        head_epochs: that the heads have been trained for on stored features, for the record.

    Returns:
        the trained classifier with all its heads: the moving average of the weights where
        `ema_decay` asks for one, else `model`.
    """
    hardware = session.hardware
    model.train()
    average = moving_average(model, config.ema_decay, hardware, config.compile)
    optimizer = classifier_optimizer(model, config)
    trained: Trained = {"model": model, "optimizer": optimizer}
    # An image in the place of its neighbor costs the same.
    schedule = session.stored_schedule(len(images)) or plan(
        scan_steps, trained, images, config, session, 2, head_epochs
    )
    scale_rate(optimizer, schedule.rate_factor)
    for epoch in session.epochs(schedule, average=average, **trained):
        generator = session.generator(epoch)
        anchors = shuffled_batches(
            len(images), schedule.batch_size, generator, schedule.images_per_epoch
        )
        # All drawn first, so that the views' random numbers do not depend on the kind of loader.
        rows = [torch.stack([each, pairs.draw(each, generator)]) for each in anchors]
        batches = session.in_time(images.batches(rows))
        counts = ClusterCounts(model.heads.heads, config.clusters, hardware.device)
        losses = torch.zeros_like(counts.entropy)  # (H,)
        drawn = (batches, generator, config, hardware)
        for step in scan_steps(model, optimizer, *drawn):
            session.record(step)
            counts.add(step.logits)
            losses += step.values["loss"].detach()
            if config.ema_decay:  # the schedule's may be 0: the average is then the model
                update_average(average, model, schedule.ema_decay)
        session.report(epoch, counts.health(int(losses.argmin())))
    return average


def keep_best_head(
    model: ClusteringModel,
    images: ImageLoader,
    pairs: NeighborPairs,
    config: ScanConfig,
    session: TrainingSession,
) -> tuple[ClusteringModel, Tensor]:
    """The classifier with the one head whose SCAN loss over the whole set is lowest: no labels.

    Returns:
        the classifier, and its logits (N, C) of all images.
    """
    scratch = session.files.checkpoints
    logits = all_logits(model, images, session.hardware, config.batch_size, scratch)
    blocks = logits.split(BLOCK, dim=1)
    totals = pairs.loss(blocks, config.entropy_weight, config.evenness, scratch).total
    best = int(totals.argmin())
    session.say(f"scan: head {best} of {len(totals)} kept, its loss {totals[best]:.4f}")
    return ClusteringModel(model.backbone, model.heads.keep([best])), logits[best]


# --- self-labelling ------------------------------------------------------------------------------


def self_label_steps(
    model: ClusteringModel,
    teacher: ClusteringModel,
    pseudo_labels: PseudoLabels,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    generator: torch.Generator,
    config: SelfLabelConfig,
    hardware: Hardware,
) -> Iterator[ClusterStep]:
    """Self-labelling: what the teacher is sure of on a weak view teaches a strong view.

    Args:
        model: with one head.
        teacher: the model itself, as published, or a moving average of it.
        pseudo_labels: those that hold whatever the teacher says.
    """
    world = hardware.world
    drawn = (model.statistics, generator, config, hardware)
    for rows, weak, strong in _self_label_views(batches, *drawn):
        teacher.eval()
        with hardware.autocast(), torch.no_grad():
            weak_logits = world.whole(teacher(weak), len(rows), dim=1)  # (1, B, C)
        model.train()
        with hardware.autocast():
            strong_logits = world.whole(model(strong), len(rows), dim=1)
        loss, kept = self_label_loss(
            weak_logits[0],
            strong_logits[0],
            config.threshold,
            config.balanced,
            pseudo_labels.reliable[rows],
        )
        # With no pseudo-label there is nothing to learn from: weights and moments stay.
        skipped = (kept == 0).float()
        descend(optimizer, loss, skipped, world)
        measured = {"loss": loss, "kept": kept / len(rows), "skipped": skipped}
        yield ClusterStep(len(rows), measured, weak_logits)


def _self_label_views(
    batches: Batches,
    statistics: Statistics,
    generator: torch.Generator,
    config: SelfLabelConfig,
    hardware: Hardware,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each batch: the rows (B,) of the whole of it, and a weak and a strong view (b, C, S, S) of
    this process's images."""
    for group in hardware.together(batches):
        rows, parts = zip(*group, strict=True)
        images = torch.cat(parts)
        numbers = hardware.world.numbers(generator, *(len(each) for each in rows))
        weak = random_view(images, config.weak_augment, numbers, statistics)
        strong = random_view(images, config.strong_augment, numbers, statistics)
        sizes = [len(part) for part in parts]
        yield from zip(rows, weak.split(sizes), strong.split(sizes), strict=True)


def train_self_label(
    model: ClusteringModel,
    images: ImageLoader,
    neighbors: Tensor,
    config: SelfLabelConfig,
    session: TrainingSession,
    given: Tensor | None = None,
) -> ClusteringModel:
    """
    With `reliable_share`, images whose neighbors agree with them have a pseudo-label from the first
    step on, which a pass over all images renews every `refresh_epochs` (after SPICE, Niu et al.,
    2022).

    Args:
        model: with one head.
        neighbors: (N, k) int64 on the device.
        given: (N,) int64, the clusters that a person has given, -1 where nothing is said.

    Returns:
        the final classifier: the EMA teacher where there is one, else `model`.
    """
    hardware = session.hardware
    teacher = moving_average(model, config.ema_decay, hardware, config.compile)
    pseudo_labels = PseudoLabels(len(images), hardware.device, given)
    optimizer = classifier_optimizer(model, config)
    trained: Trained = {"model": model, "teacher": teacher}
    trained |= {"pseudo_labels": pseudo_labels, "optimizer": optimizer}
    schedule = session.stored_schedule(len(images)) or plan(
        self_label_steps, trained, images, config, session
    )
    scale_rate(optimizer, schedule.rate_factor)
    for epoch in session.epochs(schedule, **trained):
        generator = session.generator(epoch)
        if config.reliable_share and epoch % config.refresh_epochs == 0:
            shown = (images, hardware, schedule.batch_size, session.files.checkpoints)
            logits = all_logits(teacher, *shown)[0]
            pseudo_labels.renew(logits, neighbors, config.reliable_share)
        rows = shuffled_batches(
            len(images), schedule.batch_size, generator, schedule.images_per_epoch
        )
        batches = session.in_time(images.batches(rows))
        counts = ClusterCounts(1, model.heads.clusters, hardware.device)
        drawn = (batches, generator, config, hardware)
        for step in self_label_steps(model, teacher, pseudo_labels, optimizer, *drawn):
            session.record(step)
            counts.add(step.logits)
            if config.ema_decay:
                update_average(teacher, model, schedule.ema_decay)
        health = counts.health(reliable=session.mean("kept"))
        session.report(epoch, health, f"{session.total('skipped'):.0f} steps skipped")
    return teacher
