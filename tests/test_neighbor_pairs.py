"""Which pairs SCAN draws, and their loss over the whole set."""

import math

import numpy as np
import torch

from src_py.losses import scan_loss
from src_py.mining.neighbor_graph import mutual_first
from src_py.neighbor_pairs import NeighborPairs

CPU = torch.device("cpu")
# 0 and 1 choose each other, so do 2 and 3; 0 chooses 2, 1 and 3 choose what does not choose them.
NEIGHBORS = np.array([[2, 1], [0, 3], [3, 1], [2, 0]])


def test_all_neighbors_are_drawn_and_nothing_else():
    neighbors = np.random.default_rng(0).integers(100, size=(10, 4))
    pairs = NeighborPairs.of(neighbors, CPU)
    anchors = torch.arange(10).repeat(200)
    drawn = pairs.draw(anchors, torch.Generator().manual_seed(0))
    for anchor in range(10):
        assert set(drawn[anchors == anchor].tolist()) == set(neighbors[anchor].tolist())


def test_mutual_neighbors_come_first():
    reordered, counts = mutual_first(NEIGHBORS)
    assert reordered.tolist() == [[1, 2], [0, 3], [3, 1], [2, 0]]
    assert counts.tolist() == [1, 1, 1, 1]


def test_a_row_without_mutual_neighbors_keeps_its_nearest():
    reordered, counts = mutual_first(np.array([[1, 2], [2, 3], [3, 1], [1, 2]]))
    assert reordered[0].tolist() == [1, 2] and counts.tolist() == [1, 2, 2, 2]


def test_only_mutual_neighbors_are_drawn():
    pairs = NeighborPairs.of(NEIGHBORS, CPU, mutual=True)
    anchors = torch.arange(4).repeat(50)
    drawn = pairs.draw(anchors, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.tensor([1, 0, 3, 2]).repeat(50))


def test_the_loss_over_all_pairs_is_the_mean_over_neighbor_columns(monkeypatch, tmp_path):
    monkeypatch.setattr("src_py.neighbor_pairs.BLOCK", 3)
    logits = torch.randn(2, 10, 4)
    neighbors = torch.randint(10, (10, 3))
    full = NeighborPairs.of(neighbors.numpy(), CPU).loss(
        logits.split(4, dim=1), 5.0, scratch=tmp_path
    )
    each = [scan_loss(logits[1], logits[1][neighbors[:, column]], 5.0) for column in range(3)]
    torch.testing.assert_close(full.total[1], torch.stack([e.total for e in each]).mean())


def test_the_loss_over_all_pairs_stays_finite_where_they_disagree_for_certain():
    logits = torch.tensor([[[500.0, 0.0], [0.0, 500.0], [500.0, 0.0]]])
    found = NeighborPairs.of(np.array([[1], [2], [0]]), CPU).loss([logits], 5.0)
    least = -math.log(torch.finfo(torch.float32).tiny)
    torch.testing.assert_close(found.consistency, torch.tensor([least * 2 / 3]))
    shares = torch.tensor([2 / 3, 1 / 3])
    torch.testing.assert_close(found.entropy, -(shares * shares.log()).sum()[None])


def test_the_loss_over_mutual_pairs_leaves_the_others_out():
    logits = torch.randn(1, 4, 3)
    found = NeighborPairs.of(NEIGHBORS, CPU, mutual=True).loss([logits], 5.0)
    expected = scan_loss(logits, logits[:, torch.tensor([1, 0, 3, 2])], 5.0)
    torch.testing.assert_close(found.total, expected.total)
