"""A schedule that fits the minutes, whatever the speed."""

import pytest
import torch

from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py import budget, training_loops
from src_py.hardware import choose_hardware
from src_py.loaders import ResidentImages
from src_py.models import BackboneSpec, ContrastiveModel
from src_py.run_files import RunFiles, write_json
from src_py.session import TrainingSession
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

    def plan_at(speed, stage, config, model=None):
        monkeypatch.setattr(budget, "_seconds_per_image", lambda *_: 1 / speed)
        session = TrainingSession(config, stage, choose_hardware("cpu"))
        model = model or torch.nn.Linear(1, 1)
        budget.fit_schedule(model, black_images(IMAGES), config, session, None)
        return session

    return plan_at


@pytest.fixture
def fit(plan):
    """The configuration that comes out."""
    return lambda *arguments: plan(*arguments).config


def test_without_minutes_nothing_changes(fit):
    config = fit(100, "simclr", SimCLRConfig(run="mine"))
    assert (config.epochs, config.images_per_epoch) == (500, None)


def test_a_fast_device_gets_more_epochs(fit):
    slow, fast = (
        fit(speed, "simclr", SimCLRConfig(run="mine", minutes=10)) for speed in (1_000, 10_000)
    )
    # 0.6 of 600 s less an exit (1 s), three more scripts (4 s each) and 28 looks at all images (0.2
    # of an epoch each): four, and twelve for the evidence in views of scan.py and of selflabel.py.
    assert slow.epochs == pytest.approx(349, abs=1) and fast.epochs == pytest.approx(3519, abs=10)
    assert slow.epochs * slow.images_per_epoch <= 350 * 1_000 + slow.epochs


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


def spend(stage, seconds):
    write_json(RunFiles("mine").config(stage), {"config": {}, "made_from": "", "seconds": seconds})


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


def test_looks_at_all_images_are_part_of_the_time(fit):
    plain = fit(100, "selflabel", SelfLabelConfig(run="mine", minutes=10))
    renewed = SelfLabelConfig(run="mine", minutes=10, reliable_share=0.5, refresh_epochs=1)
    renewed = fit(100, "selflabel", renewed)
    # An epoch takes 10 s, a look 2 s: fourteen always, and one after each epoch. An exit takes 1 s.
    assert plain.epochs * plain.images_per_epoch == pytest.approx(57_100, abs=100)
    assert renewed.epochs * renewed.images_per_epoch * 1.2 == pytest.approx(57_100, abs=100)


def test_later_scripts_take_as_long_to_start_as_the_first_did(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)

    def seconds_left(stage, start_up):
        config = SimCLRConfig(run="mine", minutes=10)
        started = clock.now - start_up
        session = TrainingSession(config, stage, choose_hardware("cpu"), started=started)
        clock.now += 20
        return budget.seconds_left(config, session)

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
    session = plan(100, stage, config_class(run="mine", minutes=10))
    assert session.time_used == 0
    clock.now += seconds / 2
    assert session.time_used == pytest.approx(0.5)
    trained = 0
    for _ in session.epochs(1, 1):
        for _ in session.in_time(range(1000)):
            session.record(1, loss=0.0)
            clock.now += 1
            trained += 1
    assert trained == pytest.approx(seconds / 2, abs=1)
    assert session.time_used == 1


def test_without_minutes_there_is_no_deadline(monkeypatch, plan):
    clock = Clock(monkeypatch)
    session = plan(100, "scan", ScanConfig(run="mine"))
    clock.now += 1e6
    assert session.time_used == 0


@pytest.mark.parametrize(("slowness", "is_cut_short"), [(1, False), (3, True)])
def test_a_schedule_for_a_fast_machine_ends_in_time_on_a_slow_one(
    monkeypatch, tmp_path, capsys, slowness, is_cut_short
):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    second = 1 / 32  # an image; 64 of them are 2 s an epoch
    monkeypatch.setattr(budget, "_seconds_per_image", lambda *_: second)
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    images = SlowImages(images, clock, slowness * second)
    rates = []

    class Schedule(training_loops.PretextSchedule):
        def set(self, optimizer, *where):
            super().set(optimizer, *where)
            rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(training_loops, "PretextSchedule", Schedule)
    config = SimCLRConfig(run="mine", minutes=1, batch_size=16)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))
    model = ContrastiveModel(BackboneSpec(4, 1, small_stem=True), 16)
    training_loops.train_simclr(model, images, ((0.5,), (0.25,)), config, session)
    # 0.6 of 60 s less 13 s for exits and scripts and 28 looks of 0.4 s.
    left = 0.6 * (60 - 13 - 28 * 0.4)
    assert config.epochs == 11
    assert left - 1 <= session.seconds <= left + slowness * second * 16
    assert rates[0] == max(rates) > 0 and rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02 * rates[0]
    assert ("the time is up" in capsys.readouterr().out) == is_cut_short
    assert (len(session.history) < config.epochs) == is_cut_short


@pytest.mark.parametrize(("minutes", "epochs"), [(1000, 30), (0.2, 10), (0.1, 1), (0.01, 1)])
def test_heads_leave_time_for_the_network(monkeypatch, tmp_path, minutes, epochs):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)

    def step():
        clock.now += 0.02

    config = ScanConfig(run="mine", minutes=minutes, head_epochs=30)
    session = TrainingSession(config, "scan", choose_hardware("cpu"))
    budget.fit_head_epochs(config, session, step, steps=5)
    # Measuring takes a hundredth of the minutes and a step before that. Of half of the minutes,
    # less that and 5 s for this exit and the last script, 0.3 are 1.03 s for 0.2 minutes, and 0.13
    # s for 0.1; an epoch takes 0.1 s.
    assert session.seconds == pytest.approx(min(4, 0.6 * minutes) + 0.02, abs=0.03)
    assert config.head_epochs == epochs


def test_heads_alone_have_a_deadline(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)

    def step():
        clock.now += 1

    session = TrainingSession(ScanConfig(run="mine", minutes=10), "scan", choose_hardware("cpu"))
    budget.fit_head_epochs(session.config, session, step, steps=5)
    assert session.seconds == 5 and session.time_used == 0  # four steps are measured, after one
    clock.now += 0.3 * 0.5 * (600 - 5 - 5) / 2
    assert session.time_used == pytest.approx(0.5)


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


def test_the_measured_speed_leaves_the_model_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = black_images(64)
    model = torch.nn.BatchNorm2d(1)
    config = SimCLRConfig(run="mine", minutes=1, batch_size=16)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))

    def loss_of(trial, batch, generator):
        return trial(batch + torch.rand(batch.shape, generator=generator)).sum()

    budget.fit_schedule(model, images, config, session, loss_of)
    assert config.epochs > 1
    assert model.num_batches_tracked == 0 and model.weight.grad is None
