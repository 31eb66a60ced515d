"""Scores against brute force, by hand, and at the edges: fewer classes, one cluster, no match."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src_py.scoring import metrics
from src_py.scoring.metrics import (
    cluster_balance,
    cluster_summary,
    contingency,
    hungarian_accuracy,
    hungarian_mapping,
    kmeans_clusters,
    majority_accuracy,
    majority_mapping,
    mapping_accuracy,
    mapping_name,
    neighbor_accuracy,
    save_confusion_picture,
    score,
)

KEYS = {"acc", "macro_acc", "nmi", "ari", "majority_acc", "hungarian_acc"}


def brute_force_hungarian(clusters, labels, num_clusters, num_classes):
    """The best accuracy over all one-to-one mappings, tried one by one."""
    size = max(num_clusters, num_classes)  # surplus clusters take classes that do not exist
    best = 0
    for mapping in itertools.permutations(range(size), num_clusters):
        best = max(best, sum(mapping[c] == y for c, y in zip(clusters, labels, strict=True)))
    return best / len(labels)


@st.composite
def assignments(draw):
    """(clusters, labels, num_clusters, num_classes) with up to five of each."""
    num_clusters, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rows = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(num_classes, size=rows)
    noisy = rng.random(rows) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    clusters = np.where(noisy, rng.integers(num_clusters, size=rows), labels % num_clusters)
    return clusters, labels, num_clusters, num_classes


# ---- mappings --------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(assignments())
def test_hungarian_equals_brute_force(case):
    clusters, labels, num_clusters, num_classes = case
    mapping = hungarian_mapping(*case)
    assert mapping.shape == (num_clusters,) and mapping.dtype == np.int64
    assigned = mapping[mapping >= 0]
    assert len(assigned) == len(set(assigned)) == min(num_clusters, num_classes)
    assert hungarian_accuracy(*case) == pytest.approx(brute_force_hungarian(*case))
    assert hungarian_accuracy(*case) == mapping_accuracy(clusters, labels, mapping)


@settings(max_examples=100, deadline=None)
@given(assignments())
def test_majority_equals_a_count(case):
    clusters, labels, num_clusters, _ = case
    groups = [labels[clusters == cluster].tolist() for cluster in range(num_clusters)]
    correct = sum(max(map(group.count, group)) for group in groups if group)
    assert majority_accuracy(*case) == pytest.approx(correct / len(labels))
    assert majority_accuracy(*case) >= hungarian_accuracy(*case)
    for group, chosen in zip(groups, majority_mapping(*case), strict=True):
        assert chosen == -1 if not group else group.count(chosen) == max(map(group.count, group))


def test_contingency_by_hand():
    counts = contingency([0, 0, 2, 2, 2], [1, 1, 0, 1, 0], 3, 2)
    np.testing.assert_array_equal(counts, [[0, 2], [0, 0], [2, 1]])


def test_more_clusters_than_classes():
    clusters, labels = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(hungarian_mapping(clusters, labels, 3, 2), [0, -1, 1])
    np.testing.assert_array_equal(majority_mapping(clusters, labels, 3, 2), [0, 0, 1])
    assert hungarian_accuracy(clusters, labels, 3, 2) == pytest.approx(5 / 6)
    assert majority_accuracy(clusters, labels, 3, 2) == 1


def test_fewer_clusters_than_classes():
    clusters, labels = np.array([0, 0, 0, 1, 1]), np.array([2, 2, 0, 1, 1])
    np.testing.assert_array_equal(hungarian_mapping(clusters, labels, 2, 3), [2, 1])
    assert hungarian_accuracy(clusters, labels, 2, 3) == pytest.approx(4 / 5)


def test_mapping_name():
    assert mapping_name(10, 10) == "hungarian"
    assert mapping_name(10, 9) == mapping_name(9, 10) == "majority"


# ---- score -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(assignments())
def test_score_takes_hungarian_when_clusters_equal_classes(case):
    num_clusters, num_classes = case[2:]
    scores = score(*case)
    assert scores.keys() == KEYS
    assert all(type(value) is float for value in scores.values())
    name = mapping_name(num_clusters, num_classes)
    assert scores["acc"] == scores[f"{name}_acc"]
    assert scores["hungarian_acc"] == hungarian_accuracy(*case)
    assert scores["majority_acc"] == majority_accuracy(*case)
    assert -1 <= scores["ari"] <= 1 + 1e-12 and 0 <= scores["nmi"] <= 1 + 1e-12


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_score_of_a_perfect_and_of_a_permuted_clustering(classes):
    labels = np.arange(20 * classes) % classes
    order = np.random.default_rng(0).permutation(classes)
    for clusters in (labels, order[labels]):
        assert score(clusters, labels, classes) == pytest.approx(dict.fromkeys(KEYS, 1.0))
    np.testing.assert_array_equal(
        hungarian_mapping(order[labels], labels, classes, classes), np.argsort(order)
    )


def test_score_of_a_random_clustering_is_near_chance():
    rng = np.random.default_rng(0)
    scores = score(rng.integers(10, size=20_000), rng.integers(10, size=20_000), 10)
    assert scores["acc"] == pytest.approx(0.1, abs=0.02)
    assert scores["nmi"] == pytest.approx(0, abs=0.01)
    assert scores["ari"] == pytest.approx(0, abs=0.01)


def test_score_of_a_collapse_to_one_cluster():
    labels = np.arange(100) % 4
    scores = score(np.zeros(100, np.int64), labels, 4)
    expected = dict.fromkeys(("acc", "macro_acc", "majority_acc", "hungarian_acc"), 0.25)
    expected |= {"nmi": 0, "ari": 0}
    assert scores == pytest.approx(expected, abs=1e-9)
    assert score(np.zeros(100, np.int64), labels, 1)["acc"] == 0.25


def test_a_rare_class_counts_as_much_as_a_frequent_one_in_macro_accuracy():
    labels = np.array([0] * 18 + [1] * 2)
    scores = score(np.array([0] * 18 + [0, 1]), labels, 2)
    assert scores["acc"] == pytest.approx(0.95) and scores["macro_acc"] == pytest.approx(0.75)


def test_nmi_and_ari_by_hand():
    # Two clusters of two against one class of three and one of one.
    scores = score(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), 2)
    log = math.log
    of_clusters, of_labels = log(2), -(0.75 * log(0.75) + 0.25 * log(0.25))
    mutual = 0.5 * log(0.5 / (0.5 * 0.75)) + 0.25 * log(0.25 / (0.5 * 0.75)) + 0.25 * log(2)
    assert scores["nmi"] == pytest.approx(2 * mutual / (of_clusters + of_labels))
    # Pairs together in both: 1; in clusters: 2; in classes: 3; in all: 6. Expected: 2 * 3 / 6.
    assert scores["ari"] == pytest.approx((1 - 1) / (2.5 - 1))


def test_score_counts_the_distinct_labels():
    labels = np.array([1, 2, 3, 1, 2, 3])  # numbered from one
    clusters = np.array([0, 1, 2, 0, 1, 1])
    assert score(clusters, labels, 3)["acc"] == score(clusters, labels, 3)["hungarian_acc"]
    # A split without its third class: told so, the score stays Hungarian.
    labels, clusters = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert score(clusters, labels, 3)["acc"] == 1
    assert score(clusters, labels, 3, num_classes=3)["acc"] == 0.75


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        ([0, 1], [0, 1, 1], r"\(2,\) and \(3,\)"),
        ([], [], "non-empty"),
        ([[0, 1]], [[0, 1]], "one-dimensional"),
        ([0, 2], [0, 1], r"clusters must lie in 0\.\.1, found 0\.\.2"),
        ([0, -1], [0, 1], "clusters must lie in"),
        ([0, 1], [0, -1], "labels must lie in"),
        ([0.0, 1.0], [0, 1], "clusters must be integers, got float64"),
    ],
)
def test_score_names_a_wrong_input(clusters, labels, message):
    with pytest.raises(ValueError, match=message):
        score(np.array(clusters), np.array(labels), 2)


def test_labels_beyond_the_classes_are_named():
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, found 0\.\.2"):
        score(np.array([0, 1]), np.array([0, 2]), 2, num_classes=2)


# ---- without labels --------------------------------------------------------------------------


def test_cluster_summary_by_hand():
    probabilities = np.array([[1, 0, 0], [0.995, 0.005, 0], [0.5, 0.5, 0], [0, 1, 0]])
    mean = [(1 + 0.995 + 0.5) / 4, (0.005 + 0.5 + 1) / 4]
    assert cluster_summary(probabilities) == pytest.approx(
        {
            "alive": 2,
            "smallest": 0,
            "largest": 3,
            "confidence": (1 + 0.995 + 0.5 + 1) / 4,
            "confident_fraction": 3 / 4,
            "entropy": -sum(p * math.log(p) for p in mean) / math.log(3),
        }
    )


def test_cluster_summary_at_its_bounds():
    assert cluster_summary(np.full((7, 4), 0.25))["entropy"] == pytest.approx(1)
    collapsed = np.eye(4)[[2] * 7]
    assert cluster_summary(collapsed)["entropy"] == 0
    assert cluster_summary(collapsed)["alive"] == 1
    assert cluster_summary(np.ones((3, 1)))["entropy"] == 1


def test_cluster_summary_of_half_precision():
    rng = np.random.default_rng(0)
    exact = rng.dirichlet(np.ones(10), size=3000)
    half = cluster_summary(exact.astype(np.float16))
    assert half == pytest.approx(cluster_summary(exact), rel=2e-3, abs=3)


@pytest.mark.parametrize(
    "wrong",
    [np.ones(4), np.ones((0, 4)), np.ones((2, 4)), np.full((2, 2), np.nan), [[2.0, -1.0]]],
)
def test_cluster_summary_names_a_wrong_input(wrong):
    with pytest.raises(ValueError, match="probabilities must be"):
        cluster_summary(wrong)


def test_neighbor_accuracy():
    labels = np.array([0, 0, 1, 1])
    neighbors = np.array([[1, 2], [0, 2], [3, 0], [2, 1]])
    assert neighbor_accuracy(neighbors, labels) == 0.5
    assert neighbor_accuracy(neighbors[:, :1], labels) == 1
    with pytest.raises(ValueError, match="must agree in N"):
        neighbor_accuracy(neighbors, labels[:3])
    with pytest.raises(ValueError, match=r"neighbors must lie in 0\.\.3, found 1\.\.4"):
        neighbor_accuracy(np.array([[1], [2], [3], [4]]), labels)


# ---- k-means ---------------------------------------------------------------------------------


def blobs(rows, seed):
    """Five directions with a little noise and any length: (rows, 6) features, (rows,) labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 5
    features = np.eye(6)[labels] + 0.05 * rng.normal(size=(rows, 6))
    return (features * rng.uniform(0.1, 10, size=(rows, 1))).astype(np.float32), labels


def test_kmeans_finds_directions_and_predicts_other_sets():
    (train, train_labels), (test, test_labels) = blobs(200, 0), blobs(63, 1)
    clusters = kmeans_clusters(train, [test, train[:7]], 5, seed=0)
    assert [array.shape for array in clusters] == [(200,), (63,), (7,)]
    assert all(array.dtype == np.int64 for array in clusters)
    assert score(clusters[0], train_labels, 5)["acc"] == 1
    assert score(clusters[1], test_labels, 5)["acc"] == 1
    np.testing.assert_array_equal(clusters[2], clusters[0][:7])
    again = kmeans_clusters(train, [test], 5, seed=0)
    np.testing.assert_array_equal(again[0], clusters[0])


def test_kmeans_accepts_a_row_of_zeros_and_names_too_many_clusters():
    features = np.concatenate([blobs(20, 0)[0], np.zeros((1, 6), np.float32)])
    assert kmeans_clusters(features, [], 3, seed=0)[0].shape == (21,)
    for wrong in (0, 22):
        with pytest.raises(ValueError, match=f"{wrong} clusters of 21"):
            kmeans_clusters(features, [], wrong, seed=0)


# ---- picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "clusters"), [(2, 1), (10, 10), (10, 15), (100, 100)])
def test_confusion_picture(tmp_path, classes, clusters):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=5000)
    assigned = labels % clusters
    mapping = hungarian_mapping(assigned, labels, clusters, classes)
    names = [
        f"class {index} costs $1 or $2, in a name too long to print" for index in range(classes)
    ]
    path = tmp_path / "confusion.png"
    save_confusion_picture(path, assigned, labels, mapping, names)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 200 < picture.height < 4000
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


def test_matplotlib_is_loaded_only_for_a_picture():
    program = f"import sys, {metrics.__name__}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_balance_is_that_of_the_sizes_however_undecided_the_rows():
    assert cluster_balance(np.full((7, 4), 0.25)) == 0
    assert cluster_balance(np.eye(4)) == pytest.approx(1)
    assert cluster_balance(np.eye(4)[[0, 0, 1, 1]]) == pytest.approx(0.5)
    assert cluster_balance(np.ones((3, 1))) == 1
