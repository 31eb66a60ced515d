"""Whether images are signs (digits, letters, symbols) rather than photographs, by their looks."""

from pathlib import Path

from src_py.images.files import read_image, read_shorter_side
from src_py.images.finding import find_images
from src_py.images.opening import UnreadableImage

SMALL_SIDE = 64  # px; where images up to this side are grey, they are mostly signs, not photographs
GREY_TOLERANCE = 8  # levels that the channels of a grey JPEG may differ by
LOOKED_AT = 100  # images of a folder


def are_small_and_grey(root: Path) -> bool:
    """Whether the images below `root` are small, and grey whatever the files say of their channels.

    Judged by up to 100 of them, spread evenly; files that cannot be read are passed over. The first
    large or coloured one ends it, so that a folder of photographs costs no more than its listing.
    """
    paths = find_images(root)
    looked_at = 0
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        try:
            if read_shorter_side(path) > SMALL_SIDE:
                return False
            pixels = read_image(path)  # (H, W, 3)
        except UnreadableImage:
            continue
        if (pixels.max(axis=2).astype(int) - pixels.min(axis=2) > GREY_TOLERANCE).any():
            return False
        looked_at += 1
    return looked_at > 0
