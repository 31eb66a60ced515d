"""The report of evaluate.py, from made-up predictions."""

import numpy as np
import pytest
import torch
from PIL import Image

from src_py.images.loaders import ResidentImages
from src_py.output.gallery import save_contact_sheet
from src_py.scoring.evaluation import Split, as_table, evaluate


def random_images(count, channels=3, size=8):
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8)
    return ResidentImages(pixels, torch.device("cpu"))


def make_split(labelled=True, size=40, clusters=4, shift=0):
    labels = np.arange(size) % 4
    predicted = (labels + shift) % clusters
    probabilities = np.full((size, clusters), 0.1 / (clusters - 1), dtype=np.float32)
    probabilities[np.arange(size), predicted] = 0.9
    return Split(
        images=random_images(size),
        labels=(labels, list("abcd")) if labelled else None,
        features=np.eye(4, dtype=np.float32)[labels],
        probabilities={"scan": probabilities},
    )


def test_both_splits_are_scored_by_the_contract():
    splits = {"train": make_split(), "test": make_split(size=20, shift=1)}
    splits["train"].neighbors = np.array([[row ^ 1, (row + 4) % 40] for row in range(40)])
    result = evaluate(splits, False, 0)
    assert result["neighbor_accuracy"] == 0.5
    assert result["clusters"] == 4 and result["mapping"] == "hungarian"
    for split in ("train", "test"):
        assert set(result[split]) == {"kmeans", "scan"}
        assert result[split]["scan"]["acc"] == result[split]["kmeans"]["acc"] == 1
    table = as_table("mine", result)
    assert "kmeans" in table and "1.000" in table
    assert "MAJORITY" not in table  # the two agree, so one column is enough


def test_more_clusters_than_classes_are_scored_by_majority():
    split = make_split(clusters=8)
    split.probabilities["scan"][:10] = np.roll(split.probabilities["scan"][:10], 4, axis=1)
    result = evaluate({"train": split}, False, 0)
    assert result["mapping"] == "majority"
    assert result["train"]["scan"]["acc"] == 1
    assert result["train"]["scan"]["hungarian_acc"] < 1
    assert "HUNGARIAN" in as_table("mine", result)


def test_without_labels_there_are_label_free_scores():
    result = evaluate({"train": make_split(labelled=False)}, False, 0)
    assert result["train"] == {} and "mapping" not in result
    assert result["label_free"]["train"]["scan"]["alive"] == 4
    assert "no labels" in as_table("mine", result)


@pytest.mark.parametrize("labelled", ["train", "test"])
def test_a_split_without_labels_does_not_keep_the_other_from_its_scores(labelled):
    splits = {name: make_split(labelled=name == labelled) for name in ("train", "test")}
    result = evaluate(splits, False, 0)
    assert {name for name in splits if result[name]} == {labelled}
    assert result[labelled]["scan"]["acc"] == result[labelled]["kmeans"]["acc"] == 1
    lines = as_table("mine", result).splitlines()
    assert [line.split()[0] for line in lines if "NMI" in line] == [labelled]


def test_before_scan_more_classes_than_images_are_no_obstacle():
    split = make_split(size=8)
    split.labels, split.probabilities = (split.labels[0], [str(kind) for kind in range(20)]), {}
    assert evaluate({"train": split}, False, 0)["clusters"] == 8


def test_before_scan_there_is_k_means_on_as_many_clusters_as_classes():
    split = make_split()
    split.probabilities = {}
    result = evaluate({"train": split}, False, 0)
    assert result["clusters"] == 4 and set(result["train"]) == {"kmeans"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 96])
def test_contact_sheet_has_a_row_for_each_cluster(tmp_path, channels, size):
    images = random_images(30, channels, size)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), 30)
    save_contact_sheet(tmp_path / "sheet.png", images, probabilities, list("abcde"), 4)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.height > sheet.width * 0.5
    assert sheet.height // 5 >= 48
