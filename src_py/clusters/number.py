"""How many clusters? What can be seen of it without labels, for one number after another.

    study = ClusterNumberStudy(features, pairs, images=10_000, seed=0)
    recommendation = recommend([study.examine(clusters, seeds=3) for clusters in range(2, 21)])

For each number K, linear heads are trained on stored features several times over, each time on
another random half of the images; of each time the head of lowest held-out SCAN loss is kept.
Three measures of what came out are independent enough to check each other: whether
neighbors meet (loss), whether another half finds the same (agreement), and whether the clusters
lie apart (silhouette).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score
from torch import Tensor

from src_py.cluster_heads import head_steps, start_at_prototypes
from src_py.feature_space import condition
from src_py.images.loaders import shuffled_batches
from src_py.models import ClusterHeads
from src_py.neighbor_pairs import NeighborPairs
from src_py.run.errors import UserError
from src_py.run.files import write_atomically
from src_py.run.hardware import mix_seed
from src_py.stored_features import StoredFeatures

RECOMMENDATION_FILE = "clusters.json"  # in ckp/<run>/: {"recommended": K, "reason": one line}

# Those of scan.py with the recipe 'best', but for fewer candidates.
HEADS = 8
EPOCHS = 30
BATCH_SIZE = 512
LEARNING_RATE = 3e-2
COMPONENTS = 64
ENTROPY_WEIGHT = 5.0

DRAWS = 5  # neighbors of each held-out image that the loss is measured with
SILHOUETTE_ROWS = 2000  # its cost is quadratic
NO_STRUCTURE = 0.25  # a best silhouette below it shows none (Kaufman and Rousseeuw, 1990)
HIGHEST = 20  # clusters, unless asked for more
FEWEST_COMPARED = 3  # numbers, for a finer division to be said
ABOUT_AS_GOOD = 0.1  # of the best value, the most that a finer division falls behind
FEWEST_PER_CLUSTER = 4  # images, on average: half of them train


@dataclass(frozen=True)
class Evidence:
    """What speaks for a number of clusters; means over the seeds.

    Attributes:
        clusters: K.
        loss: SCAN loss of the half that was not trained on, as (consistency + log K - entropy) /
            log K: what is lost of the log K nats that K clusters can tell. At every K, 0 is
            certainty, neighbors that all meet and equal clusters; 1 is an output that is the same
            for all images. The smaller the better.
        agreement: adjusted Rand index between the clusters of two seeds, mean over pairs of seeds.
            1 is the same clusters, 0 is chance. The larger the better.
        silhouette: by cosine distance of the features, in [-1, 1]. The larger the better.
        smallest: share of the images in the smallest cluster, in [0, 1 / K].
    """

    clusters: int
    loss: float
    agreement: float
    silhouette: float
    smallest: float


@dataclass(frozen=True)
class Recommendation:
    """
    Attributes:
        clusters: the number that is ahead.
        finer: the largest number that is about as good as the one that is ahead among those of
            twice as many clusters and more; `clusters` where too few of them were tried. Kinds have
            kinds of their own, as flowers are divided by colour, then by species: what a person has
            in mind lies between the two.
        reason: one line.
    """

    clusters: int
    finer: int
    reason: str

    def __str__(self) -> str:
        told = f"K = {self.clusters} ({self.reason})"
        if self.finer == self.clusters:
            return told
        return f"{told}\nrange: K = {self.clusters} for coarse kinds to {self.finer} for fine ones"


class ClusterNumberStudy:
    """Trains heads for any number of clusters on the same images, and gathers the evidence."""

    def __init__(self, features: Tensor, pairs: NeighborPairs, images: int, seed: int) -> None:
        """
        Args:
            features: (N, D) float32, as the backbone gives them.
            pairs: of the same N rows, on the same device.
            images: rows that are drawn to train and to judge; their neighbors may be any row.
        """
        self.features = condition(features, COMPONENTS)
        self.stored = StoredFeatures(self.features)
        self.pairs = pairs
        self.seed = seed
        random = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(features), generator=random)[:images]
        self.rows = rows.to(features.device)
        shown = self.features[self.rows[:SILHOUETTE_ROWS]].cpu().numpy()
        self.distances = pairwise_distances(shown, metric="cosine").clip(min=0)
        np.fill_diagonal(self.distances, 0)

    def default_highest(self, lowest: int) -> int:
        """The largest number of clusters to try where nobody has said it."""
        return max(lowest + 1, min(HIGHEST, len(self.rows) // FEWEST_PER_CLUSTER))

    def require_images_for(self, clusters: int) -> None:
        """
        Raises:
            UserError: when there are fewer than four images for a cluster.
        """
        most = len(self.rows) // FEWEST_PER_CLUSTER
        if clusters > most:
            raise UserError(
                f"--highest {clusters}: {len(self.rows)} images are enough for at most {most}"
            )

    def examine(self, clusters: int, seeds: int) -> Evidence:
        """What heads with so many clusters show, trained `seeds` times (at least 2)."""
        losses, assignments = zip(
            *(self._train(clusters, trial) for trial in range(seeds)), strict=True
        )
        pairs = itertools.combinations(assignments, 2)
        counts = [np.bincount(each, minlength=clusters) for each in assignments]
        return Evidence(
            clusters,
            loss=mean(losses),
            agreement=mean(float(adjusted_rand_score(*pair)) for pair in pairs),
            silhouette=mean(map(self._silhouette, assignments)),
            smallest=mean(float(count.min() / count.sum()) for count in counts),
        )

    def _train(self, clusters: int, trial: int) -> tuple[float, np.ndarray]:
        """The best head's comparable loss and the cluster of each of `rows`, (M,) int64."""
        seed = mix_seed(self.seed, clusters, trial) % 2**30  # faiss takes 31 bits
        torch.manual_seed(seed)  # of the heads' weights
        generator = torch.Generator(self.rows.device).manual_seed(seed)
        order = torch.randperm(len(self.rows), generator=generator, device=self.rows.device)
        trained, held_out = self.rows[order].chunk(2)
        heads = ClusterHeads(self.features.shape[1], clusters, HEADS).to(self.rows.device)
        start_at_prototypes(heads, self.features[trained], seed)
        optimizer = torch.optim.Adam(heads.parameters(), lr=LEARNING_RATE)
        fixed = (self.stored, self.pairs)
        for _ in range(EPOCHS):
            shuffled = shuffled_batches(len(trained), BATCH_SIZE, generator)
            batches = (trained[rows] for rows in shuffled)
            for _ in head_steps(heads, optimizer, *fixed, batches, generator, ENTROPY_WEIGHT):
                pass
        with torch.no_grad():
            judged = held_out.repeat(DRAWS)
            loss = self.pairs.drawn_loss(heads, self.stored, judged, generator, ENTROPY_WEIGHT)
            best = int(loss.total.argmin())
            assigned = heads.keep([best])(self.features[self.rows])[0].argmax(dim=1)
        lost = float(loss.consistency[best] - loss.entropy[best]) / math.log(clusters) + 1
        return lost, assigned.cpu().numpy()

    def _silhouette(self, assigned: np.ndarray) -> float:
        shown = assigned[: len(self.distances)]
        if len(np.unique(shown)) < 2:
            return -1.0  # everything in one cluster: nothing lies apart
        return float(silhouette_score(self.distances, shown, metric="precomputed"))


def recommend(evidence: Sequence[Evidence]) -> Recommendation:
    """The number that is ahead when loss, agreement and silhouette are taken together.

    In each measure a number has a point for every other one that is worse (Borda's count); the most
    points win. Each measure fails in a way of its own: the loss likes few clusters that neighbors
    cannot leave, the agreement likes any split that is easy to find again, the silhouette likes
    clusters of one shape. Ranks have no scale and no threshold, and a number that is second in all
    three comes before one that is first in two and among the last in the third. Of equal points the
    larger number counts, as clusters are more easily merged than divided.
    """
    chosen, best = _ahead(evidence)
    reasons = [_votes(best, chosen)]
    if max(best.values()) - min(best.values()) > chosen / 4:
        reasons.append("they differ, so look at the clusters of more than one of these numbers")
    if max(each.silhouette for each in evidence) < NO_STRUCTURE:
        reasons.append("the features hardly form groups, so trust your own idea of the number more")
    if chosen == max(each.clusters for each in evidence):
        reasons.append(f"the end of the range: try also --highest {2 * chosen}")
    finer = [each for each in evidence if each.clusters >= 2 * chosen]
    finest = _finest(finer) if len(finer) >= FEWEST_COMPARED else chosen
    return Recommendation(chosen, finest, "; ".join(reasons))


def _finest(evidence: Sequence[Evidence]) -> int:
    """The largest number that is, by each measure, within a tenth of the one that is ahead."""
    ahead = _ahead(evidence)[0]
    best = next(each for each in evidence if each.clusters == ahead)
    return max(
        each.clusters
        for each in evidence
        if each.loss <= best.loss + ABOUT_AS_GOOD * abs(best.loss)
        and each.agreement >= best.agreement - ABOUT_AS_GOOD * abs(best.agreement)
        and each.silhouette >= best.silhouette - ABOUT_AS_GOOD * abs(best.silhouette)
    )


def _ahead(evidence: Sequence[Evidence]) -> tuple[int, dict[str, int]]:
    """The number of most points, and the best number by each measure."""
    falling = sorted(evidence, key=lambda each: -each.clusters)
    measures = {
        "held-out loss": {each.clusters: -each.loss for each in falling},
        "agreement": {each.clusters: each.agreement for each in falling},
        "silhouette": {each.clusters: each.silhouette for each in falling},
    }
    points = {
        each.clusters: sum(
            values[each.clusters] > other
            for values in measures.values()
            for other in values.values()
        )
        for each in falling
    }
    return _best_of(points), {name: _best_of(values) for name, values in measures.items()}


def _best_of(values: Mapping[int, float]) -> int:
    """The number of the highest value; of equal ones, the first."""
    return max(values, key=lambda number: values[number])


def _votes(best: dict[str, int], chosen: int) -> str:
    if len(set(best.values())) == 1:
        return f"{', '.join(best)} are all best there"
    told = ", ".join(f"{name} at {clusters}" for name, clusters in best.items())
    return f"best {told}; ranked together, {chosen} is ahead"


def save_plot(path: Path, evidence: Sequence[Evidence], recommended: int) -> None:
    """Writes a PNG with a small plot of each measure over K, the recommended K marked."""
    from matplotlib.figure import Figure

    titles = {
        "loss": "held-out SCAN loss (low is good)",
        "agreement": "agreement of seeds (high is good)",
        "silhouette": "silhouette (high is good)",
        "smallest": "smallest cluster, share of images",
    }
    clusters = [each.clusters for each in evidence]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        axes.plot(clusters, [getattr(each, name) for each in evidence], marker="o", markersize=3)
        axes.axvline(recommended, color="tab:red", linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("clusters")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(f"recommended: {recommended} clusters (dashed)")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))
