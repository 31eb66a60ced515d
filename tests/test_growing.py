"""Clusters that splits have added, in the head of a classifier."""

import pytest
import torch

from src_py.clusters.growing import grow_heads, spread
from src_py.models import ClusterHeads
from src_py.stored_features import StoredFeatures

KINDS = torch.arange(60) % 3  # the classifier takes the last two for one


@pytest.fixture
def features():
    random = torch.Generator().manual_seed(0)
    return 4 * torch.eye(6)[KINDS] + 0.3 * torch.randn(60, 6, generator=random)


def two_clusters(normalized=False):
    heads = ClusterHeads(6, 2, heads=1, normalized=normalized)
    with torch.no_grad():
        heads.linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0]]))
        heads.linear.bias.copy_(torch.tensor([0.3, -0.2]))
    return heads


def said(rows, clusters):
    given = torch.full((60,), -1)
    given[rows] = clusters
    return given


@pytest.mark.parametrize("heads", [1, 3])
def test_more_clusters_begin_as_copies(heads):
    before = ClusterHeads(6, 2, heads)
    grown = before.grow([1, 1, 0])
    features = torch.randn(5, 6)
    logits = before(features)
    assert grown.clusters == 5 and grown.heads == heads
    expected = torch.cat([logits, logits[..., [1, 1, 0]]], dim=2)
    torch.testing.assert_close(grown(features), expected)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_few_images_teach_the_new_cluster_most_of_its_kind(features, normalized):
    heads = two_clusters(normalized)
    few = torch.nonzero(KINDS == 2)[:5, 0]
    grown = grow_heads(heads, StoredFeatures(features), said(few, 2), clusters=3)
    found = grown(features)[0].argmax(dim=1)
    assert (found[few] == 2).all() and (found[KINDS < 2] == KINDS[KINDS < 2]).all()
    assert (found[KINDS == 2] == 2).float().mean() >= 0.5
    torch.testing.assert_close(grown(features)[0, :, :2], heads(features)[0])  # these stay
    assert grown.linear.weight.requires_grad


def test_what_is_told_apart_stays_within_reach_of_training(features):
    exact = 4 * torch.eye(6)[KINDS]  # no variance at all
    rows = torch.nonzero(KINDS == 2)[:, 0]
    grown = grow_heads(two_clusters(), StoredFeatures(exact), said(rows, 2), clusters=3)
    logits = grown(exact)[0]
    difference = (logits[:, 2] - logits[:, 1])[[1, 2]].abs()
    assert (difference > 2).all() and (difference < 30).all()


def test_what_lies_beyond_the_new_cluster_stays_where_it_is():
    """On a line: what is split off lies between what is left and another cluster."""
    centers = torch.tensor([0.0, 4.5, 9.0])
    heads = ClusterHeads(1, 3, heads=1)
    with torch.no_grad():
        heads.linear.weight.copy_(2 * centers[:, None])
        heads.linear.bias.copy_(-centers.square())
    features = torch.tensor([0.0, 4.0, 5.0, 9.0]).repeat(10)[:, None]
    given = torch.where(features[:, 0] == 5, 3, -1)
    found = grow_heads(heads, StoredFeatures(features), given, clusters=4)(features)[0].argmax(
        dim=1
    )
    assert found.tolist() == [0, 1, 3, 2] * 10


def test_a_cluster_that_was_split_twice(features):
    features = features + 4 * torch.eye(6)[5] * (torch.arange(60) % 6 == 5)[:, None]
    rows = torch.nonzero(KINDS == 2)[:, 0]
    given = said(rows, 2)
    given[torch.arange(5, 60, 6)] = 3
    grown = grow_heads(two_clusters(), StoredFeatures(features), given, clusters=4)
    found = grown(features)[0].argmax(dim=1)
    assert (found == torch.where(given >= 0, given, KINDS)).all()


def test_a_new_cluster_without_images_is_never_chosen(features):
    grown = grow_heads(two_clusters(), StoredFeatures(features), said([], 2), clusters=4)
    assert grown.clusters == 4
    assert set(grown(features)[0].argmax(dim=1).tolist()) == {0, 1}


def test_alike_images_on_both_sides_are_no_obstacle():
    features = torch.ones(6, 6)
    given = torch.tensor([-1, -1, -1, -1, 2, 2])
    grown = grow_heads(two_clusters(), StoredFeatures(features), given, clusters=3)
    assert torch.isfinite(grown(features)).all()


def test_what_was_said_spreads_to_neighbors_that_were_left_behind():
    assigned = torch.tensor([0, 0, 0, 0, 1, 0])
    neighbors = torch.tensor([[1, 4], [5, 0], [3, 1], [0, 1], [5, 1], [0, 1]])
    nothing = torch.full((6,), -1)
    assert torch.equal(spread(nothing, neighbors, assigned), nothing)
    given = nothing.clone()
    given[0], given[2], given[4] = 2, 3, 1  # 0 and 2 are moved, 4 stays where it was
    found = spread(given, neighbors, assigned)
    # 1 goes with 0, whose nearest it is, and 3 with 2; 5 is near to neither.
    assert found.tolist() == [2, 2, 3, 3, 1, -1]


def test_a_neighbor_of_several_moved_images_goes_with_the_first():
    assigned = torch.zeros(9, dtype=torch.long)
    neighbors = torch.full((9, 1), 8)
    given = torch.tensor([5, 6, 7, 5, 6, 7, -1, -1, -1])
    assert spread(given, neighbors, assigned).tolist() == [5, 6, 7, 5, 6, 7, -1, -1, 5]
