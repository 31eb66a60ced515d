"""How long a stage trains, and with which batches, decided before its first epoch.

It is what the options ask for, unless the memory is too small for a batch, or minutes are given:
the speed is then measured on a copy of what is trained, by the very steps that train it.
"""

import copy
import math
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from configs.base_config import TrainingConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.images.loaders import ImageLoader, shuffled_batches
from src_py.run.distributed import ALONE, World, apart
from src_py.run.errors import UserError, is_out_of_memory
from src_py.run.hardware import wait_for
from src_py.run.schedule import Schedule, Step
from src_py.run.stages import PRETEXTS, STAGES, chain, evidence_looks
from src_py.run.training_stage import TrainingStage

START_UP = 3.0  # s that a script takes before it does anything, at least; measured in the first
EXIT = 1.0  # s that Python takes to start and to end
HEADS_SHARE = 0.3  # of what is left to scan.py, at most, for heads alone on stored features
LOOK = 0.2  # of the time of an epoch of training: two whole views, forward and backward
WAITING_SHARE = 0.3  # of a training's time: from here on decoding decides how long a look takes
FROZEN_LOOK = 0.5  # of an epoch that has no way backward
TRIAL_STEPS = 2  # the first allocates the optimizer's state, the second works with it
TRIAL_SECONDS = 4.0  # at most, where the speed is measured
TRIAL_SHARE = 0.01  # of the minutes
AVERAGE_SHARE = 0.1  # of the steps that a moving average may look back on, at most
FEWEST_STEPS = 2000  # with fewer, smaller batches learn more from the same images
SMALLEST_BATCH = 64  # that more steps are made of
SMALLEST_THAT_TRAINS = 2  # images: batch statistics need more than one
LIBRARIES_MAP = 2**28  # bytes, at most, that kernels and threads take besides the tensors
# The pretext's epochs, as a multiple of those that its measured speed allows: where a load goes
# away meanwhile, the time is used. The clock decides when it ends, and has the rate down by then.
HEADROOM = 1.25
WARMUP_SHARE = 0.1  # of the epochs, at most
MOST_RATE_FACTOR = 5.0  # beyond it Adam is not sure to converge


Steps = Callable[..., Iterator[Step]]
Trained = dict[str, Any]  # what a step changes, by the names of the generator's arguments


def plan(
    steps: Steps,
    trained: Trained,
    images: ImageLoader,
    config: TrainingConfig,
    session: TrainingStage,
    rows_per_image: int = 1,
    head_epochs: int = 0,
) -> Schedule:
    """The schedule of a stage that begins.

    Args:
        steps: the stage's generator of steps.
        rows_per_image: 2 where a step reads pairs.
        head_epochs: that heads alone were trained for.

    Raises:
        UserError: when the memory does not suffice for the smallest batch.
        MemoryError: when it does not suffice for the libraries.
    """
    _require_room_for_libraries()
    world = session.hardware.world
    schedule = asked_for(config, len(images), head_epochs)
    least = SMALLEST_THAT_TRAINS * world.size
    if world.size > 1 and min(schedule.batch_size, schedule.images_per_epoch) < least:
        raise UserError(
            f"--batch-size {schedule.batch_size}: too few images for {world.size} processes: raise "
            f"it, or start fewer"
        )
    smallest = schedule.images_per_epoch // schedule.steps_per_epoch
    if session.stage == "selflabel" and smallest < SMALLEST_THAT_TRAINS:  # others see them twice
        raise UserError(
            f"--batch-size {schedule.batch_size}: a batch of a single image has no batch "
            f"statistics: raise it"
        )
    tried = (steps, trained, images, config, session, rows_per_image)
    seconds, is_decoding = None, False
    while seconds is None:
        started, waited = time.monotonic(), images.waited
        # Each process tries its part for itself: the batch must fit into the memory of all.
        own = _seconds_per_image_or_none(schedule.batch_size, *tried)
        seconds = world.slowest(own)
        is_decoding = images.waited - waited > WAITING_SHARE * (time.monotonic() - started)
        if seconds is None:
            schedule = _with_half_of_the_batch(schedule, session)
    if config.minutes is None:
        return schedule
    if world.size > 1:  # what they wait for one another takes time too
        seconds = _seconds_per_image(schedule.batch_size, *tried, world)
    is_frozen = any(not p.requires_grad for p in trained["model"].parameters())
    look = FROZEN_LOOK if is_frozen else LOOK
    if isinstance(config, SimCLRConfig):
        look *= 2 / config.whole_views
    if is_decoding:  # each image once, where a step has decoded so many for each
        look = max(look, 1 / rows_per_image)
    views, side = rows_per_image, images.image_size
    if isinstance(config, SimCLRConfig):
        views, side = config.views_of_image, config.view_size(side)
    smallest = max(SMALLEST_BATCH, session.hardware.images_at_once(side) // views)
    fitted = fit_minutes(schedule, config.minutes, seconds, look, config, session, smallest)
    return world.of_the_first(fitted)


def asked_for(config: TrainingConfig, images: int, head_epochs: int = 0) -> Schedule:
    """What the options ask for, for so many images."""
    return Schedule(
        images,
        config.epochs,
        min(config.images_per_epoch or images, images),
        config.batch_size,
        min(getattr(config, "warmup_epochs", 0), config.epochs // 2),
        getattr(config, "ema_decay", 0.0),
        head_epochs,
    )


def in_minutes(schedule: Schedule, config: TrainingConfig, session: TrainingStage) -> Schedule:
    """The schedule, to be cut off at the stage's share of the minutes: for what takes seconds."""
    if config.minutes is None:
        return schedule
    left = session.hardware.world.of_the_first(seconds_left(config.minutes, session))
    return replace(schedule, seconds=left)


def fit_minutes(
    schedule: Schedule,
    minutes: float,
    seconds_per_image: float,
    look: float,
    config: TrainingConfig,
    session: TrainingStage,
    smallest_batch: int,
) -> Schedule:
    """The schedule that ends within the stage's share of the minutes.

    Args:
        look: at all images, without training: how much of the time of an epoch it takes.
        smallest_batch: that more steps may be made of.
    """
    stage, images = session.stage, schedule.images
    epoch_seconds = seconds_per_image * images
    looks = STAGES[stage].looks + STAGES[stage].evidences * evidence_looks(images)
    left = seconds_left(minutes, session, looks * look * epoch_seconds)
    passes = left / epoch_seconds
    if isinstance(config, SelfLabelConfig) and config.reliable_share:  # a look every few epochs
        passes /= 1 + look / config.refresh_epochs
    if stage not in PRETEXTS:  # more than the preset's epochs only repeat
        passes = min(passes, schedule.epochs)
    least = min(1.0, schedule.batch_size / images)
    if passes < least:
        session.say(
            f"{stage}: warning: of --minutes {minutes:g} {max(left, 0):.0f} s are left for "
            f"training, too few for so many images: no more than a single step is trained"
        )
    passes = max(passes, least)
    epochs = max(1, math.ceil(passes))
    rate_factor = 1.0
    if isinstance(config, ScanConfig | SelfLabelConfig) and config.optimizer == "adam":
        # Fewer steps have as far to go.
        rate_factor = min(MOST_RATE_FACTOR, math.sqrt(schedule.epochs / passes))
    schedule = replace(
        schedule,
        epochs=epochs,
        images_per_epoch=math.ceil(images * min(1.0, passes / epochs)),
        warmup_epochs=min(schedule.warmup_epochs, int(WARMUP_SHARE * epochs)),
        rate_factor=rate_factor,
        seconds=left,
    )
    if stage != "selflabel":  # few of a small batch have a label, and clusters then empty
        schedule = _with_enough_steps(schedule, smallest_batch)
    if schedule.ema_decay:
        horizon = max(1.0, AVERAGE_SHARE * schedule.steps)
        schedule = replace(schedule, ema_decay=min(schedule.ema_decay, 1 - 1 / horizon))
    measured = schedule.epochs
    if stage in PRETEXTS and passes > 1:
        warmup = int(HEADROOM * schedule.warmup_epochs)
        schedule = replace(schedule, epochs=math.ceil(HEADROOM * measured), warmup_epochs=warmup)
    faster = f", the learning rate times {rate_factor:.2f}" if rate_factor > 1 else ""
    session.say(
        f"{stage}: {1 / seconds_per_image:,.0f} images/s measured; {measured} epochs of "
        f"{schedule.images_per_epoch:,} images, {schedule.batch_size} a step, fit into "
        f"{max(left, 0):.0f} s of --minutes {minutes:g}{faster}"
    )
    return schedule


def fit_head_epochs(
    head_epochs: int,
    steps: Callable[..., Iterator[Any]],
    trained: Trained,
    batches: list[Tensor],
    config: TrainingConfig,
    session: TrainingStage,
) -> tuple[int, float | None]:
    """As many epochs of heads alone as leave time for the network, and the seconds for them.

    Args:
        head_epochs: that are asked for.
        steps: the heads' generator of steps.
        trained: what a step changes; a copy of it is tried.
        batches: of one epoch.
    """
    if config.minutes is None:
        return head_epochs, None
    trial, generator = copy.deepcopy(trained), session.generator(epoch=-2)
    next(steps(**trial, batches=batches, generator=generator))  # sets up caches and kernels
    started, taken = time.monotonic(), 0
    while time.monotonic() - started < _trial_seconds(config.minutes):
        next(steps(**trial, batches=batches, generator=generator))
        wait_for(session.hardware.device)
        taken += 1
    epoch_seconds = len(batches) * (time.monotonic() - started) / taken
    left = HEADS_SHARE * seconds_left(config.minutes, session)
    fitted = min(head_epochs, max(1, int(left / epoch_seconds)))
    return session.hardware.world.of_the_first((fitted, left))


def seconds_left(minutes: float, session: TrainingStage, reserved: float = 0.0) -> float:
    """Of the minutes, for the training of this stage; below 0 when it is late.

    What an earlier stage left over, or took too much, is shared by the later ones.

    Args:
        reserved: s, for what cannot be made shorter, in this stage and the later ones.
    """
    is_pretext = session.stage in PRETEXTS
    run = chain(session.stage) if is_pretext else chain()
    place = run.index(session.stage)
    earlier = (*PRETEXTS, *run[1:place]) if place else ()
    records = [session.files.record(stage) for stage in earlier]
    spent = sum(record.get("seconds", 0.0) + EXIT for record in records if record)
    to_come = len(run) - place - 1
    reserved += EXIT + to_come * (EXIT + max(START_UP, session.start_up))
    left = 60 * minutes - spent - session.seconds - reserved
    shares = [STAGES[stage].share for stage in run[place:]]
    return left * shares[0] / sum(shares)


def _require_room_for_libraries() -> None:
    """Native libraries may end the process where they get no memory, without a word: under a limit
    on a process (`ulimit -v`) it is asked for first, and given back."""
    try:
        mmap.mmap(-1, LIBRARIES_MAP).close()
    except OSError as error:
        raise MemoryError(error.strerror) from None


def _seconds_per_image_or_none(batch_size: int, *arguments: Any) -> float | None:
    """None where the memory is too small for a batch."""
    try:
        return _seconds_per_image(batch_size, *arguments)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except clause, whose traceback would keep the failed step's memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _seconds_per_image(
    batch_size: int,
    steps: Steps,
    trained: Trained,
    images: ImageLoader,
    config: TrainingConfig,
    session: TrainingStage,
    rows_per_image: int,
    together: World = ALONE,
) -> float:
    """Takes steps with a copy of what is trained, which is thrown away: two, to see whether the
    memory suffices, or as many as the measurement of a speed needs.

    Args:
        together: the processes that take them; ALONE, each tries its part for itself.
    """
    world, hardware = session.hardware.world, replace(session.hardware, world=together)
    trial = copy.deepcopy(trained)
    if together is ALONE:
        trial = {name: apart(part) for name, part in trial.items()}
    if config.compile:  # a copy is not compiled any more
        for part in trial.values():
            if isinstance(part, nn.Module):
                part.compile()
    generator = session.generator(epoch=-2)
    drawn = shuffled_batches(len(images), batch_size, generator)
    # The views of so many batches are made before the first step, and tell nothing of the speed.
    first = -(-hardware.images_at_once(images.image_size) // (rows_per_image * len(drawn[0])))
    enough = first + TRIAL_STEPS - 1 if config.minutes is None else TRIAL_STEPS * first
    drawn *= -(-enough // len(drawn))
    if config.minutes is None:
        drawn = drawn[:enough]
    if rows_per_image > 1:
        drawn = [torch.stack(rows_per_image * [rows]) for rows in drawn]
    batches = images.batches(drawn)
    if together is ALONE:
        batches = ((rows[..., world.part(rows.shape[-1])], own) for rows, own in batches)
    context = {"generator": generator, "config": config, "hardware": hardware}
    started, seen = time.monotonic(), 0
    for number, step in enumerate(steps(**trial, batches=batches, **context)):
        if number < first:  # the first of all also sets up caches and kernels
            if number == first - 1:
                wait_for(session.hardware.device)
                started = time.monotonic()
            continue
        # The device is not waited for: a training does not wait for it either.
        seen += step.images
        taken = together.of_the_first(time.monotonic() - started)
        if config.minutes and taken > _trial_seconds(config.minutes):
            break
    wait_for(session.hardware.device)
    return together.of_the_first(time.monotonic() - started) / seen


def _trial_seconds(minutes: float) -> float:
    return min(TRIAL_SECONDS, TRIAL_SHARE * 60 * minutes)


def _with_half_of_the_batch(schedule: Schedule, session: TrainingStage) -> Schedule:
    fitting = min(schedule.batch_size, schedule.images_per_epoch) // 2
    if fitting < SMALLEST_THAT_TRAINS * session.hardware.world.size:
        raise UserError(
            "the memory does not suffice for two images: "
            "lower --image-size or --width of simclr.py, or close other programs"
        )
    session.say(
        f"{session.stage}: the memory does not suffice for a batch of {schedule.batch_size}: "
        f"{fitting} images a step"
    )
    return replace(schedule, batch_size=fitting)


def _with_enough_steps(schedule: Schedule, smallest_batch: int) -> Schedule:
    while schedule.steps < FEWEST_STEPS and schedule.batch_size >= 2 * smallest_batch:
        schedule = replace(schedule, batch_size=schedule.batch_size // 2)
    return schedule
