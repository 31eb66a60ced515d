"""A schedule that fits the minutes, whatever the speed."""

from dataclasses import replace

import pytest
import torch

from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py import training_loops
from src_py.backbones import BackboneSpec
from src_py.images.loaders import ResidentImages
from src_py.models import ContrastiveModel, KeyQueue
from src_py.optimizers import descend
from src_py.run import planning
from src_py.run.errors import UserError, is_out_of_memory
from src_py.run.files import RunFiles
from src_py.run.hardware import Hardware, choose_hardware
from src_py.run.schedule import Schedule, Step
from src_py.run.session import TrainingSession
from tests.made_runs import write_stage
from tests.test_session import Clock
from tests.test_training_loops import SlowImages

IMAGES = 1000
CPU = torch.device("cpu")


def black_images(count):
    return ResidentImages(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), CPU)


@pytest.fixture
def plan(monkeypatch, tmp_path):
    """A session with its schedule, on a device that trains so many images a second."""
    monkeypatch.chdir(tmp_path)

    def plan_at(speed, stage, config, model=None, images=None):
        monkeypatch.setattr(planning, "_seconds_per_image", lambda *_: 1 / speed)
        session = TrainingSession(config, stage, choose_hardware("cpu"))
        trained = {"model": model or torch.nn.Linear(1, 1)}
        images = images or black_images(IMAGES)
        schedule = planning.plan(None, trained, images, config, session)
        return session, schedule

    return plan_at


@pytest.fixture
def fit(plan):
    """The schedule that comes out."""
    return lambda *arguments: plan(*arguments)[1]


def test_without_minutes_nothing_changes(fit):
    config = fit(100, "simclr", SimCLRConfig(run="mine"))
    assert (config.epochs, config.images_per_epoch) == (500, IMAGES)


def test_a_fast_device_gets_more_epochs(fit):
    slow, fast = (
        fit(speed, "simclr", SimCLRConfig(run="mine", minutes=10)) for speed in (1_000, 10_000)
    )
    # 0.6 of 600 s less an exit (1 s), three more scripts (4 s each) and 28 looks at all images (0.2
    # of an epoch each): four, and twelve for the evidence in views of scan.py and of selflabel.py.
    # Of an epoch a second that is 349 epochs, and a quarter more for a load that may go away.
    assert slow.epochs == pytest.approx(437, abs=1) and fast.epochs == pytest.approx(4399, abs=13)


def test_a_look_is_longer_beside_an_epoch_of_smaller_views(fit):
    whole, small = (
        fit(1_000, "simclr", SimCLRConfig(run="mine", minutes=10, view_side=side)).seconds
        for side in (1.0, 0.5)
    )
    # 28 looks of 0.2 s, and of 0.8 s: the pretext loses 0.6 of the difference.
    assert whole - small == pytest.approx(0.6 * 28 * 0.6, abs=0.1)


def test_less_than_an_epoch_becomes_a_part_of_one(fit):
    config = SimCLRConfig(run="mine", minutes=24, batch_size=10, warmup_epochs=5)
    config = fit(5, "simclr", config)
    # 0.6 of 1,440 s less 13 s for exits and scripts and 28 looks of 40 s: 184.2 s.
    assert config.epochs == 1 and config.images_per_epoch == pytest.approx(921, abs=2)
    assert config.warmup_epochs == 0


def test_at_least_one_batch_is_trained_and_too_few_minutes_are_told(fit, capsys):
    config = fit(1, "scan", ScanConfig(run="mine", minutes=0.1, batch_size=10))
    assert (config.epochs, config.images_per_epoch) == (1, 10)
    assert "too few for so many images" in capsys.readouterr().out
    fit(100, "scan", ScanConfig(run="mine", minutes=10))
    assert "too few" not in capsys.readouterr().out


@pytest.mark.parametrize("config", [ScanConfig, SelfLabelConfig])
def test_fewer_images_than_a_batch_are_no_reason_to_warn(fit, capsys, config):
    stage = "scan" if config is ScanConfig else "selflabel"
    assert fit(1000, stage, config(run="mine", minutes=60, batch_size=5000, epochs=2)).epochs == 2
    assert "too few" not in capsys.readouterr().out


def test_a_frozen_backbone_is_looked_at_more_slowly_than_it_is_trained_on(fit):
    epochs = []
    for frozen in (False, True):
        model = torch.nn.Linear(1, 1).requires_grad_(not frozen)
        config = fit(50, "scan", ScanConfig(run="mine", minutes=10), model)
        epochs.append(config.epochs * config.images_per_epoch / IMAGES)
    # 27 looks of 0.2 or 0.5 of an epoch; half of what is left is the stage's.
    assert epochs[0] - epochs[1] == pytest.approx(4.05, abs=0.02)


def test_clustering_is_not_trained_beyond_the_preset(fit):
    assert fit(1e6, "scan", ScanConfig(run="mine", minutes=10)).epochs == 50


@pytest.mark.parametrize(
    ("speed", "optimizer", "factor"),
    [(1e6, "adam", 1), (50, "adam", (50 / 12.2) ** 0.5), (1, "adam", 5), (50, "sgd", 1)],
)
def test_with_fewer_epochs_than_asked_adams_steps_are_larger(fit, capsys, speed, optimizer, factor):
    config = ScanConfig(run="mine", minutes=10, optimizer=optimizer)
    schedule = fit(speed, "scan", config)
    assert schedule.rate_factor == pytest.approx(factor, rel=0.05)
    assert ("learning rate times" in capsys.readouterr().out) == (factor > 1)
    assert fit(speed, "simclr", SimCLRConfig(run="mine", minutes=10)).rate_factor == 1


def spend(stage, seconds):
    write_stage(RunFiles("mine"), stage, seconds=seconds)


def test_a_stage_shares_what_the_earlier_ones_left(fit):
    spend("simclr", 100)
    seconds = {}
    for mining in (20, 220):
        spend("extract_features", mining)
        config = fit(50, "scan", ScanConfig(run="mine", minutes=10))
        seconds[mining] = config.epochs * config.images_per_epoch / 50
    # Half of 600 s less 122 or 322 s for the earlier scripts and their exits, 5 s for this exit and
    # for the last script, and 27 looks at all images (108 s).
    assert seconds == pytest.approx({20: 182.5, 220: 82.5}, abs=1)


def test_a_pretext_that_was_not_trained_leaves_its_time_to_the_others(fit):
    spend("simclr", 2)
    # Half of 592 s less 27 looks of 10 s is four epochs of 50 s, begun; a fifth of it were two.
    assert fit(20, "scan", ScanConfig(run="mine", minutes=10)).epochs == 4


@pytest.mark.parametrize(("minutes", "expected"), [(None, 4), (1, 8)])
def test_a_trial_holds_the_views_of_several_batches(monkeypatch, tmp_path, minutes, expected):
    """Three batches of ten images share theirs: their making is part of what is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hardware, "images_at_once", lambda *_: 30)
    config = SelfLabelConfig(run="mine", minutes=minutes, batch_size=10)
    session = TrainingSession(config, "selflabel", choose_hardware("cpu"))
    taken = []

    def steps(model, batches, **_):
        for rows, _ in batches:
            taken.append(len(rows))
            yield Step(len(rows), {})

    planning.plan(steps, {"model": torch.nn.Linear(1, 1)}, black_images(40), config, session)
    assert taken == expected * [10]


def test_no_smaller_batches_where_they_take_as_long(fit, monkeypatch):
    config = ScanConfig(run="mine", minutes=1, batch_size=256)
    assert fit(100, "scan", config).batch_size == 64
    monkeypatch.setattr(Hardware, "images_at_once", lambda *_: 128)
    assert fit(100, "scan", config).batch_size == 128
    monkeypatch.setattr(Hardware, "images_at_once", lambda *_: 1024)
    assert fit(100, "scan", config).batch_size == 256


def test_looks_at_all_images_are_part_of_the_time(fit):
    plain = fit(100, "selflabel", SelfLabelConfig(run="mine", minutes=10))
    renewed = SelfLabelConfig(run="mine", minutes=10, reliable_share=0.5, refresh_epochs=1)
    renewed = fit(100, "selflabel", renewed)
    # An epoch takes 10 s, a look 2 s: fourteen always, and one after each epoch. An exit takes 1 s.
    assert plain.epochs * plain.images_per_epoch == pytest.approx(57_100, abs=100)
    assert renewed.epochs * renewed.images_per_epoch * 1.2 == pytest.approx(57_100, abs=100)


class SlowFiles(ResidentImages):
    """Whoever looks has waited a second more."""

    seconds = 0

    @property
    def waited(self):
        self.seconds += 1
        return self.seconds

    @waited.setter
    def waited(self, seconds):
        pass


def test_a_look_takes_as_long_as_decoding_where_that_decides(fit):
    config = SelfLabelConfig(run="mine", minutes=10)
    images = SlowFiles(torch.zeros(IMAGES, 1, 8, 8, dtype=torch.uint8), CPU)
    schedule = fit(100, "selflabel", config, None, images)
    # Fourteen looks of 10 s, in the place of 2 s, leave 112 s less.
    assert schedule.epochs * schedule.images_per_epoch == pytest.approx(45_900, abs=100)


def test_later_scripts_take_as_long_to_start_as_the_first_did(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)

    def seconds_left(stage, start_up):
        config = SimCLRConfig(run="mine", minutes=10)
        started = clock.now - start_up
        session = TrainingSession(config, stage, choose_hardware("cpu"), started=started)
        clock.now += 20
        return planning.seconds_left(10, session)

    # Less 20 s, the start-up, an exit (1 s), and the later scripts, each at least 3 + 1 s.
    assert seconds_left("simclr", 0) == pytest.approx(0.6 * (600 - 20 - 1 - 3 * 4))
    assert seconds_left("simclr", 2) == pytest.approx(0.6 * (600 - 22 - 1 - 3 * 4))
    assert seconds_left("simclr", 10) == pytest.approx(0.6 * (600 - 30 - 1 - 3 * 11))
    assert seconds_left("scan", 10) == pytest.approx(0.5 * (600 - 30 - 1 - 11))
    assert seconds_left("selflabel", 10) == pytest.approx(600 - 30 - 1)


@pytest.mark.parametrize(
    ("stage", "config_class", "seconds"),
    [
        # An epoch takes 10 s, a look 2 s.
        ("simclr", SimCLRConfig, 0.6 * (600 - 13 - 28 * 2)),
        ("moco", MoCoConfig, 0.6 * (600 - 13 - 28 * 2)),
        ("scan", ScanConfig, 0.5 * (600 - 5 - 27 * 2)),
        ("selflabel", SelfLabelConfig, 600 - 1 - 14 * 2),
    ],
)
def test_every_stage_has_a_deadline(monkeypatch, plan, stage, config_class, seconds):
    clock = Clock(monkeypatch)
    session, schedule = plan(100, stage, config_class(run="mine", minutes=10))
    assert schedule.seconds == pytest.approx(seconds)
    assert session.time_used == 0
    trained = 0
    for _ in session.epochs(replace(schedule, epochs=1)):
        for _ in session.in_time(range(1000)):
            session.record(Step(1, {"loss": torch.zeros(())}))
            clock.now += 1
            trained += 1
    assert trained == pytest.approx(seconds, abs=1)
    assert session.time_used == 1


def test_without_minutes_there_is_no_deadline(monkeypatch, plan):
    clock = Clock(monkeypatch)
    session, schedule = plan(100, "scan", ScanConfig(run="mine"))
    clock.now += 1e6
    assert schedule.seconds is None and session.time_used == 0


@pytest.mark.parametrize("slowness", [0.85, 1, 3])
def test_a_pretext_takes_its_time_whatever_the_machine_does_meanwhile(
    monkeypatch, tmp_path, slowness
):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    second = 1 / 32  # an image; 64 of them are 2 s an epoch
    monkeypatch.setattr(planning, "_seconds_per_image", lambda *_: second)
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    images = SlowImages(images, clock, slowness * second)
    rates = []

    def steps(**arguments):
        for step in simclr_steps(**arguments):
            rates.append(arguments["optimizer"].param_groups[0]["lr"])
            yield step

    simclr_steps = training_loops.simclr_steps
    monkeypatch.setattr(training_loops, "simclr_steps", steps)
    config = SimCLRConfig(run="mine", minutes=1, batch_size=16)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))
    model = ContrastiveModel(BackboneSpec(4, 1, small_stem=True), 16)
    training_loops.train_simclr(model, images, config, session)
    # 0.6 of 60 s less 13 s for exits and scripts and 28 looks of 0.4 s.
    left = 0.6 * (60 - 13 - 28 * 0.4)
    schedule = session.files.begun("simclr")["schedule"]
    assert (schedule["epochs"], schedule["warmup_epochs"]) == (14, 0)  # 11, and a quarter more
    assert left - 1 <= session.seconds <= left + slowness * second * 16
    assert rates[0] == max(rates) > 0 and rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02 * rates[0]
    assert len(session.history) == pytest.approx(11 / slowness, abs=1)


def slow_steps(clock, seconds):
    """A generator of steps of heads alone that take their time."""

    def steps(batches, generator):
        for batch in batches:
            clock.now += seconds
            yield batch

    return steps


@pytest.mark.parametrize(("minutes", "epochs"), [(1000, 30), (0.2, 10), (0.1, 1), (0.01, 1)])
def test_heads_leave_time_for_the_network(monkeypatch, tmp_path, minutes, epochs):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    config = ScanConfig(run="mine", minutes=minutes, head_epochs=30)
    session = TrainingSession(config, "scan", choose_hardware("cpu"))
    steps, batches = slow_steps(clock, 0.02), [torch.arange(3)] * 5
    found, seconds = planning.fit_head_epochs(30, steps, {}, batches, config, session)
    # Measuring takes a hundredth of the minutes and a step before that. Of half of the minutes,
    # less that and 5 s for this exit and the last script, 0.3 are 1.03 s for 0.2 minutes, and 0.13
    # s for 0.1; an epoch takes 0.1 s.
    assert session.seconds == pytest.approx(min(4, 0.6 * minutes) + 0.02, abs=0.03)
    assert found == epochs
    assert seconds == pytest.approx(0.3 * 0.5 * (60 * minutes - session.seconds - 5))


def test_without_minutes_heads_are_not_timed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = ScanConfig(run="mine", head_epochs=30)
    session = TrainingSession(config, "scan", choose_hardware("cpu"))
    assert planning.fit_head_epochs(30, None, {}, [], config, session) == (30, None)


def test_a_short_schedule_shortens_the_memory_of_the_average(fit):
    config = SelfLabelConfig(run="mine", minutes=10, batch_size=100, ema_decay=0.999)
    config = fit(100, "selflabel", config)
    steps = config.epochs * config.images_per_epoch / config.batch_size
    assert 1 / (1 - config.ema_decay) == pytest.approx(0.1 * steps, rel=0.1)


def test_few_steps_become_more_by_smaller_batches(fit):
    config = fit(1_000, "simclr", SimCLRConfig(run="mine", minutes=10))
    assert config.batch_size == 128  # 349 epochs of 1,000 images
    assert fit(1e5, "simclr", SimCLRConfig(run="mine", minutes=10)).batch_size == 512
    assert fit(1_000, "selflabel", SelfLabelConfig(run="mine", minutes=10)).batch_size == 1000


def counting_steps(fits=100, seen=None):
    """Steps that change model, optimizer, queue and random numbers, and need memory for at most
    `fits` images."""

    def steps(model, queue, optimizer, batches, generator, config, hardware):
        for _, images in batches:
            if seen is not None:
                seen.append(len(images))
            if len(images) > fits:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried too much")
            noise = torch.rand(images.shape, generator=generator)
            loss = model(images + noise).square().mean()
            descend(optimizer, loss)
            queue.push(torch.ones(len(images), 2))
            yield Step(len(images), {"loss": loss})

    return steps


def trained_parts():
    model = torch.nn.BatchNorm2d(1)
    queue = KeyQueue(16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {"model": model, "queue": queue, "optimizer": optimizer}


@pytest.mark.parametrize("minutes", [None, 1])
def test_what_is_measured_leaves_everything_alone(monkeypatch, tmp_path, minutes):
    monkeypatch.chdir(tmp_path)
    config = SimCLRConfig(run="mine", minutes=minutes, batch_size=16, epochs=2)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))
    trained = trained_parts()
    before = trained["queue"].keys.clone()
    schedule = planning.plan(counting_steps(), trained, black_images(64), config, session)
    assert schedule.epochs > (2 if minutes else 1)
    model = trained["model"]
    assert model.num_batches_tracked == 0 and model.weight.grad is None
    assert trained["queue"].keys.equal(before) and not trained["optimizer"].state


@pytest.mark.parametrize("minutes", [None, 1])
def test_a_batch_that_does_not_fit_is_halved_before_the_first_epoch(
    monkeypatch, tmp_path, capsys, minutes
):
    monkeypatch.chdir(tmp_path)
    config = SimCLRConfig(run="mine", minutes=minutes, batch_size=512, epochs=2)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))
    seen = []
    steps, trained = counting_steps(20, seen), trained_parts()
    schedule = planning.plan(steps, trained, black_images(64), config, session)
    assert schedule.batch_size == 16 and config.batch_size == 512
    assert seen[:4] == [64, 32, 16, 16]
    told = capsys.readouterr().out
    assert "does not suffice for a batch of 512: 32 images a step" in told
    assert "a batch of 32: 16 images" in told


def test_when_not_even_two_images_fit_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = SimCLRConfig(run="mine", batch_size=8)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))
    with pytest.raises(UserError, match="--image-size"):
        planning.plan(counting_steps(0), trained_parts(), black_images(64), config, session)


def test_other_errors_are_not_swallowed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def steps(**_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        yield

    config = SimCLRConfig(run="mine", batch_size=8)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))
    with pytest.raises(RuntimeError, match="mat1"):
        planning.plan(steps, trained_parts(), black_images(64), config, session)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_known_on_any_device(error):
    assert is_out_of_memory(error) and not is_out_of_memory(RuntimeError("mat1 and mat2"))


def test_a_stage_that_goes_on_keeps_its_schedule(monkeypatch, tmp_path):
    """Whatever the speed and the memory are now."""
    monkeypatch.chdir(tmp_path)
    config = ScanConfig(run="mine", minutes=7, batch_size=100)
    session = TrainingSession(config, "scan", choose_hardware("cpu"))
    begun = Schedule(64, 3, 40, 20, ema_decay=0.5, head_epochs=9, seconds=2.0)
    session.begin(begun)
    session._kept.store({})
    session = TrainingSession(config, "scan", choose_hardware("cpu"))
    assert session.stored_schedule(64) == begun
    with pytest.raises(UserError, match="begun with 64 images, now 65"):
        session.stored_schedule(65)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (3, 1), (10, 5), (200, 10)])
def test_a_short_training_still_has_time_to_come_down(epochs, warmup):
    config = SimCLRConfig(run="mine", epochs=epochs, warmup_epochs=10)
    assert planning.asked_for(config, images=100).warmup_epochs == warmup


@pytest.mark.parametrize(("batch_size", "images"), [(1, 64), (2, 65)])
def test_a_batch_of_one_image_is_refused_where_it_is_seen_once(
    monkeypatch, tmp_path, batch_size, images
):
    monkeypatch.chdir(tmp_path)
    config = SelfLabelConfig(run="mine", batch_size=batch_size)
    session = TrainingSession(config, "selflabel", choose_hardware("cpu"))
    with pytest.raises(UserError, match=f"--batch-size {batch_size}: a batch of a single image"):
        planning.plan(None, {"model": torch.nn.Linear(1, 1)}, black_images(images), config, session)
