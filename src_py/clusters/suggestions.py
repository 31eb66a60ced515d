"""Names for clusters, suggested by the words that their images' features go with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src_py.clusters.classifier import load_cluster_names
from src_py.run.arrays import load_features
from src_py.run.claim import editing
from src_py.run.files import RunFiles
from src_py.run.stages import LABELS_FILE, PRETEXTS
from src_py.run.stored_models import load_vocabulary
from src_py.run.vocabulary import Vocabulary

BATCH = 4096  # images whose words are told at once
LEAST_SCORE = 0.05  # below it a word is a guess
# How far a word counts less for being likely everywhere: with 0 all flowers are daisies, with 1 the
# oddest word wins. Chosen by looking at photos of flowers, scenes and waste.
AGAINST_ALL = 0.5


class Suggestion(NamedTuple):
    """A word for a cluster, and how clearly it is ahead of all others, in [0, 1]."""

    word: str
    score: float


def keep_suggestions(files: RunFiles, logits: Tensor, say: Callable[[str], None]) -> None:
    """Writes names for the clusters of a run into its labels.json, where its weights know words.

    A person accepts them or not: what has a name already keeps it.

    Args:
        logits: (N, C) of the run's classifier, in the order of its mining.
    """
    vocabulary = load_vocabulary(files.output(PRETEXTS[0]))
    if vocabulary is None:
        return
    confidence, assigned = logits.cpu().softmax(dim=1).max(dim=1)
    found = suggest_names(
        load_features(files), assigned.numpy(), vocabulary, logits.shape[1], confidence.numpy()
    )
    rounded = ([Suggestion(w.word, round(w.score, 3)) for w in words] for words in found)
    suggested = {cluster: tuple(words) for cluster, words in enumerate(rounded) if words}
    with editing(files):  # label.py may be open
        names = load_cluster_names(files, logits.shape[1]).with_suggestions(suggested)
        names.write(files.checkpoints / LABELS_FILE)
    told = [f"{cluster} {words[0].word}" for cluster, words in suggested.items()]
    say(f"names suggested, to be accepted or not: {', '.join(told) or 'none is clear'}")


def suggest_names(
    features: np.ndarray | Tensor,
    assigned: np.ndarray,
    vocabulary: Vocabulary,
    clusters: int,
    probabilities: np.ndarray | None = None,
    count: int = 3,
) -> list[tuple[Suggestion, ...]]:
    """Up to `count` words for each cluster, the best first; none where no word is clear.

    A word's worth for a cluster is the mean log-probability that it has for the cluster's images,
    less half of what it has for all images. The scores are these, through a softmax over the words.

    Args:
        features: (N, D) of the images, as the backbone gives them: those of features.npy.
        assigned: (N,) cluster of each image, -1 for none.
        clusters: how many there are.
        probabilities: (N,) by which an image counts in its cluster; None counts all alike.
    """
    wanted = torch.as_tensor(np.asarray(assigned), dtype=torch.int64)
    weight = torch.ones(len(wanted)) if probabilities is None else torch.as_tensor(probabilities)
    inside = wanted >= 0
    members = torch.zeros(len(wanted), clusters)  # (N, C)
    members[inside, wanted[inside]] = weight[inside].float()
    in_clusters, over_all = _log_probabilities(torch.as_tensor(features), members, vocabulary)
    scores = (in_clusters - AGAINST_ALL * over_all).softmax(dim=1)  # (C, W)
    best, words = scores.topk(min(count, len(vocabulary.words)), dim=1)
    suggested = []
    for cluster in range(clusters):
        told = zip(words[cluster].tolist(), best[cluster].tolist(), strict=True)
        found = [Suggestion(vocabulary.words[w], score) for w, score in told]
        is_there = bool(members[:, cluster].sum() > 0)
        suggested.append(tuple(s for s in found if is_there and s.score >= LEAST_SCORE))
    return suggested


def _log_probabilities(
    features: Tensor, members: Tensor, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor]:
    """Means of the words' log-probabilities: (C, W) over each cluster's images, (W,) over all."""
    words = len(vocabulary.words)
    sums, total = torch.zeros(members.shape[1], words), torch.zeros(words)
    for part, weights in zip(features.split(BATCH), members.split(BATCH), strict=True):
        told = vocabulary.logits(part.float()).log_softmax(dim=1)  # (B, W)
        sums += weights.T @ told
        total += told.sum(dim=0)
    sizes = members.sum(dim=0).clamp_min(1e-12)
    return sums / sizes[:, None], total / max(len(features), 1)
