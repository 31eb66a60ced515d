"""Schedules that fit a given number of minutes on the device at hand."""

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src_py.guard import evidence_looks
from src_py.hardware import wait_for
from src_py.loaders import ImageLoader, shuffled_batches
from src_py.memory import free_cached_memory, is_out_of_memory
from src_py.run_files import read_json
from src_py.session import TrainingSession

# How the stages that can be made shorter share the minutes. What one of them leaves over, or takes
# too much, is shared by the later ones.
SHARES = (
    (("simclr", "moco"), 0.6),
    (("scan",), 0.2),
    (("selflabel",), 0.2),
)
MINING = "extract_features"
START_UP = 3.0  # s that a script takes before it does anything, at least; measured in the first
EXIT = 1.0  # s that Python takes to start and to end
HEADS_SHARE = 0.3  # of what is left to scan.py, at most, for heads alone on stored features
# Looks at all images without training that are still to come when a stage begins: for the mining,
# to choose a head, for the reliable labels and, at the end of the last stage, for the temperature.
LOOKS = {"simclr": 4, "moco": 4, "scan": 3, "selflabel": 2}
EVIDENCES = {"simclr": 2, "moco": 2, "scan": 2, "selflabel": 1}  # that are still to be gathered
LOOK = 0.2  # of the time of an epoch of training: two views, forward and backward
FROZEN_LOOK = 0.5  # of an epoch that has no way backward
MEASURED_SECONDS = 4.0  # at most
MEASURED_SHARE = 0.01  # of the minutes
AVERAGE_SHARE = 0.1  # of the steps that a moving average may look back on, at most
FEWEST_STEPS = 2000  # with fewer, smaller batches learn more from the same images
SMALLEST_BATCH = 64
WARMUP_SHARE = 0.1  # of the epochs, at most

LossOf = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


def fit_schedule(
    model: nn.Module,
    images: ImageLoader,
    config: Any,
    session: TrainingSession,
    loss_of: LossOf,
    rows_per_image: int = 1,
) -> None:
    """Sets epochs and images per epoch so that the stage ends in its share of `config.minutes`.

    The speed is measured on a copy of the model that is thrown away. The machine may become slower
    afterwards, so the session is also told when training must end. Does nothing without `minutes`,
    and nothing to a stage that goes on after an interruption.

    Args:
        config: a TrainingConfig; changed in place.
        loss_of: loss of a model for a batch of `config.batch_size` images.
        rows_per_image: as which an image of a batch comes, one after the whole batch: 2 where
            training reads pairs.
    """
    if config.minutes is None or session.is_resumable:
        return
    seconds = None
    while seconds is None:
        seconds = _measured(model, images, config, session, loss_of, rows_per_image)
    epoch_seconds = seconds * len(images)
    look = LOOK if all(p.requires_grad for p in model.parameters()) else FROZEN_LOOK
    looks = LOOKS[session.stage] + EVIDENCES[session.stage] * evidence_looks(len(images))
    left = seconds_left(config, session, looks * look * epoch_seconds)
    session.end_training_in(left)
    passes = left / epoch_seconds
    if getattr(config, "reliable_share", 0):  # which is a look every so many epochs
        passes /= 1 + look / config.refresh_epochs
    if session.stage in ("scan", "selflabel"):  # more than the preset's epochs only repeat
        passes = min(passes, config.epochs)
    least = min(1.0, config.batch_size / len(images))
    if passes < least:
        session.say(
            f"{session.stage}: warning: of --minutes {config.minutes:g} {max(left, 0):.0f} s are "
            f"left for training, too few for so many images: no more than a single step is trained"
        )
    passes = max(passes, least)
    config.epochs = max(1, math.ceil(passes))
    config.images_per_epoch = math.ceil(len(images) * min(1.0, passes / config.epochs))
    if session.stage != "selflabel":  # few of a small batch have a label, and clusters then empty
        while _steps(config) < FEWEST_STEPS and config.batch_size >= 2 * SMALLEST_BATCH:
            config.batch_size //= 2
    if hasattr(config, "warmup_epochs"):
        config.warmup_epochs = min(config.warmup_epochs, int(WARMUP_SHARE * config.epochs))
    if getattr(config, "ema_decay", 0):
        horizon = max(1.0, AVERAGE_SHARE * _steps(config))
        config.ema_decay = min(config.ema_decay, 1 - 1 / horizon)
    session.say(
        f"{session.stage}: {1 / seconds:,.0f} images/s measured; {config.epochs} epochs of "
        f"{config.images_per_epoch:,} images, {config.batch_size} a step, fit into "
        f"{max(left, 0):.0f} s of --minutes {config.minutes:g}"
    )
    session.settle_options()


def fit_head_epochs(
    config: Any, session: TrainingSession, step: Callable[[], object], steps: int
) -> None:
    """Lowers `config.head_epochs` so that heads leave time for the network; needs `minutes`.

    Args:
        config: a ScanConfig; changed in place.
        step: does a step that changes nothing that is kept.
        steps: of one epoch.
    """
    if config.minutes is None:
        return
    step()  # also sets up caches and kernels
    started, taken = time.monotonic(), 0
    while time.monotonic() - started < _longest_trial(config):
        step()
        wait_for(session.hardware.device)
        taken += 1
    epoch_seconds = steps * (time.monotonic() - started) / taken
    left = HEADS_SHARE * seconds_left(config, session)
    session.end_training_in(left)
    affordable = left / epoch_seconds
    config.head_epochs = min(config.head_epochs, max(1, int(affordable)))


def seconds_left(config: Any, session: TrainingSession, reserved: float = 0.0) -> float:
    """Of `config.minutes`, for the training of this stage; below 0 when it is late.

    Args:
        reserved: s, for what cannot be made shorter, in this stage and the later ones.
    """
    place = next(i for i, (scripts, _) in enumerate(SHARES) if session.stage in scripts)
    earlier = [script for scripts, _ in SHARES[:place] for script in scripts]
    if place:
        earlier.append(MINING)
    stored = [read_json(session.files.config(script)) or {} for script in earlier]
    spent = sum(stage.get("seconds", 0.0) + EXIT for stage in stored if stage) + session.seconds
    to_come = len(SHARES) - place - 1 + (place == 0)  # scripts, the mining among them
    reserved += EXIT + to_come * (EXIT + max(START_UP, session.start_up))
    left = 60 * config.minutes - spent - reserved
    shares = [share for _, share in SHARES[place:]]
    return left * shares[0] / sum(shares)


def _longest_trial(config: Any) -> float:
    return min(MEASURED_SECONDS, MEASURED_SHARE * 60 * config.minutes)


def _measured(
    model: nn.Module,
    images: ImageLoader,
    config: Any,
    session: TrainingSession,
    loss_of: LossOf,
    rows_per_image: int,
) -> float | None:
    """Seconds per image; None, and a smaller `config.batch_size`, where the memory is too small."""
    try:
        return _seconds_per_image(model, images, config, session, loss_of, rows_per_image)
    except RuntimeError as error:
        if not is_out_of_memory(error) or config.batch_size < SMALLEST_BATCH:
            raise
    free_cached_memory()
    config.batch_size //= 2
    return None


def _steps(config: Any) -> int:
    return config.epochs * math.ceil(config.images_per_epoch / config.batch_size)


def _seconds_per_image(
    model: nn.Module,
    images: ImageLoader,
    config: Any,
    session: TrainingSession,
    loss_of: LossOf,
    rows_per_image: int,
) -> float:
    trial = session.hardware.place(copy.deepcopy(model), config.compile).train()
    generator = session.generator(epoch=-2)
    drawn = shuffled_batches(len(images), config.batch_size, generator)
    batches = (rows.repeat(rows_per_image) for rows in drawn)
    device = session.hardware.device
    started, seen = time.monotonic(), 0
    for step, (_, batch) in enumerate(images.batches(batches)):
        loss_of(trial, batch, generator).backward()
        wait_for(device)
        if step == 0:  # the first step also sets up caches and kernels
            started = time.monotonic()
            continue
        seen += len(batch) // rows_per_image
        if time.monotonic() - started > _longest_trial(config):
            break
    if not seen:  # a single batch holds all images
        loss_of(trial, batch, generator).backward()
        wait_for(device)
        seen = len(batch) // rows_per_image
    return (time.monotonic() - started) / seen
