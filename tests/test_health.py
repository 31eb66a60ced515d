"""Collapse is seen in the numbers, and said with a remedy."""

import pytest
import torch

from src_py.clusters.health import ClusterCounts, ClusterHealth


def health_of(*batches, head=0, reliable=None):
    counts = ClusterCounts(batches[0].shape[0], batches[0].shape[2], torch.device("cpu"))
    for logits in batches:
        counts.add(logits)
    return counts.health(head, reliable)


def one_hot(clusters, of=4):
    return (torch.nn.functional.one_hot(torch.tensor(clusters), of).float() * 50)[None]


def test_equal_clusters_are_healthy():
    health = health_of(one_hot([0, 1, 2, 3]), one_hot([3, 2, 1, 0]))
    assert health.alive == 4 and health.smallest == health.largest == 0.25
    assert health.entropy == pytest.approx(1)
    assert not health.warnings("scan")


def test_one_cluster_for_all_is_said_with_a_remedy():
    warnings = health_of(one_hot([1, 1, 1, 1])).warnings("scan")
    assert set(warnings) == {"empty", "large", "entropy"}
    assert "3 of 4 clusters are empty" in warnings["empty"]
    assert all("--entropy-weight" in warning for warning in warnings.values())


def test_heads_are_counted_apart():
    both = torch.cat([one_hot([0, 0, 0, 0]), one_hot([0, 1, 2, 3])])
    assert health_of(both, head=0).alive == 1 and health_of(both, head=1).alive == 4


def test_too_few_labels_are_said():
    health = health_of(one_hot([0, 1, 2, 3]), reliable=0.001)
    assert "--threshold" in health.warnings("selflabel")["reliable"]
    assert health.columns()["reliable"] == 0.001 and "0.1% reliable" in str(health)


def test_a_cluster_that_is_about_to_go_is_said():
    health = ClusterHealth(0.9, alive=10, clusters=10, smallest=0.01, largest=0.2)
    assert set(health.warnings("selflabel")) == {"small"}


def test_the_same_undecided_answer_for_all_is_not_even():
    health = health_of(torch.zeros(1, 8, 4))
    assert (health.alive, health.entropy) == (1, 0)
    assert {"empty", "large", "entropy"} == set(health.warnings("scan"))
