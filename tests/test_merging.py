"""Clusters whose images are each other's neighbors are found to be one."""

import itertools

import numpy as np
import pytest

from src_py.clusters.merging import merge_by_neighbors, neighbor_affinity


def split_kinds(sizes=(400, 40, 60), parts=(4, 1, 2), neighbors=5, seed=0):
    """Probabilities and neighbors of kinds that were split anyhow into so many clusters each."""
    random = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    first = np.cumsum((0, *parts))
    cluster = np.array([random.integers(first[kind], first[kind + 1]) for kind in kinds])
    rows = [random.choice(np.flatnonzero(kinds == kind), neighbors) for kind in kinds]
    probabilities = np.eye(first[-1])[cluster] * 0.9 + 0.1 / first[-1]
    groups = [tuple(range(*ends)) for ends in itertools.pairwise(first)]
    return probabilities.astype(np.float32), np.array(rows), groups


def test_parts_of_a_kind_are_joined_and_a_small_kind_stays_apart():
    probabilities, neighbors, groups = split_kinds()
    assert merge_by_neighbors(probabilities, neighbors, 3) == groups


def test_a_naive_sum_gives_the_same_affinity():
    probabilities, neighbors, _ = split_kinds(sizes=(20, 10), parts=(2, 1))
    naive = np.zeros((3, 3))
    for row, others in enumerate(neighbors):
        for other in others:
            naive += np.outer(probabilities[row], probabilities[other]) / len(others)
    affinity = neighbor_affinity(probabilities, neighbors)
    assert affinity == pytest.approx((naive + naive.T) / 2, rel=1e-5)
    assert affinity.sum() == pytest.approx(30, rel=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 6, 7])
def test_as_many_groups_as_asked_for_and_each_cluster_once(groups):
    probabilities, neighbors, _ = split_kinds()
    found = merge_by_neighbors(probabilities, neighbors, groups)
    assert len(found) == groups
    assert sorted(cluster for group in found for cluster in group) == list(range(7))


@pytest.mark.parametrize("rest", [0, 1e-13, 1e-4])
def test_an_empty_cluster_is_no_group(rest):
    probabilities, neighbors, groups = split_kinds()
    probabilities = np.pad(probabilities, ((0, 0), (0, 1)), constant_values=rest)
    found = merge_by_neighbors(probabilities, neighbors, 3)
    assert [tuple(cluster for cluster in group if cluster < 7) for group in found] == groups
