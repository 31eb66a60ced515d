"""Scores of a clustering, with labels and without. Nothing of this project is used.

A score with labels needs a mapping from clusters to classes. Hungarian when clusters = classes,
majority vote otherwise. Majority vote lets several clusters share a class, so it is never below
Hungarian accuracy and grows with the number of clusters: compare it only at the same number.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import normalize

UNASSIGNED = -1  # in a mapping: a cluster without a class
MIXTURE_ROWS = 20_000
BLOCK = 16_384  # rows at once
MIXTURE_COMPONENTS = 40
CONFIDENT = 0.99  # a prediction above this counts as confident


def contingency(
    clusters: np.ndarray, labels: np.ndarray, num_clusters: int, num_classes: int
) -> np.ndarray:
    """(num_clusters, num_classes) int64 counts: how many samples of each class a cluster holds.

    Args:
        clusters, labels: (N,) integers.

    Raises:
        ValueError: if the two differ in size, are empty, are not integers, or leave the ranges
            0..num_clusters - 1 and 0..num_classes - 1.
    """
    clusters, labels = np.asarray(clusters), np.asarray(labels)
    if clusters.ndim != 1 or clusters.shape != labels.shape or clusters.size == 0:
        raise ValueError(
            "clusters and labels must be non-empty one-dimensional arrays of one size, "
            f"got shapes {clusters.shape} and {labels.shape}"
        )
    _require_range("clusters", clusters, num_clusters)
    _require_range("labels", labels, num_classes)
    pair = clusters.astype(np.int64) * num_classes + labels.astype(np.int64)
    counts = np.bincount(pair, minlength=num_clusters * num_classes)
    return counts.reshape(num_clusters, num_classes)


def hungarian_mapping(
    clusters: np.ndarray, labels: np.ndarray, num_clusters: int, num_classes: int
) -> np.ndarray:
    """The one-to-one mapping with the highest accuracy: (num_clusters,) classes, int64.

    With more clusters than classes, the clusters left over get -1. Raises as contingency does.
    """
    counts = contingency(clusters, labels, num_clusters, num_classes)
    mapping = np.full(num_clusters, UNASSIGNED, dtype=np.int64)
    chosen, classes = linear_sum_assignment(counts, maximize=True)
    mapping[chosen] = classes
    return mapping


def majority_mapping(
    clusters: np.ndarray, labels: np.ndarray, num_clusters: int, num_classes: int
) -> np.ndarray:
    """Every cluster's most frequent class (the first of equals): (num_clusters,) int64.

    An empty cluster has none and gets -1. Raises as contingency does.
    """
    counts = contingency(clusters, labels, num_clusters, num_classes)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), UNASSIGNED)


def mapping_accuracy(clusters: np.ndarray, labels: np.ndarray, mapping: np.ndarray) -> float:
    """The fraction of samples whose cluster is mapped to their label; -1 is always wrong."""
    return float(np.mean(np.asarray(mapping)[clusters] == np.asarray(labels)))


def hungarian_accuracy(
    clusters: np.ndarray, labels: np.ndarray, num_clusters: int, num_classes: int
) -> float:
    """Accuracy under hungarian_mapping of these same samples. Raises as contingency does."""
    mapping = hungarian_mapping(clusters, labels, num_clusters, num_classes)
    return mapping_accuracy(clusters, labels, mapping)


def majority_accuracy(
    clusters: np.ndarray, labels: np.ndarray, num_clusters: int, num_classes: int
) -> float:
    """Accuracy under majority_mapping of these same samples. Raises as contingency does."""
    mapping = majority_mapping(clusters, labels, num_clusters, num_classes)
    return mapping_accuracy(clusters, labels, mapping)


def mapping_name(num_clusters: int, num_classes: int) -> str:
    """Which mapping `acc` stands for: "hungarian" when clusters = classes, else "majority"."""
    return "hungarian" if num_clusters == num_classes else "majority"


def score(
    clusters: np.ndarray,
    labels: np.ndarray,
    num_clusters: int,
    num_classes: int | None = None,
) -> dict[str, float]:
    """Score a clustering against labels: fractions in 0-1 (ari may fall below 0 by chance).

    "acc" is Hungarian when clusters = classes, majority vote otherwise; "hungarian_acc" and
    "majority_acc" give both always; "nmi" and "ari" need no mapping. "macro_acc" is the mean over
    the classes of the accuracy within each, by the mapping of "acc": where classes are unequal, a
    rare one counts as much as a frequent one.

    As in the papers, the mapping is fitted on the samples that are scored: the test split's
    accuracy uses a mapping fitted on the test split itself.

    Args:
        clusters, labels: (N,) integers.
        num_classes: None counts the distinct labels; pass it when a split may lack a class.

    Raises:
        ValueError: as contingency does.
    """
    clusters, labels = np.asarray(clusters), np.asarray(labels)
    if num_classes is None:
        # Labels may skip numbers (1..10, say): an empty column changes no mapping.
        num_classes, columns = len(np.unique(labels)), int(labels.max(initial=0)) + 1
    else:
        columns = num_classes
    case = (clusters, labels, num_clusters, columns)
    hungarian = mapping_name(num_clusters, num_classes) == "hungarian"
    mapping = hungarian_mapping(*case) if hungarian else majority_mapping(*case)
    right = mapping[clusters] == labels
    return {
        "acc": mapping_accuracy(clusters, labels, mapping),
        "macro_acc": float(np.mean([right[labels == label].mean() for label in np.unique(labels)])),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "majority_acc": majority_accuracy(*case),
        "hungarian_acc": hungarian_accuracy(*case),
    }


def cluster_summary(probabilities: np.ndarray) -> dict[str, float | int]:
    """What can be said about (N, C) predicted probabilities without labels.

      alive               clusters with at least one sample (the argmax of its row)
      smallest, largest   sizes over all C clusters, so smallest is 0 if one is empty
      confidence          mean of each row's maximum
      confident_fraction  rows whose maximum is above 0.99
      entropy             entropy of the mean row / log C: 1 is balanced, 0 is collapsed
                          (1 for C = 1, where nothing else is possible)

    Raises:
        ValueError: if the array is not (N, C), is empty, or its rows do not sum to 1.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.size == 0:
        raise ValueError(
            f"probabilities must be a non-empty (N, C) array, got shape {probabilities.shape}"
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # 0.01 lets rows through that were rounded to half precision. NaN fails both comparisons.
    if not (probabilities.min() >= 0 and np.abs(sums - 1).max() <= 0.01):
        raise ValueError("probabilities must be non-negative rows that sum to 1; are they logits?")
    num_clusters = probabilities.shape[1]
    sizes = np.bincount(probabilities.argmax(axis=1), minlength=num_clusters)
    confidence = probabilities.max(axis=1)
    mean = probabilities.mean(axis=0, dtype=np.float64)
    positive = mean[mean > 0]
    entropy = -np.sum(positive * np.log(positive))
    return {
        "alive": int(np.count_nonzero(sizes)),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "confidence": float(confidence.mean(dtype=np.float64)),
        "confident_fraction": float(np.mean(confidence > CONFIDENT)),
        "entropy": float(entropy / np.log(num_clusters)) if num_clusters > 1 else 1.0,
    }


def cluster_balance(probabilities: np.ndarray) -> float:
    """The entropy of the clusters' sizes / log C, of (N, C) probabilities: 1 for equal sizes.

    Unlike that of the mean row it is 0 when all rows are the same, however undecided.
    """
    clusters = probabilities.shape[1]
    sizes = np.bincount(probabilities.argmax(axis=1), minlength=clusters)
    shares = sizes[sizes > 0] / len(probabilities)
    return float(-np.sum(shares * np.log(shares)) / np.log(clusters)) if clusters > 1 else 1.0


def neighbor_accuracy(neighbors: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of (N, k) neighbors that have their anchor's label.

    Args:
        neighbors: (N, k) row indices.
        labels: (N,).

    Raises:
        ValueError: if the numbers of rows differ or an index is out of range.
    """
    neighbors, labels = np.asarray(neighbors), np.asarray(labels)
    if neighbors.ndim != 2 or neighbors.size == 0 or labels.shape != neighbors.shape[:1]:
        raise ValueError(
            "neighbors (N, k) and labels (N,) must agree in N and not be empty, "
            f"got shapes {neighbors.shape} and {labels.shape}"
        )
    _require_range("neighbors", neighbors, len(labels))
    equal = 0
    for start in range(0, len(labels), BLOCK):
        rows = slice(start, start + BLOCK)
        equal += int(np.count_nonzero(labels[neighbors[rows]] == labels[rows, None]))
    return equal / neighbors.size


def kmeans_clusters(
    train_features: np.ndarray,
    other_features: Sequence[np.ndarray],
    num_clusters: int,
    seed: int,
    restarts: int = 10,
) -> list[np.ndarray]:
    """K-means on L2-normalised features, fitted on train: clusters of train, then of the others.

    Lloyd's algorithm, the best of several k-means++ starts, at every N. MiniBatchKMeans was
    measured on 50,000 x 512 synthetic features, 10 clusters, 10 starts, one core, and not taken:
    2.4 s in place of 42 s, but NMI .60 in place of .72.

    Args:
        train_features: (N, D).
        other_features: arrays (M, D).

    Returns:
        (N,) and (M,) int64 arrays.

    Raises:
        ValueError: if there are fewer training rows than clusters.
    """
    if not 1 <= num_clusters <= len(train_features):
        raise ValueError(
            f"cannot make {num_clusters} clusters of {len(train_features)} training rows"
        )
    model = KMeans(num_clusters, n_init=restarts, random_state=seed)
    clusters = [model.fit_predict(normalize(train_features))]
    clusters += [model.predict(normalize(features)) for features in other_features]
    return [assigned.astype(np.int64) for assigned in clusters]


def mixture_clusters(
    train: np.ndarray, others: Sequence[np.ndarray], num_clusters: int, seed: int
) -> list[np.ndarray]:
    """A Gaussian mixture on principal components: clusters of train, then of the others.

    What a few lines of scikit-learn give on pixels: up to 40 components, full covariances, the
    best of ten starts, fitted on up to 20,000 rows.

    Args:
        train: (N, D).
        others: arrays (M, D).

    Returns:
        (N,) and (M,) int64 arrays.
    """
    sample = np.random.default_rng(seed).permutation(len(train))[:MIXTURE_ROWS]
    components = min(MIXTURE_COMPONENTS, len(sample), train.shape[1])
    pca = PCA(components, random_state=seed).fit(train[sample])
    model = GaussianMixture(num_clusters, n_init=10, reg_covar=1e-4, random_state=seed)
    model.fit(pca.transform(train[sample]))
    return [model.predict(pca.transform(rows)).astype(np.int64) for rows in (train, *others)]


def save_confusion_picture(
    path: str | os.PathLike,
    clusters: np.ndarray,
    labels: np.ndarray,
    mapping: np.ndarray,
    class_names: Sequence[str],
    cluster_names: Sequence[str] | None = None,
) -> None:
    """Save a PNG of the confusion matrix: a row for each true class, a column for each cluster.

    Every row is normalised to sum to 1. Columns are ordered by the class that `mapping` gives them,
    so a good clustering shows a diagonal; unassigned clusters come last. Cells carry their
    percentage up to 30 columns.

    Args:
        mapping: (num_clusters,).
        cluster_names: None shows the clusters' numbers.

    Raises:
        ValueError: as contingency does.
    """
    from matplotlib.figure import Figure

    mapping = np.asarray(mapping)
    counts = contingency(clusters, labels, len(mapping), len(class_names)).T  # (classes, clusters)
    order = np.argsort(np.where(mapping == UNASSIGNED, len(class_names), mapping), kind="stable")
    share = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[:, order]
    names = [name if len(name) <= 24 else name[:23] + "…" for name in map(str, class_names)]
    titles = [*names, "unassigned"]  # UNASSIGNED, -1, picks the last
    shown = cluster_names or range(len(mapping))
    columns = [f"{titles[mapping[cluster]]} ({shown[cluster]})" for cluster in order]

    rows, width = share.shape
    cell = 0.42 if width <= 30 else 0.2  # inches: room for a percentage, or for a label only
    # Figure rather than pyplot: no global state, and a notebook keeps its own backend.
    figure = Figure(figsize=(cell * width + 3.5, cell * rows + 2.2), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    # Class names are not formulas: a "$" in one must not start mathematics.
    axes.set_xticks(range(width), columns, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(rows), names, fontsize=8, parse_math=False)
    axes.set_xlabel("class mapped to (cluster)")
    axes.set_ylabel("true class")
    if width <= 30:
        for row, column in np.argwhere(share >= 0.005):
            color = "white" if share[row, column] > 0.5 else "black"
            percent = f"{100 * share[row, column]:.0f}"
            axes.text(column, row, percent, ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.6)
    # Written beside the picture and renamed, so that an interruption leaves no half of a file.
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
    partial.replace(path)


def _require_range(name: str, values: np.ndarray, limit: int) -> None:
    """Raise ValueError unless values are integers in 0..limit - 1."""
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    if values.min() < 0 or values.max() >= limit:
        raise ValueError(f"{name} must lie in 0..{limit - 1}, found {values.min()}..{values.max()}")
