"""What each step is made of: which view meets which, whose answer teaches whom, what is judged.

The losses and views have tests of their own; here they are replaced by ones that only remember.
"""

from types import SimpleNamespace

import pytest
import torch

from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py import training_loops
from src_py.augmentation import PLAIN_VIEW, STRONG_VIEW, Augmentation
from src_py.backbones import BackboneSpec, ResNet18
from src_py.cluster_heads import head_steps, train_heads
from src_py.clusters.number import ClusterNumberStudy
from src_py.images.loaders import ResidentImages
from src_py.losses import UNRELIABLE, ScanLoss, SelfLabelLoss, scan_loss
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel, KeyQueue
from src_py.neighbor_pairs import NeighborPairs
from src_py.optimizers import adam, descend, pretext_optimizer
from src_py.pseudo_labels import PseudoLabels
from src_py.run.hardware import Hardware
from src_py.run.session import TrainingSession
from src_py.stored_features import StoredFeatures
from src_py.transforms import normalize, to_float

CPU = torch.device("cpu")
FLOAT32 = Hardware(CPU, precision=None)
MEAN, STD = (0.2, 0.5, 0.7), (0.3, 0.2, 0.1)
SPEC = BackboneSpec(width=4, channels=3, small_stem=True)
IMAGES = 12


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pixels():
    """Images that all differ."""
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (IMAGES, 3, 8, 8), generator=random, dtype=torch.uint8)


def contrastive():
    torch.manual_seed(0)
    model = ContrastiveModel(SPEC, projection_dim=8)
    model.backbone.set_statistics(MEAN, STD)
    return model


def classifier(clusters=3, heads=1):
    torch.manual_seed(0)
    model = ClusteringModel(ResNet18(SPEC), ClusterHeads(32, clusters, heads))
    model.backbone.set_statistics(MEAN, STD)
    return model


def seen_by(model):
    """What the model will be shown, call by call."""
    shown = []
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    return shown


def generator():
    return torch.Generator().manual_seed(1)


def as_seen(pixels):
    """The plain images, as a network must see them."""
    return normalize(to_float(pixels), MEAN, STD)


def changed(shown, pixels):
    """(B,) whether each image differs from its plain view."""
    return (shown != as_seen(pixels)).flatten(1).any(dim=1)


def remember(monkeypatch, name, result):
    """Puts a function in the place of a loss; returns what it was called with."""
    calls = []

    def loss(*arguments, **options):
        calls.append(arguments)
        return result(*arguments, **options)

    monkeypatch.setattr(training_loops, name, loss)
    return calls


# --- pretext -------------------------------------------------------------------------------------


def test_simclr_compares_two_views_of_the_same_images(monkeypatch, pixels):
    compared = remember(monkeypatch, "nt_xent", lambda views, _: (views[0] - views[1]).sum())
    model = contrastive()
    shown = seen_by(model)
    config = SimCLRConfig(augment=PLAIN_VIEW)  # both views are then the image itself
    batches = [(torch.arange(5), pixels[:5])]
    steps = (model, pretext_optimizer(model, config), batches, generator(), config, FLOAT32)
    (step,) = training_loops.simclr_steps(*steps)
    assert step.images == 5
    assert torch.equal(shown[0], as_seen(pixels[:5]).repeat(2, 1, 1, 1))
    (first, second), temperature = compared[0]
    assert temperature == config.temperature
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first[0], first[1])


def test_simclr_compares_as_many_views_as_asked_for_of_the_side_asked_for(monkeypatch, pixels):
    compared = remember(monkeypatch, "nt_xent", lambda views, _: torch.stack(views).sum())
    model = contrastive()
    shown = seen_by(model)
    config = SimCLRConfig(views=3, view_side=0.5)
    batches = [(torch.arange(5), pixels[:5])]
    steps = (model, pretext_optimizer(model, config), batches, generator(), config, FLOAT32)
    (step,) = training_loops.simclr_steps(*steps)
    assert step.images == 5
    side = pixels.shape[-1] // 2
    assert shown[0].shape == (15, *pixels.shape[1:2], side, side)
    views, _ = compared[0]
    assert [len(view) for view in views] == 3 * [5]
    assert not torch.allclose(shown[0][:5], shown[0][5:10])


def test_the_two_views_of_simclr_are_drawn_apart(pixels):
    model = contrastive()
    shown = seen_by(model)
    config = SimCLRConfig()
    batches = [(torch.arange(5), pixels[:5])]
    list(
        training_loops.simclr_steps(
            model, pretext_optimizer(model, config), batches, generator(), config, FLOAT32
        )
    )
    first, second = shown[0].chunk(2)
    assert (first != second).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("batch_size", [4, 12])
def test_the_pretext_begins_at_its_full_rate(pixels, batch_size):
    config = SimCLRConfig(run="mine", epochs=1, batch_size=batch_size, learning_rate=0.4)
    model = contrastive()
    rates = []
    optimizer_step = torch.optim.SGD.step

    def step(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return optimizer_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        session = TrainingSession(config, "simclr", FLOAT32)
        training_loops.train_simclr(model, ResidentImages(pixels, CPU), config, session)
    taken = rates[2:]  # after the two that are tried
    assert taken[0] == pytest.approx(0.4 * batch_size / 512)
    assert taken == sorted(taken, reverse=True) and len(taken) == IMAGES / batch_size


@pytest.fixture
def moco(monkeypatch, pixels):
    """One step of MoCo: its parts, and what its loss was called with."""
    model, target = contrastive(), contrastive()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(0.5)  # keys that cannot be taken for the model's own
    compared = remember(monkeypatch, "info_nce", lambda q, k, queue, t: (q - k).square().sum())
    config = MoCoConfig(target_decay=0.75)
    queue = KeyQueue(7, 8)
    asked, answered = seen_by(model), seen_by(target)
    before = [[p.clone() for p in each.parameters()] for each in (target, model)]
    old_keys = queue.keys.clone()
    batches = [(torch.arange(5), pixels[:5])]
    parts = (model, target, queue, pretext_optimizer(model, config), batches)
    (step,) = training_loops.moco_steps(*parts, generator(), config, FLOAT32)
    return SimpleNamespace(**locals())


def test_moco_asks_each_view_for_the_key_of_the_other(moco):
    assert torch.equal(moco.asked[0], moco.answered[0])
    (first, second_keys, *_), (second, first_keys, *_) = moco.compared
    views = moco.asked[0]
    with torch.no_grad():
        target = contrastive()
        for parameter in target.parameters():
            parameter.mul_(0.5)
        expected_first, expected_second = target.train()(views).chunk(2)
    torch.testing.assert_close(first_keys, expected_first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second_keys, expected_second, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, second) and not torch.allclose(first_keys, second_keys)
    assert not second_keys.requires_grad and first.requires_grad


def test_mocos_queue_takes_the_keys_in_and_lets_the_oldest_go(moco):
    keys = torch.cat([moco.compared[1][1], moco.compared[0][1]])  # of the first, then second view
    expected = torch.nn.functional.normalize(keys, dim=1)[:7]
    torch.testing.assert_close(moco.queue.keys, expected)
    assert all(torch.equal(call[2], moco.queue.keys) for call in moco.compared)  # the same buffer
    moco.queue.push(keys[:2])
    torch.testing.assert_close(moco.queue.keys[2:], expected[:5])


def test_mocos_target_follows_the_model(moco):
    targets, models = moco.before
    now, followed = list(moco.model.parameters()), list(moco.target.parameters())
    for old, new, model in zip(targets, followed, now, strict=True):
        torch.testing.assert_close(new.data, 0.75 * old + 0.25 * model.data)
    assert not all(old.equal(new) for old, new in zip(models, now, strict=True))


# --- SCAN ----------------------------------------------------------------------------------------


class RememberingImages(ResidentImages):
    """Images that know which rows were asked for."""

    def batches(self, index_batches):
        self.asked = [rows.clone() for rows in index_batches]
        return super().batches(self.asked)


def test_scan_draws_every_image_with_a_neighbor_of_its_own(pixels):
    neighbors = (torch.arange(IMAGES)[:, None] + torch.tensor([1, 2])) % IMAGES
    images = RememberingImages(pixels, CPU)
    config = ScanConfig(run="mine", epochs=1, batch_size=5, clusters=3)
    session = TrainingSession(config, "scan", FLOAT32)
    pairs = NeighborPairs.of(neighbors.numpy(), CPU)
    training_loops.train_scan(classifier(), images, pairs, config, session)
    anchors, drawn = torch.cat(images.asked, dim=1)
    assert anchors.sort().values.equal(torch.arange(IMAGES))
    assert ((drawn - anchors) % IMAGES).unique().tolist() == [1, 2]


@pytest.mark.parametrize("plain", [False, True])
def test_a_plain_neighbor_is_seen_as_it_is_and_its_image_in_a_strong_view(pixels, plain):
    model = classifier()
    shown = seen_by(model)
    config = ScanConfig(plain_neighbors=plain, clusters=3)
    batches = [(torch.arange(8).view(2, 4), pixels[:8])]
    parts = (model, adam(model, config), batches, generator(), config, FLOAT32)
    (step,) = training_loops.scan_steps(*parts)
    assert step.images == 4 and step.logits.shape == (1, 4, 3)
    apart = changed(shown[0], pixels[:8])
    assert apart[:4].all()  # the anchors
    assert apart[4:].any() == (not plain)


@pytest.mark.parametrize("plain", [False, True])
def test_scan_learns_the_same_where_views_of_several_batches_are_made_at_once(
    monkeypatch, pixels, plain
):
    def losses(images_at_once):
        monkeypatch.setattr(Hardware, "images_at_once", lambda *_: images_at_once)
        model = classifier()
        config = ScanConfig(clusters=3, augment=PLAIN_VIEW, plain_neighbors=plain)
        pairs = [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5, 6], [7, 8, 9]])] * 2
        batches = [(rows, pixels[rows.flatten()]) for rows in pairs]
        parts = (model, adam(model, config), batches, generator(), config, FLOAT32)
        steps = list(training_loops.scan_steps(*parts))
        assert [step.images for step in steps] == [2, 3, 2, 3]
        return torch.stack([step.values["loss"] for step in steps])

    assert torch.equal(losses(1), losses(8))  # the second batch fills a group, as does the fourth


def test_scan_compares_an_anchor_with_its_own_neighbor(monkeypatch, pixels):
    compared = remember(monkeypatch, "scan_loss", scan_loss)
    model = classifier(heads=2)
    config = ScanConfig(clusters=3, heads=2, augment=PLAIN_VIEW, entropy_weight=3.5, evenness=0.9)
    pair = torch.cat([pixels[:4], pixels[:4]])  # every image is its own neighbor
    batches = [(torch.arange(8).view(2, 4), pair)]
    parts = (model, adam(model, config), batches, generator(), config, FLOAT32)
    (step,) = training_loops.scan_steps(*parts)
    anchors, neighbors, *weights = compared[0]
    torch.testing.assert_close(anchors, neighbors)
    assert weights == [3.5, 0.9] and torch.equal(step.logits, anchors)
    assert not torch.allclose(anchors[:, 0], anchors[:, 1])
    expected = scan_loss(anchors, neighbors, 3.5, 0.9)
    for name, value in zip(("loss", "consistency", "entropy"), expected, strict=True):
        torch.testing.assert_close(step.values[name], value)


def test_scan_goes_down_the_gradient_of_all_heads(monkeypatch, pixels):
    """The loss is the sum over the heads, whichever is the best."""
    model = classifier(heads=3)

    def loss(anchors, *_):
        each = anchors.mean(dim=(1, 2))  # (H,)
        return ScanLoss(each, each, each)

    remember(monkeypatch, "scan_loss", loss)
    config = ScanConfig(clusters=3, heads=3)
    before = model.heads.linear.bias.detach().clone()
    parts = (model, adam(model, config), [(torch.arange(8).view(2, 4), pixels[:8])])
    list(training_loops.scan_steps(*parts, generator(), config, FLOAT32))
    assert (model.heads.linear.bias < before).all()


def test_the_average_follows_step_by_step(pixels):
    config = ScanConfig(run="mine", epochs=1, batch_size=6, clusters=3, ema_decay=0.5)
    model = classifier()
    averages = [model.heads.linear.bias.detach().clone()]
    steps = training_loops.scan_steps

    def remembering(*arguments, **options):
        for step in steps(*arguments, **options):
            yield step
            averages.append(0.5 * averages[-1] + 0.5 * model.heads.linear.bias.detach())

    pairs = NeighborPairs.of(torch.arange(IMAGES).roll(1)[:, None].numpy(), CPU)
    session = TrainingSession(config, "scan", FLOAT32)
    images = ResidentImages(pixels, CPU)
    with pytest.MonkeyPatch.context() as patch:
        # What is tried before the first epoch must not be remembered.
        patch.setattr("src_py.run.planning._seconds_per_image", lambda *_: 1.0)
        patch.setattr(training_loops, "scan_steps", remembering)
        average = training_loops.train_scan(model, images, pairs, config, session)
    assert len(averages) == 3
    torch.testing.assert_close(average.heads.linear.bias.data, averages[-1])
    assert not torch.equal(averages[-1], model.heads.linear.bias.data)


# --- heads alone, and the number of clusters -----------------------------------------------------


def test_heads_alone_see_an_image_and_a_neighbor_of_its_own():
    features = torch.eye(6) * 5
    stored = StoredFeatures(features)
    neighbors = (torch.arange(6)[:, None] + 1) % 6
    pairs = NeighborPairs.of(neighbors.numpy(), CPU)
    heads = ClusterHeads(6, 3, heads=2)
    shown = seen_by(heads)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    batch = torch.tensor([4, 1])
    steps = head_steps(heads, optimizer, stored, pairs, [batch] * 30, generator(), 5.0)
    first, *_, last = (float(loss.total.detach().sum()) for loss in steps)
    assert torch.equal(shown[0], features[[4, 1, 5, 2]])
    assert last < first - 1


def test_the_heads_of_lowest_loss_go_on():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=random)
    pairs = NeighborPairs.of(torch.randint(40, (40, 3), generator=random).numpy(), CPU)
    kept = {}
    for count in (6, 2):
        torch.manual_seed(0)
        config = ScanConfig(run="mine", clusters=3, heads=count, candidate_heads=6, head_epochs=1)
        session = TrainingSession(config, "scan", FLOAT32)
        kept[count], epochs = train_heads(StoredFeatures(features), pairs, config, session)
        assert epochs == 600  # of one step each
    totals = pairs.loss([kept[6](features).detach()], config.entropy_weight).total
    assert totals.tolist() == sorted(totals.tolist()) and totals[0] < totals[-1]
    torch.testing.assert_close(kept[2](features), kept[6](features)[:2])


def test_heads_are_judged_on_images_that_they_were_not_trained_on(monkeypatch):
    random = torch.Generator().manual_seed(0)
    pairs = NeighborPairs.of(torch.randint(40, (40, 3), generator=random).numpy(), CPU)
    study = ClusterNumberStudy(torch.randn(40, 5, generator=random), pairs, images=40, seed=0)
    rows = []
    drawn_loss = NeighborPairs.drawn_loss

    def remembering(self, heads, stored, anchors, *arguments):
        rows.append(set(anchors.tolist()))
        return drawn_loss(self, heads, stored, anchors, *arguments)

    monkeypatch.setattr(NeighborPairs, "drawn_loss", remembering)
    study._train(clusters=3, trial=0)
    *trained, judged = rows
    assert len(judged) == 20 and not judged & set.union(*trained)
    assert judged | set.union(*trained) == set(range(40))


# --- self-labelling ------------------------------------------------------------------------------

WEAK = Augmentation(translate=0.2)


@pytest.fixture
def self_labelling(monkeypatch, pixels):
    """One step of self-labelling, with a teacher apart from the model."""
    model, teacher = classifier(), classifier()
    with torch.no_grad():
        teacher.heads.linear.weight.mul_(-3)
    taught = remember(monkeypatch, "self_label_loss", lambda weak, strong, *_: _loss_of(strong))
    learned_from, answered = seen_by(model), seen_by(teacher)
    config = SelfLabelConfig(
        threshold=0.7, balanced=False, weak_augment=PLAIN_VIEW, strong_augment=STRONG_VIEW
    )
    pseudo_labels = PseudoLabels(IMAGES, CPU)
    pseudo_labels.reliable = torch.arange(IMAGES) % 3
    rows = torch.tensor([7, 2, 11, 3])
    optimizer = adam(model, config)
    batches = [(rows, pixels[rows])]
    parts = (model, teacher, pseudo_labels, optimizer, batches)
    (step,) = training_loops.self_label_steps(*parts, generator(), config, FLOAT32)
    return SimpleNamespace(**locals())


def _loss_of(strong_logits):
    return SelfLabelLoss(strong_logits.square().sum(), torch.tensor(2))


def test_the_teacher_sees_the_weak_view_and_the_model_the_strong_one(self_labelling, pixels):
    rows = pixels[self_labelling.rows]
    assert torch.equal(self_labelling.answered[0], as_seen(rows))
    assert changed(self_labelling.learned_from[0], rows).all()


def test_the_teachers_answers_teach_and_it_stays_as_it_is(self_labelling):
    weak, strong, threshold, balanced, _ = self_labelling.taught[0]
    with torch.no_grad():
        expected = self_labelling.teacher.eval()(self_labelling.answered[0])[0]
    torch.testing.assert_close(weak, expected)
    assert not weak.requires_grad and strong.requires_grad
    assert (threshold, balanced) == (0.7, False)
    assert torch.equal(self_labelling.step.logits[0], weak)
    assert self_labelling.step.values["kept"] == 0.5


def test_reliable_labels_go_to_their_own_images(self_labelling):
    *_, reliable = self_labelling.taught[0]
    assert reliable.tolist() == [7 % 3, 2 % 3, 11 % 3, 3 % 3]


def test_a_step_without_a_pseudo_label_changes_nothing(monkeypatch, pixels):
    """Not even by the moments of earlier steps."""
    model = classifier()
    config = SelfLabelConfig()
    optimizer = adam(model, config)
    descend(optimizer, model(as_seen(pixels)).square().sum())
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def loss(weak, strong, *_):
        return SelfLabelLoss(0 * strong.sum(), torch.tensor(0))

    remember(monkeypatch, "self_label_loss", loss)
    parts = (model, model, PseudoLabels(IMAGES, CPU), optimizer)
    batches = [(torch.arange(4), pixels[:4])]
    (step,) = training_loops.self_label_steps(*parts, batches, generator(), config, FLOAT32)
    assert step.values["skipped"] == 1
    assert all(old.equal(new) for old, new in zip(before, model.parameters(), strict=True))


def test_self_labelling_learns_the_same_where_views_of_several_batches_are_made_at_once(
    monkeypatch, pixels
):
    def logits(images_at_once):
        monkeypatch.setattr(Hardware, "images_at_once", lambda *_: images_at_once)
        model = classifier()
        plain = {"weak_augment": PLAIN_VIEW, "strong_augment": PLAIN_VIEW}
        config = SelfLabelConfig(threshold=0.3, **plain)
        batches = [(rows, pixels[rows]) for rows in torch.randperm(IMAGES).split(5)]
        parts = (model, model, PseudoLabels(IMAGES, CPU), adam(model, config), batches)
        steps = training_loops.self_label_steps(*parts, generator(), config, FLOAT32)
        return torch.cat([step.logits for step in steps], dim=1)

    torch.manual_seed(0)
    one_by_one = logits(1)
    assert one_by_one.shape == (1, IMAGES, 3)
    torch.manual_seed(0)
    assert torch.equal(one_by_one, logits(100))


def test_reliable_labels_are_found_by_the_teacher_and_renewed(monkeypatch, pixels):
    config = SelfLabelConfig(
        run="mine", epochs=5, batch_size=6, reliable_share=0.5, refresh_epochs=2, ema_decay=0.9
    )
    renewed = []
    model = classifier()

    def renew(self, logits, neighbors, share):
        renewed.append((logits.shape, share))
        self.reliable = torch.full((IMAGES,), UNRELIABLE)

    asked = []
    all_logits = training_loops.all_logits

    def remembering(model, *arguments):
        asked.append(model)
        return all_logits(model, *arguments)

    monkeypatch.setattr(PseudoLabels, "renew", renew)
    monkeypatch.setattr(training_loops, "all_logits", remembering)
    session = TrainingSession(config, "selflabel", FLOAT32)
    neighbors = torch.arange(IMAGES).roll(1)[:, None]
    images = ResidentImages(pixels, CPU)
    teacher = training_loops.train_self_label(model, images, neighbors, config, session)
    assert renewed == [((IMAGES, 3), 0.5)] * 3  # before the epochs 0, 2 and 4
    assert teacher is not model and all(each is teacher for each in asked)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_what_a_person_has_said_is_taught_in_every_epoch(monkeypatch, pixels, share):
    """Whatever the teacher says, and whatever else is found reliable."""
    taught = remember(monkeypatch, "self_label_loss", lambda weak, strong, *_: _loss_of(strong))
    config = SelfLabelConfig(
        run="mine", epochs=3, batch_size=IMAGES, reliable_share=share, refresh_epochs=1
    )
    given = torch.full((IMAGES,), UNRELIABLE)
    given[[2, 7, 9]] = torch.tensor([0, 2, 1])
    neighbors = torch.arange(IMAGES).roll(1)[:, None]
    images = RememberingImages(pixels, CPU)
    session = TrainingSession(config, "selflabel", FLOAT32)
    training_loops.train_self_label(classifier(), images, neighbors, config, session, given)
    *_, reliable = taught[-1]
    (rows,) = images.asked
    assert reliable[rows.argsort()][[2, 7, 9]].tolist() == [0, 2, 1]
    assert (reliable != UNRELIABLE).sum() > 3 or share == 0
