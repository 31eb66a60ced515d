"""The loops on tiny sets: every size and batch, skipped steps, and what they must not change."""

from dataclasses import dataclass, replace

import pytest
import torch

from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py import cluster_heads, inference, optimizers, training_loops
from src_py.backbones import BackboneSpec, ResNet18
from src_py.images.loaders import ResidentImages
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.neighbor_pairs import NeighborPairs
from src_py.run import planning
from src_py.run.hardware import choose_hardware
from src_py.run.session import TrainingSession
from src_py.stored_features import StoredFeatures
from tests.test_session import Clock

SPEC = BackboneSpec(width=4, channels=3, small_stem=True)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@dataclass
class Tiny:
    """A random set of images with random neighbors."""

    size: int = 32

    def __post_init__(self):
        random = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (self.size, 3, 8, 8), generator=random, dtype=torch.uint8)
        self.images = ResidentImages(pixels, CPU)
        self.neighbors = torch.randint(self.size, (self.size, 3), generator=random)
        self.pairs = NeighborPairs.of(self.neighbors.numpy(), CPU)


def session_for(config, stage):
    return TrainingSession(config, stage, choose_hardware("cpu"))


def classifier(clusters=3, heads=2):
    torch.manual_seed(0)
    return ClusteringModel(ResNet18(SPEC), ClusterHeads(32, clusters, heads))


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()]).detach().clone()


@pytest.mark.parametrize("size", [32, 33, 50])
@pytest.mark.parametrize("batch_size", [1, 7, 16, 512])
def test_simclr_takes_any_size_and_batch(size, batch_size):
    config = SimCLRConfig(run="tiny", epochs=1, batch_size=batch_size)
    torch.manual_seed(0)
    model = ContrastiveModel(SPEC, 16)
    session = session_for(config, "simclr")
    training_loops.train_simclr(model, Tiny(size).images, config, session)
    assert torch.isfinite(weights(model)).all()
    assert session.history[-1]["epoch"] == 1


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_moco_takes_any_batch_and_its_target_follows(batch_size):
    config = MoCoConfig(
        run="tiny", epochs=2, batch_size=batch_size, queue_size=16, projection_dim=16
    )
    torch.manual_seed(0)
    model = ContrastiveModel(SPEC, 16)
    before = weights(model)
    session = session_for(config, "moco")
    training_loops.train_moco(model, Tiny(33).images, config, session)
    assert torch.isfinite(weights(model)).all() and not torch.equal(weights(model), before)
    assert [row["epoch"] for row in session.history] == [1, 2]


def test_an_epoch_can_be_a_part_of_the_images():
    config = SimCLRConfig(run="tiny", epochs=3, batch_size=8, images_per_epoch=20)
    session = session_for(config, "simclr")
    seen = []
    session.record = lambda step: seen.append(step.images)
    training_loops.train_simclr(ContrastiveModel(SPEC, 16), Tiny().images, config, session)
    assert sum(seen) == 60 and max(seen) <= 8


@pytest.mark.parametrize("batch_size", [5, 512])
@pytest.mark.parametrize("heads", [1, 3])
def test_scan_trains_every_head_and_the_backbone(batch_size, heads):
    config = ScanConfig(run="tiny", epochs=1, batch_size=batch_size, heads=heads, clusters=3)
    tiny, model = Tiny(), classifier(heads=heads)
    before = {name: value.clone() for name, value in model.named_parameters()}
    session = session_for(config, "scan")
    training_loops.train_scan(model, tiny.images, tiny.pairs, config, session)
    moved = {name for name, value in model.named_parameters() if not value.equal(before[name])}
    assert "backbone.conv1.weight" in moved and "heads.linear.weight" in moved
    best, _ = training_loops.keep_best_head(model, tiny.images, tiny.pairs, config, session)
    assert best.heads.heads == 1


def test_the_head_of_lowest_loss_is_kept():
    tiny, model = Tiny(), classifier(clusters=2, heads=3)
    with torch.no_grad():
        model.heads.linear.weight.zero_()
        model.heads.linear.bias.copy_(torch.tensor([9.0, -9, 0, 0, 9, -9]))  # only the middle
    config = ScanConfig(run="tiny", clusters=2, heads=3)
    best, _ = training_loops.keep_best_head(
        model, tiny.images, tiny.pairs, config, session_for(config, "scan")
    )
    assert best.heads.linear.bias.tolist() == [0, 0]


@pytest.mark.parametrize("prototypes", [False, True])
def test_heads_on_stored_features_find_separate_groups(prototypes):
    random = torch.Generator().manual_seed(0)
    groups = torch.arange(60) % 3
    features = torch.eye(3)[groups] * 4 + torch.randn(60, 3, generator=random) * 0.1
    neighbors = torch.stack([(torch.arange(60) + 3 * step) % 60 for step in (1, 2, 3)], dim=1)
    config = ScanConfig(
        run="tiny", clusters=3, heads=2, candidate_heads=5, head_epochs=60, prototypes=prototypes
    )
    pairs = NeighborPairs.of(neighbors.numpy(), CPU)
    session, stored = session_for(config, "scan"), StoredFeatures(features)
    heads, _ = cluster_heads.train_heads(stored, pairs, config, session)
    assert heads.heads == 2
    found = heads(features)[0].argmax(dim=1)
    assert len({(int(g), int(f)) for g, f in zip(groups, found, strict=True)}) == 3


def test_heads_alone_are_trained_on_all_images(monkeypatch):
    """None is held out, and every epoch has each once."""
    seen = []

    class Pairs(NeighborPairs):
        def drawn_loss(self, heads, stored, anchors, *arguments):
            seen.append(anchors)
            return super().drawn_loss(heads, stored, anchors, *arguments)

    tiny = Tiny()
    pairs = Pairs(tiny.pairs.neighbors, tiny.pairs.counts)
    config = ScanConfig(run="tiny", clusters=3, candidate_heads=2, head_epochs=1)
    stored = StoredFeatures(torch.randn(tiny.size, 4))
    cluster_heads.train_heads(stored, pairs, config, session_for(config, "scan"))
    assert len(seen) == cluster_heads.FEWEST_HEAD_STEPS  # of one batch an epoch
    assert all(anchors.sort().values.equal(torch.arange(tiny.size)) for anchors in seen)


def test_heads_alone_end_when_they_are_late(monkeypatch):
    clock, taken = Clock(monkeypatch), []

    class SlowerAndSlower(NeighborPairs):
        def drawn_loss(self, *arguments, **options):
            clock.now += 0.1 if len(taken) < 20 else 1.0
            taken.append(clock.now)
            return super().drawn_loss(*arguments, **options)

    tiny = Tiny()
    pairs = SlowerAndSlower(tiny.pairs.neighbors, tiny.pairs.counts)
    config = ScanConfig(run="tiny", minutes=1, clusters=3, candidate_heads=2, head_epochs=1)
    session = session_for(config, "scan")
    begun = clock.now
    stored = StoredFeatures(torch.randn(tiny.size, 4))
    _, epochs = cluster_heads.train_heads(stored, pairs, config, session)
    # 0.7 s are measured; 0.3 of half of 60 s less that and 5 s are then planned for.
    assert epochs == 20  # that are trained of the 81 planned
    assert clock.now - begun == pytest.approx(0.7 + 0.15 * 54.3, abs=1)
    assert session.time_used == 1


def test_scan_returns_the_moving_average_where_one_is_asked_for():
    config = ScanConfig(run="tiny", epochs=1, batch_size=8, heads=1, clusters=3, ema_decay=0.5)
    tiny, model = Tiny(), classifier(heads=1)
    session = session_for(config, "scan")
    average = training_loops.train_scan(model, tiny.images, tiny.pairs, config, session)
    assert average is not model and not torch.equal(weights(average), weights(model))


def test_reliable_labels_teach_although_no_prediction_is_confident(capsys):
    config = SelfLabelConfig(
        run="tiny", epochs=2, batch_size=16, threshold=0.999999, reliable_share=0.5
    )
    tiny, model = Tiny(), classifier(heads=1)
    before = weights(model)
    session = session_for(config, "selflabel")
    training_loops.train_self_label(model, tiny.images, tiny.neighbors, config, session)
    assert not torch.equal(weights(model), before)
    assert 0 < session.history[0]["reliable"] <= 0.5


def test_what_a_single_step_has_learned_is_not_thrown_away(monkeypatch):
    """So few steps leave no past to average: the average is then the model."""
    monkeypatch.setattr("src_py.run.planning._seconds_per_image", lambda *_: 100.0)
    config = SelfLabelConfig(run="tiny", minutes=1, batch_size=16, threshold=0, ema_decay=0.9)
    model = classifier(heads=1)
    before = weights(model)
    session = session_for(config, "selflabel")
    final = training_loops.train_self_label(model, Tiny().images, Tiny().neighbors, config, session)
    assert torch.equal(weights(final), weights(model)) and not torch.equal(weights(final), before)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_self_label_counts_a_step_without_pseudo_labels_and_goes_on(ema_decay, capsys):
    config = SelfLabelConfig(
        run="tiny", epochs=2, batch_size=16, threshold=0.999999, ema_decay=ema_decay
    )
    model = classifier(heads=1)
    before = weights(model)
    session = session_for(config, "selflabel")
    final = training_loops.train_self_label(model, Tiny().images, Tiny().neighbors, config, session)
    assert torch.equal(weights(final), before)
    said = capsys.readouterr().out
    assert "epoch 2/2: 0.0% reliable" in said
    assert "2 steps skipped" in said


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_self_label_learns_from_confident_samples(ema_decay, capsys):
    config = SelfLabelConfig(run="tiny", epochs=2, batch_size=16, threshold=0, ema_decay=ema_decay)
    model = classifier(heads=1)
    before = weights(model)
    session = session_for(config, "selflabel")
    final = training_loops.train_self_label(model, Tiny().images, Tiny().neighbors, config, session)
    assert (final is model) == (ema_decay == 0)
    assert not torch.equal(weights(final), before)
    said = capsys.readouterr().out
    assert "100.0% reliable" in said and "of 3 clusters alive" in said


def test_infer_leaves_batch_statistics_alone_and_does_not_depend_on_the_batch():
    tiny, model = Tiny(), classifier()
    before = {name: value.clone() for name, value in model.named_buffers()}
    hardware = choose_hardware("cpu")
    model.train()
    whole, parts = (
        torch.cat(list(inference.infer(model, tiny.images, hardware, size)), 1) for size in (32, 5)
    )
    torch.testing.assert_close(whole, parts, rtol=0.02, atol=0.02)  # bfloat16 where there is
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_cosine_schedule_rises_then_falls_to_zero():
    schedule = [optimizers.warmup_cosine(step / 100, 0.1) for step in range(101)]
    assert schedule[0] == 0 and schedule[10] == 1 and schedule[100] < 1e-9
    assert schedule[:11] == sorted(schedule[:11])
    assert schedule[10:] == sorted(schedule[10:], reverse=True)
    assert optimizers.warmup_cosine(0, 0) == 1


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_rate_follows_whichever_is_ahead_the_epochs_or_the_clock(warmup):
    config = SimCLRConfig(
        run="tiny", epochs=10, batch_size=8, learning_rate=64.0, warmup_epochs=warmup
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    schedule = planning.asked_for(config, images=32)  # four steps an epoch
    follows = optimizers.PretextRate(optimizer, config, schedule)

    def rate(epoch, step, time_used):
        follows.set(epoch + step / 4, time_used)
        return optimizer.param_groups[0]["lr"]

    peak = 64 * 8 / 512
    assert rate(2, 2, 0.0) == rate(2, 2, 0.25) == rate(0, 0, 0.25) == rate(1, 3, 0.25)
    assert rate(2, 2, 0.25) == pytest.approx(
        peak * optimizers.warmup_cosine(0.25, warmup / config.epochs)
    )
    assert rate(5, 0, 0.4) == rate(5, 0, 0) > rate(5, 0, 0.6) == rate(6, 0, 0.6)
    assert rate(3, 0, 1.0) == pytest.approx(0, abs=1e-9)
    if warmup:
        assert rate(0, 0, 0.1) == pytest.approx(peak / 2)  # the clock is ahead of a warm-up too


@pytest.mark.parametrize(("views", "peak"), [(None, 0.1), (2, 0.1), (4, 0.2)])
def test_the_rate_is_in_proportion_to_the_views_of_a_step(views, peak):
    config = SimCLRConfig(run="tiny", batch_size=128, learning_rate=0.4, views=views)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    follows = optimizers.PretextRate(optimizer, config, planning.asked_for(config, images=500))
    assert follows.peak == pytest.approx(peak)


class SlowImages(ResidentImages):
    """Every image takes its time."""

    def __init__(self, images, clock, seconds_per_image):
        super().__init__(images, CPU)
        self.clock, self.seconds_per_image = clock, seconds_per_image

    def batches(self, index_batches):
        for indices, batch in super().batches(index_batches):
            yield indices, batch
            self.clock.now += self.seconds_per_image * indices.numel()


def train_slowly(stage, monkeypatch, seconds, store_seconds=0, **options):
    """Nine epochs of four steps are asked for; a step takes a second.

    Args:
        store_seconds: that a resumable state takes, of which there is one after every epoch.
    """
    clock, tiny = Clock(monkeypatch), Tiny()
    images = SlowImages(tiny.images.images, clock, 1 / 16 if stage == "scan" else 1 / 8)
    configs = {"simclr": SimCLRConfig, "moco": MoCoConfig, "scan": ScanConfig}
    config = configs.get(stage, SelfLabelConfig)(
        run="tiny", epochs=9, batch_size=8, checkpoint_seconds=0, **options
    )
    session = session_for(config, stage)

    # What is tried before the first epoch would take its time too.
    monkeypatch.setattr(planning, "_seconds_per_image", lambda *_: 1.0)

    def store(*_):
        clock.now += store_seconds

    monkeypatch.setattr(session, "_store", store)
    session.end_training_in(seconds)
    if stage == "simclr":
        model = ContrastiveModel(SPEC, 16)
        training_loops.train_simclr(model, images, config, session)
    elif stage == "moco":
        model = ContrastiveModel(SPEC, config.projection_dim)
        training_loops.train_moco(model, images, config, session)
    elif stage == "scan":
        model = classifier(config.clusters)
        training_loops.train_scan(model, images, tiny.pairs, config, session)
    else:
        model = classifier(heads=1)
        training_loops.train_self_label(model, images, tiny.neighbors, config, session)
    return session


@pytest.mark.parametrize("stage", ["scan", "selflabel"])
def test_a_classifier_trains_at_the_rate_that_its_schedule_makes_of_the_options(monkeypatch, stage):
    made, build = [], training_loops.classifier_optimizer

    def plan(steps, trained, images, config, *_):
        return replace(planning.asked_for(config, len(images)), rate_factor=3.0)

    monkeypatch.setattr(training_loops, "plan", plan)
    monkeypatch.setattr(
        training_loops, "classifier_optimizer", lambda *given: made.append(build(*given)) or made[0]
    )
    train_slowly(stage, monkeypatch, seconds=6, learning_rate=1e-3)
    assert made[0].param_groups[0]["lr"] == pytest.approx(3e-3)


STAGES = ("simclr", "moco", "scan", "selflabel")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ends_by_the_clock(monkeypatch, capsys, stage):
    session = train_slowly(stage, monkeypatch, seconds=6)
    assert session.seconds == 6
    assert [row["epoch"] for row in session.history] == [1, 2]
    assert f"{stage}: the time is up in epoch 2" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_a_late_stage_takes_one_step(monkeypatch, stage):
    session = train_slowly(stage, monkeypatch, seconds=-5)
    assert session.seconds == 1
    assert [row["epoch"] for row in session.history] == [1]


@pytest.mark.parametrize("stage", STAGES)
def test_the_time_may_be_up_between_two_epochs(monkeypatch, stage):
    """An epoch of no step is none: it has no loss and no health to tell."""
    session = train_slowly(stage, monkeypatch, seconds=6, store_seconds=3)
    assert session.history[-1]["images_per_second"] > 0
    assert all("loss" in row for row in session.history)


def test_the_time_may_be_up_while_reliable_labels_are_found(monkeypatch):
    # Looks from 0 to 4 s and from 8 to 12 s, training from 4 to 8 s.
    options = {"reliable_share": 0.5, "refresh_epochs": 1}
    session = train_slowly("selflabel", monkeypatch, seconds=10, **options)
    assert all("loss" in row for row in session.history)


def test_the_average_moves_by_one_minus_decay():
    average, model = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.zeros_(average.weight)
    model.running_mean.fill_(7)
    optimizers.update_average(average, model, decay=0.9)
    torch.testing.assert_close(average.weight.data, torch.full((2,), 0.1))
    assert average.running_mean.tolist() == [7, 7]
    average.running_mean.zero_()
    optimizers.update_average(average, model, decay=0.9, buffers=False)
    assert average.running_mean.tolist() == [0, 0]
