"""Clusters that a person has split off, as rows of the head that knew nothing of them.

A new cluster begins as a copy of the one that its images came from, plus what tells the two apart:
with m1 the mean feature of the images given to it, m0 that of those left, d = m1 - m0 and s^2 the
variance along d within either,

    new logit = old logit + (f - (m0 + m1) / 2) . d / s^2

which is the linear discriminant of two equally wide normal distributions. No other cluster changes,
and self-labelling goes on from there.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from src_py.clusters.classifier import load_cluster_names, load_corrections
from src_py.clusters.corrections import NOTHING_SAID
from src_py.images.run_images import OpenedImages
from src_py.inference import infer
from src_py.models import ClusterHeads, ClusteringModel
from src_py.run.files import RunFiles
from src_py.run.hardware import Hardware

WIDEST = 20.0  # logits between the two means, at most: training must be able to change its mind
ABSENT = 10.0  # logits below the mean of all: a cluster that no image is given to is never chosen


def with_corrections(
    model: ClusteringModel,
    opened: OpenedImages,
    batch_size: int,
    files: RunFiles,
    hardware: Hardware,
    say: Callable[[str], None],
) -> tuple[ClusteringModel, Tensor]:
    """The classifier with a place for all that a person has said of single images, and what it is.

    Args:
        model: of scan.py, with one head.

    Returns:
        the classifier, with the clusters that splits have added; (N,) int64 on the device, the
        cluster said of each image, -1 where nothing is said.
    """
    model = hardware.place(model)
    corrections = load_corrections(files, load_cluster_names(files, model.heads.clusters))
    given = torch.from_numpy(corrections.of_rows(opened.names)).to(hardware.device)
    if corrections.given:
        say(f"selflabel: {int((given != NOTHING_SAID).sum())} images as {files.corrections} says")
    if corrections.clusters > model.heads.clusters:
        features = torch.cat(list(infer(model.backbone, opened.loader, hardware, batch_size)))
        heads = grow_heads(model.heads, features, given, corrections.clusters)
        model = ClusteringModel(model.backbone, heads)
    return model, given


@torch.no_grad()
def grow_heads(heads: ClusterHeads, features: Tensor, given: Tensor, clusters: int) -> ClusterHeads:
    """One head with the clusters from `heads.clusters` to `clusters` - 1 added.

    Args: features (N, D) of all images; given (N,) int64, see `with_corrections`.
    """
    seen = F.normalize(features, dim=1) if heads.normalized else features
    for new in range(heads.clusters, clusters):
        assigned = torch.where(given == NOTHING_SAID, heads(features)[0].argmax(dim=1), given)
        to_new = assigned == new
        if not to_new.any():
            heads = _with_absent(heads)
            continue
        # Most of its images are what the head takes for one cluster: that which was split.
        parent = int(heads(features[to_new])[0].argmax(dim=1).bincount().argmax())
        heads = heads.grow([parent])
        left = assigned == parent
        if left.any():
            _tell_apart(heads, seen[left], seen[to_new])
    return heads


def _tell_apart(heads: ClusterHeads, left: Tensor, given: Tensor) -> None:
    """Adds the discriminant of two groups of features to the last row."""
    first, second = left.mean(dim=0), given.mean(dim=0)
    direction = second - first
    within = torch.cat([left - first, given - second]) @ direction  # times |d|
    distance = direction.square().sum()
    variance = within.square().mean() / distance.clamp(min=1e-12)
    slope = direction / torch.maximum(variance, distance / WIDEST).clamp(min=1e-12)
    heads.linear.weight[-1] += slope
    heads.linear.bias[-1] -= slope @ (first + second) / 2


def _with_absent(heads: ClusterHeads) -> ClusterHeads:
    """One more cluster, whose images have all been moved away again."""
    grown = heads.grow([0])
    grown.linear.weight[-1] = heads.linear.weight.mean(dim=0)
    grown.linear.bias[-1] = heads.linear.bias.mean() - ABSENT
    return grown
