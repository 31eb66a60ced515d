"""What a gallery needs of each image, gathered block by block while images are classified."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from src_py.clusters.names import ClusterNames
from src_py.output.thumbnails import thumbnail

LARGEST_THUMBNAIL = 48  # px; as small as it may be, for 50,000 of them stay in memory


@dataclass
class GalleryImages:
    """Thumbnails, features and probabilities of images, a block for each call of `add`."""

    names: list[str] = field(default_factory=list)
    _thumbnails: list[np.ndarray] = field(default_factory=list)
    _features: list[np.ndarray] = field(default_factory=list)
    _probabilities: list[np.ndarray] = field(default_factory=list)

    def add(
        self, names: Sequence[str], pixels: Tensor, features: Tensor, probabilities: np.ndarray
    ) -> None:
        """
        Args:
            pixels: (B, C, S, S) uint8.
            features: (B, D).
            probabilities: (B, clusters), before clusters are merged.
        """
        self.names += names
        self._thumbnails.append(_thumbnails(pixels))
        self._features.append(features.float().cpu().numpy())
        self._probabilities.append(probabilities)

    def write(
        self,
        path: Path,
        title: str,
        cluster_names: ClusterNames,
        neighbors: np.ndarray | None = None,
    ) -> None:
        """Writes the page.

        Args:
            neighbors: (N, k) rows, where they are known; None finds them.
        """
        from src_py.output.gallery_page import GalleryContent, write_gallery

        content = GalleryContent(
            title=title,
            thumbnails=np.concatenate(self._thumbnails),
            names=self.names,
            probabilities=np.concatenate(self._probabilities),
            features=np.concatenate(self._features),
            neighbors=neighbors,
            cluster_names=cluster_names.names,
            merged=[list(group) for group in cluster_names.merge],
            classifier=cluster_names.classifier,
            suggestions=cluster_names.suggestions,
        )
        write_gallery(path, content)


def _thumbnails(pixels: Tensor) -> np.ndarray:
    """(B, C, S, S) uint8 -> (B, T, T, 3) uint8, T at most 48."""
    side = min(pixels.shape[-1], LARGEST_THUMBNAIL)
    images = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return np.stack([np.asarray(thumbnail(image, side)) for image in images])
