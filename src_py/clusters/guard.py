"""Label-free evidence of how good clusters are, and what is kept by it.

The evidence is the mutual information between the cluster of an image and that of one of its
neighbors, in nats:

    I = sum_ab P(a, b) log( P(a, b) / (P(a) P(b)) )

with P(a, b) the share of neighbor pairs that fall into clusters a and b. It is SCAN's objective
without a weight to choose: large where neighbors meet (consistency) and where clusters are many and
even (entropy), at most log C, and 0 for a single cluster as for clusters drawn at random. It needs
only who is in which cluster, so that k-means can be compared with a network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.config_scan import ScanConfig
from src_py.augmentation import Augmentation
from src_py.backbones import Backbone
from src_py.clusters.calibration import fit_temperature
from src_py.clusters.kmeans import kmeans_centers, sample_of
from src_py.feature_space import BLOCK, gathered
from src_py.images.loaders import ImageLoader
from src_py.inference import all_logits, infer, outputs_of
from src_py.models import ClusterHeads, ClusteringModel
from src_py.run.hardware import Hardware
from src_py.run.session import TrainingSession
from src_py.run.stages import EVIDENCE_PAIRS, EVIDENCE_VIEWS
from src_py.stored_features import StoredFeatures
from src_py.transforms import random_view

KMEANS_ITERATIONS, KMEANS_STARTS = 30, 10
EVIDENCE_BATCH = 512


class Candidate(NamedTuple):
    """A classifier with one head, and its logits (N, C) of all images."""

    model: ClusteringModel
    logits: Tensor


def pair_information(first: Tensor, second: Tensor, clusters: int) -> float:
    """Mutual information of the clusters of pairs, in nats.

    Args:
        first, second: (M,) int64, the clusters of both sides of each pair.
    """
    counts = torch.bincount(first * clusters + second, minlength=clusters * clusters)
    return _information(counts, clusters)


def _information(counts: Tensor, clusters: int) -> float:
    """Nats, of how many pairs there are of each two clusters, (clusters x clusters,)."""
    joint = counts.cpu().double().view(clusters, clusters)  # MPS has no float64
    joint /= joint.sum()
    apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    information = float(torch.xlogy(joint, joint / apart.clamp(min=1e-300)).sum())
    return max(0.0, information)  # rounding may take it just below


def neighbor_information(assigned: Tensor, neighbors: Tensor) -> float:
    """The evidence for clusters of all images.

    Args:
        assigned: (N,) int64.
        neighbors: (N, k) int64.
    """
    clusters = int(assigned.max()) + 1
    counts = torch.zeros(clusters * clusters, dtype=torch.int64, device=assigned.device)
    for own, others in zip(assigned.split(BLOCK), neighbors.split(BLOCK), strict=True):
        met = own[:, None] * clusters + assigned[others]  # (B, k)
        counts += torch.bincount(met.flatten(), minlength=len(counts))
    return _information(counts, clusters)


class Views(Protocol):
    """A set of images as classifiers see them: as they are, and in random views."""

    def features(self, backbone: Backbone) -> Tensor:
        """(N, D) float32 of the images as they are."""
        ...

    def logits(self, model: ClusteringModel) -> Tensor:
        """(N, C) float32 of the images as they are, of a model with one head."""
        ...

    def clusters(self, model: ClusteringModel, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(M,) int64, where a model with one head puts a random view of the images `rows`."""
        ...


@dataclass(frozen=True)
class ImageViews:
    """What is made, and seen by the network, when it is asked for.

    Attributes:
        scratch: folder for what is made of all images, where it is large; None keeps it in memory.
    """

    images: ImageLoader
    augmentation: Augmentation
    hardware: Hardware
    batch_size: int
    scratch: Path | None = None

    def features(self, backbone: Backbone) -> Tensor:
        blocks = infer(backbone, self.images, self.hardware, self.batch_size)
        return gathered(blocks, len(self.images), scratch=self.scratch)

    def logits(self, model: ClusteringModel) -> Tensor:
        shown = (self.images, self.hardware, self.batch_size, self.scratch)
        return all_logits(model, *shown)[0]

    def clusters(self, model: ClusteringModel, rows: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()
        found = []
        world = self.hardware.world
        for drawn, batch in self.images.batches(rows.split(EVIDENCE_BATCH)):
            numbers = world.numbers(generator, len(drawn))
            views = random_view(batch, self.augmentation, numbers, model.statistics)
            logits = outputs_of(model, views, self.hardware, self.batch_size)[0]
            found.append(world.whole(logits, len(drawn)).argmax(dim=1))
        return torch.cat(found)


@torch.no_grad()
def view_information(
    model: ClusteringModel, views: Views, neighbors: Tensor, generator: torch.Generator
) -> float:
    """The evidence on random views: clusters of a view of an image and of a view of a neighbor.

    It compares two networks, neither of which sees the images as the neighbors were found with.

    Args:
        model: a classifier with one head.
        neighbors: (N, k) int64 on the device.
    """
    device = neighbors.device
    order = torch.randperm(len(neighbors), generator=generator, device=device)
    count = min(EVIDENCE_PAIRS, EVIDENCE_VIEWS * len(order))
    anchors = order[torch.arange(count, device=device) % len(order)]
    column = torch.randint(neighbors.shape[1], anchors.shape, generator=generator, device=device)
    rows = torch.cat([anchors, neighbors[anchors, column]])  # (2M,)
    first, second = views.clusters(model, rows, generator).view(2, -1)
    return pair_information(first, second, model.heads.clusters)


def balanced_information(
    candidate: Candidate, views: Views, neighbors: Tensor, generator: torch.Generator
) -> float:
    """The geometric mean of the evidence on plain images and on random views.

    Plain images favour k-means, which works on the very features that the neighbors were found
    with; strong views favour SCAN's network, which was trained on them. By ratios, what one side
    gains by its favour it loses by the other's.

    Args:
        neighbors: (N, k) int64 on the device.
    """
    plain = neighbor_information(candidate.logits.argmax(dim=1), neighbors)
    in_views = view_information(candidate.model, views, neighbors, generator)
    return math.sqrt(plain * in_views)


def kmeans_head(
    features: Tensor,
    neighbors: Tensor,
    clusters: int,
    seed: int,
    scratch: Path | None = None,
) -> ClusterHeads:
    """K-means on the L2-normalised features, as a head that assigns an image to its center.

    With z the normalised features and m_c the centers, logit_c is proportional to
    -|z - m_c|^2, up to what all clusters share; its scale is the one at which the mean confidence
    equals the share of neighbors that meet (calibration.fit_temperature).

    Args:
        features: (N, D) float32.
        neighbors: (N, k) int64.
        scratch: see StoredFeatures.
    """
    sample = sample_of(len(features), clusters, seed).to(features.device)
    points = F.normalize(features[sample], dim=1)
    found = kmeans_centers(points.cpu().numpy(), clusters, seed, KMEANS_ITERATIONS, KMEANS_STARTS)
    centers = torch.from_numpy(found).to(points)  # (C, D)
    head = ClusterHeads(features.shape[1], clusters, heads=1, normalized=True).to(points.device)
    with torch.no_grad():
        head.linear.weight.copy_(2 * centers)
        head.linear.bias.copy_(-centers.square().sum(dim=1))
        # Features of a short pretext lie close together. In units of their spread, the scale that
        # is looked for is of the order of 1.
        _sharpen(head, 1 / (points - points.mean(dim=0)).square().sum(dim=1).mean().clamp(min=1e-9))
        logits = StoredFeatures(features, scratch=scratch).all_logits(head)[0]
        _sharpen(head, 1 / fit_temperature(logits.cpu(), neighbors.cpu()))
    return head


def _sharpen(head: ClusterHeads, factor: Tensor | float) -> None:
    """Multiplies the logits."""
    head.linear.weight.mul_(factor)
    head.linear.bias.mul_(factor)


def kmeans_classifier(
    backbone: Backbone,
    stored: StoredFeatures,
    neighbors: Tensor,
    config: ScanConfig,
    hardware: Hardware,
) -> Candidate:
    """K-means on the pretext's features as a classifier: what SCAN must not fall behind.

    Args:
        backbone: of the pretext.
        stored: what it gives for all images.
        neighbors: (N, k) int64.
    """
    seen = (stored.plain, neighbors, config.clusters, config.seed, stored.scratch)
    head = kmeans_head(*seen)
    logits = stored.all_logits(head)[0]
    return Candidate(hardware.place(ClusteringModel(backbone, head)), logits)


def keep_scan_or_kmeans(
    candidates: dict[str, Candidate],
    views: Views,
    neighbors: Tensor,
    guarded: bool,
    session: TrainingSession,
) -> tuple[str, dict[str, float]]:
    """Which of 'scan' and 'kmeans' is kept, and the evidence for each (balanced_information)."""
    information = {
        name: balanced_information(each, views, neighbors, session.generator(epoch=-3))
        for name, each in candidates.items()
    }
    return choose_scan_or_kmeans(information, guarded, session.say), information


def keep_scan_or_self_labelled(
    candidates: dict[str, ClusteringModel],
    views: Views,
    neighbors: Tensor,
    guarded: bool,
    session: TrainingSession,
) -> tuple[str, dict[str, float]]:
    """Which of 'scan' and 'selflabel' is kept, and the evidence for each (view_information)."""
    information = {
        name: view_information(model, views, neighbors, session.generator(epoch=-1))
        for name, model in candidates.items()
    }
    return choose_by_views(information, guarded, session.say), information


def choose_scan_or_kmeans(
    information: dict[str, float], guard: bool, say: Callable[[str], None]
) -> str:
    """'kmeans' where the evidence is for it, else 'scan'.

    Args:
        information: nats, of both; see balanced_information.
        guard: whether k-means may be chosen.
    """
    told = (
        f"scan: its clusters tell {information['scan']:.3f} nats of a neighbor's, those of k-means "
        f"on the pretext's features {information['kmeans']:.3f}"
    )
    if information["scan"] >= information["kmeans"]:
        say(told)
        return "scan"
    say(f"{told}: warning: SCAN has lost what the features hold; lower --learning-rate or --epochs")
    return _guarded(("scan", "kmeans"), "k-means is kept in its place", guard, say)


def choose_by_views(information: dict[str, float], guard: bool, say: Callable[[str], None]) -> str:
    """'scan' where self-labelling has lowered the evidence, else 'selflabel'.

    Args:
        information: nats, of both; see view_information.
        guard: whether scan.py's classifier may be chosen.
    """
    told = (
        f"selflabel: in random views, its clusters tell {information['selflabel']:.3f} nats of a "
        f"neighbor's, those that it was given {information['scan']:.3f}"
    )
    if information["selflabel"] >= information["scan"]:
        say(told)
        return "selflabel"
    say(f"{told}: warning: self-labelling has not helped; it may with fewer --epochs")
    return _guarded(("selflabel", "scan"), "scan.py's classifier is kept", guard, say)


def _guarded(names: tuple[str, str], told: str, guard: bool, say: Callable[[str], None]) -> str:
    """Of the names (trained, other), the other where the guard is on; says so."""
    trained, other = names
    if not guard:
        return trained
    say(f"{trained}: {told} (--no-guard keeps what was trained)")
    return other
