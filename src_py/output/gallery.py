"""Pictures of clusters for a person to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from src_py.images.loaders import ImageLoader
from src_py.output.thumbnails import thumbnail
from src_py.run.files import write_atomically

TILE = 48  # px: side of a thumbnail
MARGIN = 4  # px
LABEL_WIDTH = 150  # px: room for a row's text


def save_contact_sheet(
    path: Path,
    images: ImageLoader,
    probabilities: np.ndarray,
    names: Sequence[str],
    per_cluster: int = 16,
) -> None:
    """Writes a PNG with a row for each cluster: its most typical images, the most certain first.

    Args:
        images: N of them.
        probabilities: (N, clusters).
        names: of the clusters.
    """
    clusters = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    count = probabilities.shape[1]
    step = TILE + MARGIN
    sheet = Image.new("RGB", (LABEL_WIDTH + per_cluster * step, count * step + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for cluster in range(count):
        members = np.flatnonzero(clusters == cluster)
        typical = members[np.argsort(-confidence[members], kind="stable")][:per_cluster]
        top = MARGIN + cluster * step
        draw.text(
            (MARGIN, top + TILE // 4), f"cluster {names[cluster]}\n{len(members)} images", "black"
        )
        if len(typical) == 0:
            continue
        ((_, shown),) = images.batches([torch.from_numpy(typical)])
        for column, pixels in enumerate(shown.permute(0, 2, 3, 1).cpu().numpy()):
            sheet.paste(thumbnail(pixels, TILE), (LABEL_WIDTH + column * step, top))
    write_atomically(path, lambda temporary: sheet.save(temporary))
