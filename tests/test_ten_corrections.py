"""Corrections simulated from labels: which images are corrected, and that they are learned."""

import numpy as np
import pytest
import torch

from src_py.models import BackboneSpec, ResNet18
from src_py.research.ten_corrections import correct, measure, worst_cluster
from src_py.run.errors import UserError
from tests.conftest import write_image

ASSIGNED = np.array([0, 0, 0, 1, 1, 1, 2, 2])
LABELS = np.array([0, 0, 0, 1, 2, 2, 2, 0])
MAPPING = np.array([0, 1, 2])


def test_the_worst_cluster_is_that_of_lowest_purity():
    assert worst_cluster(ASSIGNED, LABELS, MAPPING) == 1


def test_what_lies_wrong_in_it_is_put_where_its_label_says():
    assert correct(ASSIGNED, LABELS, MAPPING, np.random.default_rng(0)) == {4: 2, 5: 2}


def test_no_more_than_ten_are_corrected():
    assigned, labels = np.zeros(100, int), np.arange(100) % 2
    given = correct(assigned, labels, np.array([0, 1]), np.random.default_rng(0))
    assert len(given) == 10 and set(given.values()) == {1} and all(row % 2 for row in given)


@pytest.fixture
def run_of_frozen_weights(run_script, tmp_path, monkeypatch):
    """Four kinds, 40 images each, on a network of random weights that stay as they are."""
    for number in range(160):
        kind = number % 4
        write_image(tmp_path / "kinds" / "abcd"[kind] / f"{number:03d}.png", kind, number)
    torch.manual_seed(0)
    torch.save(ResNet18(BackboneSpec(8, 3, small_stem=True)).state_dict(), tmp_path / "weights.pth")
    run = ("--run", "kinds")
    images = ("--data", "kinds", "--preset", "folder", "--init", "weights.pth")
    run_script("simclr.py", *run, *images, "--device", "cpu")
    run_script("extract_features.py", *run, "--components", "4", "--neighbors", "5")
    run_script("scan.py", *run, "--clusters", "4", "--candidate-heads", "3", "--components", "4")
    run_script("selflabel.py", *run, "--epochs", "20", "--device", "cpu")
    monkeypatch.chdir(tmp_path)


def test_ten_corrections_raise_the_accuracy(run_of_frozen_weights):
    found = measure("kinds", draws=1)
    assert found["images"] == 160 and found["corrected"] == 10
    assert found["acc_after"][0] > found["acc_before"] + 0.02


def test_images_without_labels_cannot_be_corrected_by_them(run_script, photo_folder, tmp_path):
    with pytest.raises(UserError, match=r"simclr\.py"):
        measure("never_begun")
