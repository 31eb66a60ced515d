"""gallery.html: one file in which a person looks at the clusters, names and merges them.

    write_gallery(Path("out/gallery.html"), content)

The page needs no server, no network and no other file. Its images are ordered by cluster and, in
each, by confidence: a cluster is then one range of rows, its most typical images are the first of
it, and few sprites have to be decoded to show either end.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, Template
from PIL import Image

from src_py.clusters.names import Suggestions
from src_py.neighbors import find_neighbors, l2_normalize, with_directions
from src_py.output.thumbnails import thumbnail
from src_py.run.files import write_atomically

LARGEST_TILE = 48  # px: side of a thumbnail in the page
SHEET_SIDE = 16  # thumbnails along each side of a sprite sheet
SHEET_QUALITY = 80  # of 100, WebP
NEIGHBORS_SHOWN = 8
MAP_SAMPLE = 2000  # rows that t-SNE places itself
MAP_WIDTH = 50  # dimensions that PCA leaves to t-SNE
MAP_ITERATIONS = 500  # of t-SNE, half of what scikit-learn takes; neighbors lie as near
MAP_STEPS = 9999  # the page has map positions as whole numbers from 0 to this
PLACED_BY = 3  # sampled rows that place another row
BLOCK_ROWS = 4096  # compared with the sample at a time


@dataclass
class GalleryContent:
    """What the page shows: N images in C clusters, a row of each array for each image.

    Raises:
        ValueError: where shapes or numbers do not fit together.
    """

    title: str
    thumbnails: np.ndarray  # (N, S, S, 3) uint8, square, of any size S
    names: list[str]  # N file names
    probabilities: np.ndarray  # (N, C), before any clusters are merged
    features: np.ndarray  # (N, D)
    neighbors: np.ndarray | None  # (N, k) rows, the most similar first; None: find them
    cluster_names: dict[int, str]  # the names known so far
    merged: list[list[int]]  # the groups of clusters known to be one
    classifier: str = ""  # of ClusterNames
    suggestions: Suggestions = field(default_factory=dict)  # of ClusterNames

    def __post_init__(self) -> None:
        images = len(self.names)
        if images == 0:
            raise ValueError("a gallery needs at least one image")
        if self.thumbnails.shape != (images, *self.thumbnails.shape[1:2] * 2, 3):
            raise ValueError(f"thumbnails must be ({images}, S, S, 3), got {self.thumbnails.shape}")
        rows = {"probabilities": self.probabilities, "features": self.features}
        if self.neighbors is not None:
            rows["neighbors"] = self.neighbors
        for what, array in rows.items():
            if array.ndim != 2 or len(array) != images:
                raise ValueError(f"{what} must have {images} rows, got shape {array.shape}")
        _require_numbers("neighbors", self.neighbors, images)
        _require_numbers("cluster_names", list(self.cluster_names), self.clusters)
        in_groups = [cluster for group in self.merged for cluster in group]
        _require_numbers("merged", in_groups, self.clusters)

    @property
    def clusters(self) -> int:
        return self.probabilities.shape[1]


def write_gallery(path: Path, content: GalleryContent) -> None:
    """Writes the page, all or nothing; the same content gives the same bytes.

    Raises:
        ValueError: where a row of features is not finite or all zero, since the map and the
            neighbors need its direction.
    """
    confidence = content.probabilities.max(axis=1)
    cluster = content.probabilities.argmax(axis=1)
    order = np.lexsort((-confidence, cluster))
    names = [content.names[row] for row in order]
    data = {
        "names": names,
        "thousandths": _whole(confidence[order], 1000),  # of confidence
        "positions": _whole(map_features(content.features)[order], MAP_STEPS),
        "neighbors": _page_neighbors(content, order),
        "clusterNames": content.cluster_names,
        "merged": [sorted(group) for group in content.merged],
        "classifier": content.classifier,
        "suggestions": content.suggestions,
        "mapSteps": MAP_STEPS,
        "sheetSide": SHEET_SIDE,
    }
    page = page_template("gallery_template.html").stream(
        title=content.title,
        cards=_cards(content, cluster, confidence),
        images=len(names),
        data=data,
        nonce=_nonce(names),
        sheets=_sheets(content.thumbnails, order),
    )
    # A file name that is not valid Unicode would otherwise end the writing of a title.
    write_atomically(path, lambda temporary: page.dump(str(temporary), "utf-8", errors="replace"))


def page_template(name: str) -> Template:
    """A page of this folder, in which all that is put in is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template(name)


def map_features(features: np.ndarray) -> np.ndarray:
    """Places (N, D) features in a plane by cosine similarity: (N, 2) float32 in [0, 1].

    t-SNE places a sample of at most 2,000 rows; every other row goes to the mean of the sampled
    rows most similar to it, weighted by similarity. Computed by one thread, because t-SNE's sums
    depend on the number of threads.

    Raises:
        ValueError: where the features are not finite.
    """
    from threadpoolctl import threadpool_limits

    unit = l2_normalize(with_directions(features))
    chosen = np.random.default_rng(0).permutation(len(unit))[:MAP_SAMPLE]
    with threadpool_limits(1):
        placed = _place_sample(unit[chosen])
        positions = np.concatenate(
            [
                _place_near(unit[start : start + BLOCK_ROWS], unit[chosen], placed)
                for start in range(0, len(unit), BLOCK_ROWS)
            ]
        )
    positions[chosen] = placed
    lowest = positions.min(axis=0)
    return (positions - lowest) / np.maximum(positions.max(axis=0) - lowest, 1e-12)


def _place_sample(unit: np.ndarray) -> np.ndarray:
    """(M, D) rows -> (M, 2) float32 by t-SNE, on their principal components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows, width = unit.shape
    if rows < 4 or np.ptp(unit, axis=0).max() < 1e-6:  # too few or all alike: side by side
        return np.stack([np.arange(rows), np.zeros(rows)], axis=1).astype(np.float32)
    components = PCA(min(MAP_WIDTH, rows, width), random_state=0).fit_transform(unit)
    perplexity = min(30, (rows - 1) / 3)  # scikit-learn's default, or what few rows allow
    start = "pca" if components.shape[1] > 1 else "random"
    placing = TSNE(perplexity=perplexity, init=start, max_iter=MAP_ITERATIONS, random_state=0)
    return placing.fit_transform(components)


def _place_near(unit: np.ndarray, sampled: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """(B, D) rows among (M, D) sampled ones at (M, 2) -> (B, 2)."""
    count = min(PLACED_BY, len(sampled))
    similarity = unit @ sampled.T  # (B, M)
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    # By the inverse of the squared distance: similarities themselves are all nearly alike, and
    # would put a row halfway between islands instead of on its own.
    distance = 1 - np.take_along_axis(similarity, nearest, axis=1)
    weights = 1 / np.maximum(distance, 1e-6) ** 2
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("bk,bkp->bp", weights, placed[nearest])


def _page_neighbors(content: GalleryContent, order: np.ndarray) -> list[list[int]]:
    """The neighbors of each image, in the page's order and as numbers of that order."""
    neighbors = content.neighbors
    if neighbors is None:
        count = min(NEIGHBORS_SHOWN, len(order) - 1)
        if count == 0:
            return [[]]
        neighbors, _ = find_neighbors(with_directions(content.features), count)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[neighbors[order, :NEIGHBORS_SHOWN]].tolist()


def _cards(
    content: GalleryContent, cluster: np.ndarray, confidence: np.ndarray
) -> list[dict[str, object]]:
    """For each cluster: number, first (its first image in the page), size, share, confidence."""
    sizes = np.bincount(cluster, minlength=content.clusters)
    sums = np.bincount(cluster, weights=confidence, minlength=content.clusters)
    return [
        {
            "number": number,
            "first": int(sizes[:number].sum()),
            "size": int(size),
            "share": size / len(cluster),
            "confidence": sums[number] / max(size, 1),
            "name": content.cluster_names.get(number, ""),
        }
        for number, size in enumerate(sizes)
    ]


def _sheets(thumbnails: np.ndarray, order: np.ndarray) -> Iterator[str]:
    """The thumbnails in the page's order, as square WebP sheets in base64."""
    side = min(thumbnails.shape[1], LARGEST_TILE)
    per_sheet = SHEET_SIDE**2
    for start in range(0, len(order), per_sheet):
        rows = order[start : start + per_sheet]
        tiles = np.zeros((per_sheet, side, side, 3), dtype=np.uint8)
        tiles[: len(rows)] = [np.asarray(thumbnail(thumbnails[row], side)) for row in rows]
        grid = tiles.reshape(SHEET_SIDE, SHEET_SIDE, side, side, 3).swapaxes(1, 2)
        sheet = Image.fromarray(grid.reshape(SHEET_SIDE * side, SHEET_SIDE * side, 3))
        file = io.BytesIO()
        sheet.save(file, "WEBP", quality=SHEET_QUALITY)
        yield base64.b64encode(file.getvalue()).decode("ascii")


def _nonce(names: list[str]) -> str:
    """What marks the page's own script. It depends on all names, so that none can contain it."""
    return hashlib.sha256(json.dumps(names).encode("ascii")).hexdigest()[:32]


def _whole(fractions: np.ndarray, steps: int) -> list:
    return np.rint(fractions * steps).astype(int).tolist()


def _require_numbers(what: str, numbers: np.ndarray | list[int] | None, count: int) -> None:
    """
    Raises:
        ValueError: unless all numbers are from 0 to count - 1.
    """
    if numbers is None or np.size(numbers) == 0:
        return
    if np.min(numbers) < 0 or np.max(numbers) >= count:
        raise ValueError(f"{what} must hold numbers from 0 to {count - 1}")
