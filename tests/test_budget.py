"""A schedule that fits the minutes, whatever the speed."""

import time

import pytest
import torch

from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py import budget
from src_py.hardware import choose_hardware
from src_py.loaders import ResidentImages
from src_py.run_files import RunFiles, write_json
from src_py.session import TrainingSession

IMAGES = 1000


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """The schedule of a configuration on a device that trains so many images a second."""
    monkeypatch.chdir(tmp_path)
    images = ResidentImages(torch.zeros(IMAGES, 1, 8, 8, dtype=torch.uint8), torch.device("cpu"))

    def fit_at(speed, stage, config, model=None):
        monkeypatch.setattr(budget, "_seconds_per_image", lambda *_: 1 / speed)
        session = TrainingSession(config, stage, choose_hardware("cpu"))
        budget.fit_schedule(model or torch.nn.Linear(1, 1), images, config, session, None)
        return config

    return fit_at


def test_without_minutes_nothing_changes(fit):
    config = fit(100, "simclr", SimCLRConfig(run="mine"))
    assert (config.epochs, config.images_per_epoch) == (500, None)


def test_a_fast_device_gets_more_epochs(fit):
    slow, fast = (
        fit(speed, "simclr", SimCLRConfig(run="mine", minutes=10)) for speed in (1_000, 10_000)
    )
    # 0.66 of 10 minutes less the start-up of four scripts and four looks at all images.
    assert slow.epochs == pytest.approx(385, abs=1) and fast.epochs == pytest.approx(3854, abs=10)
    assert slow.epochs * slow.images_per_epoch <= 385 * 1_000 + slow.epochs


def test_less_than_an_epoch_becomes_a_part_of_one(fit):
    config = fit(1, "simclr", SimCLRConfig(run="mine", minutes=30, batch_size=10, warmup_epochs=5))
    # 0.66 of 1,784 s less four looks of 200 s.
    assert config.epochs == 1 and config.images_per_epoch == pytest.approx(649, abs=2)
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
        config = fit(20, "scan", ScanConfig(run="mine", minutes=10), model)
        epochs.append(config.epochs * config.images_per_epoch / IMAGES)
    # Three looks of 0.2 or 0.5 of an epoch; half of what is left is the stage's.
    assert epochs[0] - epochs[1] == pytest.approx(0.45, abs=0.02)


def test_clustering_is_not_trained_beyond_the_preset(fit):
    assert fit(1e6, "scan", ScanConfig(run="mine", minutes=10)).epochs == 50


def spend(stage, seconds):
    write_json(RunFiles("mine").config(stage), {"config": {}, "made_from": "", "seconds": seconds})


def test_a_stage_shares_what_the_earlier_ones_left(fit):
    spend("simclr", 100)
    seconds = {}
    for mining in (20, 420):
        spend("extract_features", mining)
        config = fit(50, "scan", ScanConfig(run="mine", minutes=10))
        seconds[mining] = config.epochs * config.images_per_epoch / 50
    # Half of 600 - 16 - 120 or 600 - 16 - 520 seconds, less three looks at all images (12 s).
    assert seconds == pytest.approx({20: 226, 420: 26}, abs=2)


def test_a_pretext_that_was_not_trained_leaves_its_time_to_the_others(fit):
    spend("simclr", 2)
    assert fit(5, "scan", ScanConfig(run="mine", minutes=10)).epochs == 2  # with 0.17 of it: 1


def test_looks_at_all_images_are_part_of_the_time(fit):
    plain = fit(100, "selflabel", SelfLabelConfig(run="mine", minutes=10))
    renewed = SelfLabelConfig(run="mine", minutes=10, reliable_share=0.5, refresh_epochs=1)
    renewed = fit(100, "selflabel", renewed)
    # An epoch takes 10 s, a look 2 s: two always, and one after each epoch.
    assert plain.epochs * plain.images_per_epoch == pytest.approx(58_000, abs=500)
    assert renewed.epochs * renewed.images_per_epoch * 1.2 == pytest.approx(58_000, abs=500)


@pytest.mark.parametrize(("minutes", "fewest", "most"), [(1000, 30, 30), (0.2, 1, 1)])
def test_heads_leave_time_for_the_network(monkeypatch, tmp_path, minutes, fewest, most):
    monkeypatch.chdir(tmp_path)
    config = ScanConfig(run="mine", minutes=minutes, head_epochs=30)
    session = TrainingSession(config, "scan", choose_hardware("cpu"))
    budget.fit_head_epochs(config, session, lambda: time.sleep(0.01), steps=10)
    assert fewest <= config.head_epochs <= most


def test_a_short_schedule_shortens_the_memory_of_the_average(fit):
    config = SelfLabelConfig(run="mine", minutes=10, batch_size=100, ema_decay=0.999)
    config = fit(100, "selflabel", config)
    steps = config.epochs * config.images_per_epoch / config.batch_size
    assert 1 / (1 - config.ema_decay) == pytest.approx(0.1 * steps, rel=0.1)


def test_few_steps_become_more_by_smaller_batches(fit):
    config = fit(1_000, "simclr", SimCLRConfig(run="mine", minutes=10))
    assert config.batch_size == 128  # 385 epochs of 1,000 images
    assert fit(1e5, "simclr", SimCLRConfig(run="mine", minutes=10)).batch_size == 512
    assert fit(1_000, "selflabel", SelfLabelConfig(run="mine", minutes=10)).batch_size == 1000


def test_the_measured_speed_leaves_the_model_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = ResidentImages(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.device("cpu"))
    model = torch.nn.BatchNorm2d(1)
    config = SimCLRConfig(run="mine", minutes=1, batch_size=16)
    session = TrainingSession(config, "simclr", choose_hardware("cpu"))

    def loss_of(trial, batch, generator):
        return trial(batch + torch.rand(batch.shape, generator=generator)).sum()

    budget.fit_schedule(model, images, config, session, loss_of)
    assert config.epochs > 1
    assert model.num_batches_tracked == 0 and model.weight.grad is None
