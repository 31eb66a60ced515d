"""What evaluate.py reports: the scores of every stage on every split, as a dict and as a table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src_py.backbones import Backbone
from src_py.clusters.names import ClusterNames
from src_py.feature_space import BLOCK, gathered
from src_py.images.loaders import ImageLoader, ordered_batches
from src_py.inference import infer
from src_py.models import ClusteringModel
from src_py.run.hardware import Hardware
from src_py.scoring.metrics import (
    cluster_balance,
    cluster_summary,
    hungarian_mapping,
    kmeans_clusters,
    majority_mapping,
    mapping_name,
    mixture_clusters,
    neighbor_accuracy,
    save_confusion_picture,
    score,
)

# Starts of k-means, of which the best is kept; pixels have many dimensions, each start is slow.
RESTARTS = {"kmeans": 10, "kmeans_pixels": 2}


@dataclass
class Split:
    """One split, as the models see it.

    Attributes:
        images: all of them, uint8.
        labels: int64 (N,) and the class names, or None.
        features: (N, D) of the pretext.
        probabilities: (N, clusters) by stage.
        neighbors: (N, k) of the mining, where it has been done for this split.
    """

    images: ImageLoader
    labels: tuple[np.ndarray, list[str]] | None
    features: np.ndarray
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    neighbors: np.ndarray | None = None


@dataclass(frozen=True)
class Computation:
    """How models are applied to the images of one split.

    Attributes:
        scratch: folder for what is made of all images, where it is large; None keeps it in memory.
    """

    images: ImageLoader
    hardware: Hardware
    batch_size: int
    scratch: Path | None = None

    def features(self, backbone: Backbone) -> np.ndarray:
        """(N, D) float32"""
        return self._together(self._outputs(backbone))

    def probabilities(
        self, model: ClusteringModel, temperature: float, names: ClusterNames, features: np.ndarray
    ) -> np.ndarray:
        """(N, groups) of a classifier with one head: merged clusters count as one.

        Args:
            features: (N, D) of the pretext, which are the classifier's own where its network is
                frozen: it is not asked again.
        """
        outputs = self._outputs(model)
        if model.backbone.spec.frozen:
            blocks = torch.from_numpy(features).split(BLOCK)
            outputs = (model.heads(block.to(self.hardware.device)).cpu() for block in blocks)
        first = [group[0] for group in names.groups]
        merged = (names.merged((each[0] / temperature).softmax(dim=1).numpy()) for each in outputs)
        return self._together(torch.from_numpy(each[:, first]) for each in merged)

    def _outputs(self, model: Backbone | ClusteringModel) -> Iterator[Tensor]:
        batches = infer(model, self.images, self.hardware, self.batch_size)
        return (batch.cpu() for batch in batches)

    def _together(self, blocks: Iterable[Tensor]) -> np.ndarray:
        """(N, n) float32 of blocks (B, n)."""
        return gathered(blocks, len(self.images), scratch=self.scratch).numpy()


def evaluate(splits: dict[str, Split], pixels: bool, seed: int) -> dict:
    """The content of evaluation.json."""
    clusters = _number_of_clusters(splits)
    result: dict = {name: {} for name in splits}
    labels = {name: split.labels for name, split in splits.items() if split.labels}
    if clusters is not None and labels:
        classes = max(len(class_names) for _, class_names in labels.values())
        assigned = {name: dict(_assignments(split)) for name, split in splits.items()}
        for row, found in _baselines(splits, clusters, seed, pixels).items():
            for name, clusters_of_split in zip(splits, found, strict=True):
                assigned[name] = {row: clusters_of_split, **assigned[name]}
        for name, (of_split, _) in labels.items():
            for row, clusters_of_split in assigned[name].items():
                result[name][row] = score(clusters_of_split, of_split, clusters, classes)
        result["mapping"] = mapping_name(clusters, classes)
        neighbors = splits["train"].neighbors
        if neighbors is not None and "train" in labels:
            result["neighbor_accuracy"] = neighbor_accuracy(neighbors, labels["train"][0])
    result["clusters"] = clusters
    result["label_free"] = {
        name: {
            stage: cluster_summary(p) | {"balance": cluster_balance(p)}
            for stage, p in split.probabilities.items()
        }
        for name, split in splits.items()
    }
    return result


def as_table(run: str, result: dict) -> str:
    """The result as lines of text for a person."""
    lines = []
    splits = list(result["label_free"])
    if "mapping" in result:
        lines.append(
            f"run {run}: {result['clusters']} clusters, accuracy by {result['mapping']} mapping"
        )
        differs = any(_majority_differs(row) for name in splits for row in result[name].values())
        uneven = any(_macro_differs(row) for name in splits for row in result[name].values())
        columns = ["acc", *(["macro_acc"] if uneven else []), "nmi", "ari"]
        columns += ["majority_acc", "hungarian_acc"] if differs else []
        columns = [column for column in columns if column != f"{result['mapping']}_acc"]
        titles = {"macro_acc": "MACRO", "majority_acc": "MAJORITY", "hungarian_acc": "HUNGARIAN"}
        for name in filter(result.get, splits):  # those with labels
            header = "".join(f"{titles.get(column, column.upper()):>10}" for column in columns)
            lines.append(f"{name:<14}{header}")
            for row, scores in result[name].items():
                values = "".join(f"{scores[column]:>10.3f}" for column in columns)
                lines.append(f"  {row:<12}{values}")
        if "neighbor_accuracy" in result:
            lines.append(f"neighbors of the same class: {result['neighbor_accuracy']:.3f}")
    else:
        found = f"{result['clusters']} clusters" if result["clusters"] else "no classifier yet"
        lines.append(f"run {run}: {found}, no labels: label-free scores")
    for name in splits:
        for stage, summary in result["label_free"][name].items():
            lines.append(
                f"{name} {stage}: {summary['alive']} clusters alive, "
                f"{summary['smallest']} to {summary['largest']} images each, "
                f"mean confidence {summary['confidence']:.3f}, "
                f"{summary['confident_fraction']:.1%} above .99, "
                f"balance {summary['balance']:.3f}"
            )
    return "\n".join(lines)


def save_confusion(
    path: Path, splits: dict[str, Split], stage: str, cluster_names: Sequence[str]
) -> None:
    """Draws the confusion matrix of the last split that has labels."""
    labelled = [(split, split.labels) for split in splits.values() if split.labels]
    if not labelled:
        return
    split, (labels, class_names) = labelled[-1]
    probabilities = split.probabilities[stage]
    counts = (probabilities.shape[1], len(class_names))
    fit = hungarian_mapping if mapping_name(*counts) == "hungarian" else majority_mapping
    clusters = probabilities.argmax(axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    mapping = fit(clusters, labels, *counts)
    save_confusion_picture(path, clusters, labels, mapping, class_names, cluster_names)


def _baselines(
    splits: dict[str, Split], clusters: int, seed: int, pixels: bool
) -> dict[str, list[np.ndarray]]:
    """What SCAN is compared with: the clusters of every split, by the row of the table."""
    train, *others = (split.features for split in splits.values())
    found = {"kmeans": kmeans_clusters(train, others, clusters, seed, RESTARTS["kmeans"])}
    if pixels:
        train, *others = (_pixels(split.images) for split in splits.values())
        restarts = RESTARTS["kmeans_pixels"]
        found["kmeans_pixels"] = kmeans_clusters(train, others, clusters, seed, restarts)
        found["mixture_pixels"] = mixture_clusters(train, others, clusters, seed)
    return found


def _number_of_clusters(splits: dict[str, Split]) -> int | None:
    """The classifier's clusters; before there is one, the number of classes, if there are as many
    images."""
    train = splits["train"]
    for probabilities in train.probabilities.values():
        return probabilities.shape[1]
    return min(len(train.labels[1]), len(train.features)) if train.labels else None


def _assignments(split: Split) -> list[tuple[str, np.ndarray]]:
    return [(stage, p.argmax(axis=1)) for stage, p in split.probabilities.items()]


def _pixels(images: ImageLoader) -> np.ndarray:
    """(N, C x S x S) float32 in [0, 1]."""
    batches = images.batches(ordered_batches(len(images), 1024))
    return torch.cat([batch.flatten(1).cpu() for _, batch in batches]).numpy() / np.float32(255)


def _majority_differs(scores: dict[str, float]) -> bool:
    return round(scores["majority_acc"], 3) != round(scores["hungarian_acc"], 3)


def _macro_differs(scores: dict[str, float]) -> bool:
    """By more than the classes of a balanced set differ in size by chance."""
    return abs(scores["macro_acc"] - scores["acc"]) > 0.01
