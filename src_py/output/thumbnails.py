"""Small pictures of images, for pages and contact sheets."""

import numpy as np
from PIL import Image


def thumbnail(pixels: np.ndarray, side: int) -> Image.Image:
    """An RGB picture whose longer side is `side` px: enlarged without blur, or reduced with it.

    Args:
        pixels: (H, W, C) uint8, C 1 or 3.
    """
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).convert("RGB")
    scale = side / max(picture.size)
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize(size, method)
