"""Which predictions are learned from."""

import torch

from src_py.losses import UNRELIABLE
from src_py.pseudo_labels import PseudoLabels, reliable_pseudo_labels


def probabilities_for(clusters, confidence):
    """(N, 2) with the given cluster and confidence in each row."""
    rows = torch.stack([1 - confidence, confidence], dim=1)
    return torch.where(torch.tensor(clusters)[:, None] == 1, rows, rows.flip(1))


def test_the_best_half_of_each_cluster_gets_its_label():
    clusters = [0, 0, 0, 0, 1, 1, 1, 1]
    probabilities = probabilities_for(clusters, torch.tensor([0.9, 0.8, 0.7, 0.6] * 2))
    itself = torch.arange(8)[:, None]
    found = reliable_pseudo_labels(probabilities, itself, share=0.5)
    assert found.tolist() == [0, 0, UNRELIABLE, UNRELIABLE, 1, 1, UNRELIABLE, UNRELIABLE]


def test_neighbors_that_disagree_outweigh_confidence():
    probabilities = probabilities_for([0, 0, 1, 1], torch.tensor([0.99, 0.7, 0.9, 0.9]))
    neighbors = torch.tensor([[2], [1], [3], [2]])  # the most confident image stands among others
    found = reliable_pseudo_labels(probabilities, neighbors, share=0.5)
    assert found[0] == UNRELIABLE and found[1] == 0


def test_a_large_cluster_gives_no_more_labels_than_an_equal_one():
    probabilities = probabilities_for([0] * 16 + [1] * 4, torch.full((20,), 0.9))
    found = reliable_pseudo_labels(probabilities, torch.arange(20)[:, None], share=0.5)
    assert (found == 0).sum() == 5 and (found == 1).sum() == 2


def test_an_empty_cluster_is_no_obstacle():
    probabilities = torch.tensor([[0.6, 0.4, 0.0]] * 6)
    found = reliable_pseudo_labels(probabilities, torch.arange(6)[:, None], share=0.9)
    assert (found == 0).sum() == 1 and (found == UNRELIABLE).sum() == 5


def test_what_a_person_has_said_holds_whatever_is_found():
    given = torch.tensor([1, UNRELIABLE, UNRELIABLE, 2])
    labels = PseudoLabels(4, torch.device("cpu"), given)
    assert labels.reliable.tolist() == given.tolist()
    logits = torch.tensor([[9.0, 0, 0]] * 4)
    labels.renew(logits, torch.arange(4)[:, None], share=0.9)
    assert labels.reliable.tolist() == [1, UNRELIABLE, UNRELIABLE, 2]  # the best is the first
    labels.renew(logits.flip(1), torch.arange(4)[:, None], share=0.9)
    assert labels.reliable[[0, 3]].tolist() == [1, 2]
    resumed = PseudoLabels(4, torch.device("cpu"), given)
    resumed.load_state_dict(labels.state_dict())
    assert resumed.reliable.equal(labels.reliable)
