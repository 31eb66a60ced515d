"""A schedule that fits the minutes, whatever the speed."""

import pytest
import torch

from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py import budget
from src_py.hardware import choose_hardware
from src_py.loaders import ResidentImages
from src_py.session import TrainingSession

IMAGES = 1000


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """The schedule of a configuration on a device that trains so many images a second."""
    monkeypatch.chdir(tmp_path)
    images = ResidentImages(torch.zeros(IMAGES, 1, 8, 8, dtype=torch.uint8), torch.device("cpu"))

    def fit_at(speed, stage, config):
        monkeypatch.setattr(budget, "_seconds_per_image", lambda *_: 1 / speed)
        session = TrainingSession(config, stage, choose_hardware("cpu"))
        budget.fit_schedule(torch.nn.Linear(1, 1), images, config, session, None)
        return config

    return fit_at


def test_without_minutes_nothing_changes(fit):
    config = fit(100, "simclr", SimCLRConfig(run="mine"))
    assert (config.epochs, config.images_per_epoch) == (500, None)


def test_a_fast_device_gets_more_epochs(fit):
    slow, fast = (
        fit(speed, "simclr", SimCLRConfig(run="mine", minutes=10)) for speed in (1_000, 10_000)
    )
    # 0.6 of 10 minutes less the start-up are 348 s.
    assert slow.epochs == pytest.approx(348, abs=1) and fast.epochs == pytest.approx(3480, abs=10)
    assert slow.epochs * slow.images_per_epoch <= 348 * 1_000 + slow.epochs


def test_less_than_an_epoch_becomes_a_part_of_one(fit):
    config = fit(1, "simclr", SimCLRConfig(run="mine", minutes=10, batch_size=10, warmup_epochs=5))
    assert config.epochs == 1 and config.images_per_epoch == pytest.approx(348, abs=2)
    assert config.warmup_epochs == 0


def test_at_least_one_batch_is_trained(fit):
    config = fit(1, "scan", ScanConfig(run="mine", minutes=0.1, batch_size=10))
    assert (config.epochs, config.images_per_epoch) == (1, 10)


def test_clustering_is_not_trained_beyond_the_preset(fit):
    assert fit(1e6, "scan", ScanConfig(run="mine", minutes=10)).epochs == 50


def test_a_short_schedule_shortens_the_memory_of_the_average(fit):
    config = SelfLabelConfig(run="mine", minutes=10, batch_size=100, ema_decay=0.999)
    config = fit(100, "selflabel", config)
    steps = config.epochs * config.images_per_epoch / config.batch_size
    assert 1 / (1 - config.ema_decay) == pytest.approx(0.1 * steps, rel=0.1)


def test_few_steps_become_more_by_smaller_batches(fit):
    config = fit(1_000, "simclr", SimCLRConfig(run="mine", minutes=10))
    assert config.batch_size == 128  # 348 epochs of 1,000 images
    assert fit(1e5, "simclr", SimCLRConfig(run="mine", minutes=10)).batch_size == 512


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
