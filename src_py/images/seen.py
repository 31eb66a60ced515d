"""Which images of a run frozen weights have seen, by their pixels."""

from src_py.images.folders import cached_digests, pixels_digest
from src_py.images.run_images import read_rows
from src_py.run.errors import UserError
from src_py.run.files import RunFiles


def rows_by_pixels(files: RunFiles) -> dict[bytes, int]:
    """The row of features.npy of every image of a run, by its `folders.pixel_digest`.

    Empty where the digests are not kept, or are not those of the mining.
    """
    mined = (files.record("extract_features") or {}).get("images", {}).get("pixels")
    try:
        digests = cached_digests(files.checkpoints, "train")
        if not mined or pixels_digest(read_rows(files), digests) != mined:
            return {}
    except UserError:
        return {}
    return {digest.tobytes(): row for row, digest in enumerate(digests)}
