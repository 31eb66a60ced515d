"""Evidence without labels: its values where they are known, and what is kept by it."""

import csv
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances_argmin
from torch import nn
from torch.nn import functional as F

from src_py.augmentation import Augmentation
from src_py.clusters import guard
from src_py.images.loaders import ResidentImages
from src_py.models import ClusterHeads, ClusteringModel
from src_py.run.checkpoints import load_checkpoint
from src_py.run.files import load_json
from src_py.run.hardware import Hardware
from src_py.run.stages import evidence_looks
from tests.conftest import TINY

CPU = torch.device("cpu")
HEAD = {"heads.linear.weight", "heads.linear.bias"}
KINDS, IMAGES = 3, 60  # kind k is images k, k + 3, k + 6, ...


def naive_information(first, second):
    """In nats, term by term."""
    total = 0.0
    for a in set(first):
        for b in set(second):
            both = np.mean((first == a) & (second == b))
            if both:
                total += both * math.log(both / np.mean(first == a) / np.mean(second == b))
    return total


def same_kind_neighbors():
    steps = KINDS * torch.tensor([1, 2, 5, 7])
    return (torch.arange(IMAGES)[:, None] + steps) % IMAGES


def test_information_is_never_negative():
    """Four images alone, each nobody's neighbor, beside one cluster: rounding takes it below 0."""
    for images in range(3700, 3800):
        assigned = torch.zeros(images, dtype=torch.long)
        assigned[:4] = torch.arange(1, 5)
        neighbors = torch.full((images, 20), 10)
        assert guard.neighbor_information(assigned, neighbors) >= 0


@pytest.mark.parametrize("clusters", [2, 3, 7])
def test_information_of_pairs_equals_its_definition(clusters):
    random = np.random.default_rng(clusters)
    first = random.integers(0, clusters, 500)
    second = np.where(random.random(500) < 0.6, first, random.integers(0, clusters, 500))
    found = guard.pair_information(torch.from_numpy(first), torch.from_numpy(second), clusters)
    assert found == pytest.approx(naive_information(first, second), abs=1e-12)
    more = guard.pair_information(torch.from_numpy(first), torch.from_numpy(second), clusters + 5)
    assert more == pytest.approx(found, abs=1e-12)  # clusters without an image


def test_information_of_neighbors_equals_its_definition():
    random = np.random.default_rng(0)
    assigned, neighbors = random.integers(0, 5, 200), random.integers(0, 200, (200, 7))
    found = guard.neighbor_information(torch.from_numpy(assigned), torch.from_numpy(neighbors))
    expected = naive_information(np.repeat(assigned, 7), assigned[neighbors].ravel())
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("clusters", [2, 3, 12])
def test_even_clusters_that_all_neighbors_share_tell_log_c(clusters):
    assigned = torch.arange(12 * 20) % clusters
    neighbors = (torch.arange(240)[:, None] + 12 * torch.arange(1, 6)) % 240
    found = guard.neighbor_information(assigned, neighbors)
    assert found == pytest.approx(math.log(clusters), abs=1e-12)


def test_one_cluster_tells_nothing():
    neighbors = same_kind_neighbors()
    assert guard.neighbor_information(torch.zeros(IMAGES, dtype=torch.long), neighbors) == 0
    assert guard.neighbor_information(torch.full((IMAGES,), 4), neighbors) == 0


def test_random_clusters_tell_next_to_nothing():
    random = torch.Generator().manual_seed(0)
    assigned = torch.randint(5, (4000,), generator=random)
    neighbors = torch.randint(4000, (4000, 10), generator=random)
    assert 0 <= guard.neighbor_information(assigned, neighbors) < 0.005


def test_uneven_clusters_tell_less_than_even_ones_and_mixed_ones_less_than_pure():
    neighbors, kinds = same_kind_neighbors(), torch.arange(IMAGES) % KINDS
    pure = guard.neighbor_information(kinds, neighbors)
    merged = guard.neighbor_information(kinds.clamp(max=1), neighbors)
    mixed = kinds.clone()
    mixed[::10] = 0
    assert pure > guard.neighbor_information(mixed, neighbors) > 0
    assert pure > merged > 0


def blobs(overlap, size=400, dim=6, clusters=4, offset=0.0):
    """Features around `clusters` directions, of random length, and three neighbors of each."""
    random = torch.Generator().manual_seed(0)
    kinds = torch.arange(size) % clusters
    features = torch.eye(dim)[kinds] + overlap * torch.randn(size, dim, generator=random) + offset
    features *= 1 + 9 * torch.rand(size, 1, generator=random)
    steps = clusters * torch.randint(1, size // clusters, (size, 3), generator=random)
    return features, (torch.arange(size)[:, None] + steps) % size, kinds


def centers_of(head):
    """logit_c = (2 z m_c - |m_c|^2) / T: the centers m and T, from the weights."""
    weight, bias = head.linear.weight.detach(), head.linear.bias.detach()
    temperature = -4 * bias / weight.square().sum(dim=1)
    torch.testing.assert_close(temperature, temperature[:1].expand_as(temperature))
    return weight * temperature[:, None] / 2, float(temperature[0])


@pytest.mark.parametrize("offset", [0.0, 30.0])  # all features in nearly one direction
@pytest.mark.parametrize("clusters", [2, 4, 9])
def test_the_head_assigns_to_the_nearest_center(clusters, offset):
    features, neighbors, _ = blobs(overlap=0.5, offset=offset)
    head = guard.kmeans_head(features, neighbors, clusters, seed=0)
    assert (head.clusters, head.heads, head.space.normalized) == (clusters, 1, True)
    logits = head(features)[0].detach()
    centers, _ = centers_of(head)
    unit = F.normalize(features, dim=1)
    nearest = pairwise_distances_argmin(unit.double().numpy(), centers.double().numpy())
    distances = torch.cdist(unit.double(), centers.double()).sort(dim=1).values
    clear = distances[:, 1] - distances[:, 0] > 1e-5  # beyond float32
    assert clear.float().mean() > 0.98
    assert torch.equal(logits.argmax(dim=1)[clear], torch.from_numpy(nearest)[clear])
    # They are what k-means ends with: the mean of what is nearest to them.
    for cluster in range(clusters):
        mean = unit[logits.argmax(dim=1) == cluster].mean(dim=0)
        torch.testing.assert_close(centers[cluster], mean, atol=0.02, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_heads_confidence_is_the_agreement_of_neighbors(offset):
    features, neighbors, _ = blobs(overlap=0.5, offset=offset)
    head = guard.kmeans_head(features, neighbors, 4, seed=0)
    logits = head(features)[0].detach()
    found = logits.argmax(dim=1)
    agreement = (found[neighbors] == found[:, None]).float().mean().item()
    assert 0.3 < agreement < 0.95
    confidence = logits.softmax(dim=1).amax(dim=1).mean().item()
    assert confidence == pytest.approx(agreement, abs=1e-3)


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**31, 2**32 - 1])
def test_kmeans_finds_separate_groups_with_any_seed(seed):
    features, neighbors, kinds = blobs(overlap=0.05, clusters=2)
    head = guard.kmeans_head(features, neighbors, 2, seed)
    found = head(features)[0].argmax(dim=1)
    assert torch.equal(found, kinds) or torch.equal(found, 1 - kinds)
    information = guard.neighbor_information(found, neighbors)
    assert information == pytest.approx(math.log(2))


def test_kmeans_sees_a_sample_of_many_rows(monkeypatch):
    monkeypatch.setattr("src_py.clusters.kmeans.SAMPLE", 50)
    features, neighbors, _ = blobs(overlap=0.05)
    found = guard.kmeans_head(features, neighbors, 4, seed=0)(features)[0].argmax(dim=1)
    assert guard.neighbor_information(found, neighbors) == pytest.approx(math.log(4))


def test_more_clusters_than_the_sample_has_rows(monkeypatch):
    monkeypatch.setattr("src_py.clusters.kmeans.SAMPLE", 5)
    features, neighbors, _ = blobs(overlap=0.05)
    assert guard.kmeans_head(features, neighbors, 8, seed=0).clusters == 8


@pytest.fixture
def coloured():
    """Images of three colours, and a classifier that takes the strongest channel as the cluster."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(120, (IMAGES, 3, 8, 8), generator=random)
    pixels[torch.arange(IMAGES), torch.arange(IMAGES) % KINDS] += 100
    heads = ClusterHeads(3, KINDS, heads=1)
    with torch.no_grad():
        heads.linear.weight.copy_(torch.eye(KINDS))
        heads.linear.bias.zero_()
    means = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    means.statistics = (torch.full((3,), 0.5), torch.full((3,), 0.25))
    return ResidentImages(pixels.to(torch.uint8), CPU), ClusteringModel(means, heads)


def view_information(images, model, seed=0, hue=0.0):
    augmentation = Augmentation(flip=0.5, brightness=0.2, hue=hue, jitter_probability=1)
    views = guard.ImageViews(images, augmentation, Hardware(CPU, precision=None), 16)
    draw = torch.Generator().manual_seed(seed)
    return guard.view_information(model, views, same_kind_neighbors(), draw)


def test_views_that_keep_the_cluster_tell_log_c(coloured):
    assert view_information(*coloured) == pytest.approx(math.log(KINDS), abs=1e-9)


def test_views_tell_less_where_they_change_the_cluster_and_nothing_after_a_collapse(coloured):
    images, model = coloured
    whole, changed = view_information(images, model), view_information(images, model, hue=0.3)
    assert 0 < changed < whole - 0.1
    with torch.no_grad():
        model.heads.linear.bias[0] = 1.55  # the first cluster swallows images of the others
    assert 0 < view_information(images, model) < whole - 0.1
    with torch.no_grad():
        model.heads.linear.bias[0] = 99
    assert view_information(images, model) == 0


def test_the_names_of_clusters_do_not_matter(coloured):
    images, model = coloured
    before = view_information(images, model, hue=0.3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        model.heads.linear.weight.copy_(model.heads.linear.weight[order])
    assert view_information(images, model, hue=0.3) == pytest.approx(before, abs=1e-12)


def test_the_same_generator_gives_the_same_number(coloured):
    images, model = coloured
    first, again, other = (view_information(images, model, seed, hue=0.3) for seed in (1, 1, 2))
    assert first == again != other


def test_the_mode_of_the_classifier_does_not_matter(coloured):
    images, model = coloured
    model.backbone.append(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    numbers = [view_information(images, model.train(mode), hue=0.3) for mode in (True, False)]
    assert numbers[0] == numbers[1]


def test_balanced_evidence_weighs_plain_images_and_views_alike(coloured):
    """Clusters that are perfect on plain images but lost in views tell as much as the other way."""
    images, model = coloured
    logits = torch.eye(KINDS)[torch.arange(IMAGES) % KINDS]
    augmentation = Augmentation(flip=0.5, hue=0.3, jitter_probability=1)
    views = guard.ImageViews(images, augmentation, Hardware(CPU, precision=None), 16)
    seen, draw = (views, same_kind_neighbors()), torch.Generator()
    in_views = guard.view_information(model, *seen, draw.manual_seed(0))
    perfect = guard.Candidate(model, logits)
    found = guard.balanced_information(perfect, *seen, draw.manual_seed(0))
    assert found == pytest.approx(math.sqrt(math.log(KINDS) * in_views))
    lost = guard.Candidate(model, torch.zeros_like(logits))
    assert guard.balanced_information(lost, *seen, draw.manual_seed(0)) == 0


@pytest.mark.parametrize("images", [10, 60, 3333, 50_000])
def test_looks_are_counted_as_they_are_taken(images):
    """Two classifiers see a view of both images of every pair."""
    pairs = min(10_000, 3 * images)
    assert evidence_looks(images) * images == pytest.approx(2 * 2 * pairs)


def test_views_are_as_many_as_are_reckoned_with(coloured):
    images, model = coloured
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    view_information(images, model)
    assert 2 * sum(seen) == evidence_looks(IMAGES) * IMAGES


@pytest.mark.parametrize(
    ("scan", "guarded", "kept", "words"),
    [
        (2.0, True, "scan", []),
        (1.0, True, "scan", []),
        (0.99, True, "kmeans", ["warning", "--learning-rate", "--epochs", "--no-guard"]),
        (0.99, False, "scan", ["warning", "--learning-rate", "--epochs"]),
        (0.0, True, "kmeans", ["warning", "k-means is kept"]),
    ],
)
def test_scan_is_kept_unless_kmeans_is_better(scan, guarded, kept, words):
    said = []
    information = {"scan": scan, "kmeans": 1.0}
    assert guard.choose_scan_or_kmeans(information, guarded, said.append) == kept
    told = "\n".join(said)
    assert f"{scan:.3f} nats" in told and "1.000" in told
    assert all(word in told for word in words)
    assert ("warning" in told) == ("warning" in words)
    assert ("--no-guard" in told) == (kept == "kmeans")


def test_two_that_tell_nothing_are_no_reason_to_leave_scan():
    said = []
    information = {"scan": 0.0, "kmeans": 0.0}
    assert guard.choose_scan_or_kmeans(information, True, said.append) == "scan"
    assert "warning" not in said[0]


@pytest.mark.parametrize(
    ("selflabel", "guarded", "kept", "words"),
    [
        (1.1, True, "selflabel", []),
        (1.0, True, "selflabel", []),
        (0.99, True, "scan", ["warning", "--epochs", "--no-guard"]),
        (0.99, False, "selflabel", ["warning", "--epochs"]),
        (0.0, True, "scan", ["warning", "scan.py's classifier is kept"]),
    ],
)
def test_self_labelling_is_kept_unless_it_is_worse(selflabel, guarded, kept, words):
    said = []
    information = {"scan": 1.0, "selflabel": selflabel}
    assert guard.choose_by_views(information, guarded, said.append) == kept
    told = "\n".join(said)
    assert f"{selflabel:.3f} nats" in told and "1.000" in told
    assert all(word in told for word in words)
    assert ("warning" in told) == ("warning" in words)
    assert ("--no-guard" in told) == (kept == "scan")


def clusters_in(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {row["cluster"] for row in csv.DictReader(file)}


def test_training_that_collapses_costs_no_clusters(run_script, photo_folder, tmp_path):
    """Both guards: k-means in the place of SCAN, then scan.pt in the place of selflabel.pt."""
    # One step by 1 takes every scale of the batch norms to 0: all images then have one feature.
    collapse = ("--epochs", "1", "--batch-size", "40", "--device", "cpu")
    collapse += ("--learning-rate", "1", "--weight-decay", "1e6")
    run = ("--run", "mine")
    run_script("simclr.py", "--data", photo_folder, *run, "--width", "4", *TINY)
    run_script("extract_features.py", *run, "--neighbors", "5", "--device", "cpu")
    few = ("--clusters", "4", "--head-epochs", "1", "--candidate-heads", "2", "--heads", "1")
    told = run_script("scan.py", *run, *few, *collapse).stdout
    assert "k-means is kept in its place (--no-guard keeps what was trained)" in told

    files = tmp_path / "ckp" / "mine"
    record = load_json(files / "scan.json")
    assert record["kept"] == "kmeans"
    assert record["information"]["scan"] < 0.9 * record["information"]["kmeans"]
    kmeans, pretext = (load_checkpoint(files / name) for name in ("scan.pt", "pretext.pt"))
    weights = kmeans["weights"]
    backbone = {name for name in weights if name.startswith("backbone.")}
    assert kmeans["normalized"] and weights.keys() - backbone == HEAD
    assert all(torch.equal(weights[name], pretext["weights"][name]) for name in backbone)

    collapse += ("--ema-decay", "0")
    told = run_script("selflabel.py", *run, *collapse).stdout
    assert "scan.py's classifier is kept (--no-guard keeps what was trained)" in told
    record = load_json(files / "selflabel.json")
    assert record["kept"] == "scan"
    assert record["information"]["selflabel"] < record["information"]["scan"]
    kept = load_checkpoint(files / "selflabel.pt")
    assert kept["normalized"] and kept["weights"].keys() == weights.keys()
    assert all(torch.equal(kept["weights"][name], weights[name]) for name in weights)
    assert kept["temperature"] == pytest.approx(kmeans["temperature"], rel=0.1)
    told = run_script("predict.py", *run, photo_folder, "--out", "kept", "--device", "cpu").stdout
    assert "by ckp/mine/selflabel.pt" in told
    assert len(clusters_in(tmp_path / "kept" / "predictions.csv")) > 1

    told = run_script("selflabel.py", *run, *collapse, "--no-guard", "--restart").stdout
    assert "warning: self-labelling has not helped" in told and "is kept" not in told
    assert load_json(files / "selflabel.json")["kept"] == "selflabel"
    told = run_script("predict.py", *run, photo_folder, "--out", "again", "--device", "cpu").stdout
    assert "is worse than ckp/mine/scan.pt by evidence without labels: using ckp/mine/scan" in told
    assert "by ckp/mine/scan.pt" in told
    assert clusters_in(tmp_path / "again" / "predictions.csv") == clusters_in(
        tmp_path / "kept" / "predictions.csv"
    )
