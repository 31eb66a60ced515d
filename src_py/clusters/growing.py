"""Clusters that a person has split off, as rows of the head that knew nothing of them.

A new cluster begins as a copy of the one that its images came from, and is then fitted to the
images given to it, against all others: with z its logit and a = logsumexp of the other clusters'
logits, whose rows stay as they are, the probability of the new cluster is sigmoid(z - a), and

    mean over its images of softplus(a - z) + mean over the others of softplus(z - a)

is a convex function of the new row. Self-labelling goes on from there.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src_py.clusters.classifier import load_cluster_names, load_corrections
from src_py.clusters.corrections import NOTHING_SAID
from src_py.clusters.guard import Views
from src_py.models import ClusterHeads, ClusteringModel
from src_py.run.files import RunFiles
from src_py.stored_features import StoredFeatures

FIT_STEPS = 100  # of L-BFGS, at most
# Of the mean square by which the logit moves away from the copy's: where images can be told apart
# without a mistake, it would else grow for ever, and training could not change its mind.
PULL = 1e-3
ABSENT = 10.0  # logits below the mean of all: a cluster that no image is given to is never chosen


def with_corrections(
    model: ClusteringModel,
    names: Sequence[str],
    views: Views,
    files: RunFiles,
    say: Callable[[str], None],
) -> tuple[ClusteringModel, Tensor]:
    """The classifier with a place for all that a person has said of single images, and what it is.

    Args:
        model: of scan.py, with one head, on the device.
        names: of the images.
        views: of the images.

    Returns:
        the classifier, with the clusters that splits have added; (N,) int64 on the device, the
        cluster said of each image, -1 where nothing is said.
    """
    corrections = load_corrections(files, load_cluster_names(files, model.heads.clusters))
    device = model.heads.linear.weight.device
    given = torch.from_numpy(corrections.of_rows(names)).to(device)
    if corrections.given:
        say(f"selflabel: {int((given != NOTHING_SAID).sum())} images as {files.corrections} says")
    if corrections.clusters > model.heads.clusters:
        features = views.features(model.backbone)
        stored = StoredFeatures(features, scratch=files.checkpoints)
        heads = grow_heads(model.heads, stored, given, corrections.clusters)
        model = ClusteringModel(model.backbone, heads)
    return model, given


def spread(given: Tensor, neighbors: Tensor, assigned: Tensor) -> Tensor:
    """What was said of single images, said of their neighbors too: a few clicks teach little alone.

    Where a person has moved an image, its neighbors that are in the cluster that it was in go with
    it, each with the nearest moved image that has it as a neighbor, of several as near the first.
    Nobody's word is changed.

    Args:
        given: (N,) int64, see `with_corrections`.
        neighbors: (N, k) int64, the nearest first.
        assigned: (N,) int64, by the classifier that is to learn from it.

    Returns:
        (N,) int64, as `given`.
    """
    moved = ((given != NOTHING_SAID) & (given != assigned)).nonzero()[:, 0]
    found = given.clone()
    for column in neighbors[moved].T:
        left_behind = (found[column] == NOTHING_SAID) & (assigned[column] == assigned[moved])
        # One at a time, the first one last: who wins among several at once, no device promises.
        for row, image in zip(column[left_behind].flip(0), moved[left_behind].flip(0), strict=True):
            found[row] = given[image]
    return found


@torch.no_grad()
def grow_heads(
    heads: ClusterHeads, stored: StoredFeatures, given: Tensor, clusters: int
) -> ClusterHeads:
    """One head with the clusters from `heads.clusters` to `clusters` - 1 added.

    Args:
        stored: features of all N images.
        given: (N,) int64, see `with_corrections`.
    """
    for new in range(heads.clusters, clusters):
        logits = stored.all_logits(heads)[0]
        assigned = torch.where(given == NOTHING_SAID, logits.argmax(dim=1), given)
        to_new = assigned == new
        if not to_new.any():
            heads = _with_absent(heads)
            continue
        # Most of its images are what the head takes for one cluster: that which was split.
        parent = int(logits[to_new].argmax(dim=1).bincount().argmax())
        heads = heads.grow([parent])
        seen = heads.space.of_all(stored.plain, stored.scratch)
        _fit_last(heads.linear, seen, to_new, logits.logsumexp(dim=1))
    return heads


def _fit_last(linear: nn.Linear, features: Tensor, is_new: Tensor, others: Tensor) -> None:
    """Fits the last row to the images of a new cluster.

    Args:
        is_new: (N,) bool.
        others: (N,) what the other clusters' logits add up to, by logsumexp.
    """
    copied = features @ linear.weight[-1] + linear.bias[-1]
    weight, bias = linear.weight[-1].clone(), linear.bias[-1].clone()
    row = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(row, max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        logit = features @ weight + bias
        against = F.softplus(logit - others)[~is_new]
        missed = F.softplus(others - logit)[is_new].mean() + against.sum() / max(1, len(against))
        total = missed + PULL * (logit - copied).square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    linear.weight[-1], linear.bias[-1] = weight.detach(), bias.detach()


def _with_absent(heads: ClusterHeads) -> ClusterHeads:
    """One more cluster, whose images have all been moved away again."""
    grown = heads.grow([0])
    grown.linear.weight[-1] = heads.linear.weight.mean(dim=0)
    grown.linear.bias[-1] = heads.linear.bias.mean() - ABSENT
    return grown
