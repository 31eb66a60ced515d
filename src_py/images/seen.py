"""Which image each row of a run's features is, by its name, and by its pixels."""

import csv

from src_py.images.folders import cached_digests, pixels_digest
from src_py.images.names import Names
from src_py.run.csv_tables import path_from_cell
from src_py.run.errors import UserError
from src_py.run.files import RunFiles


def read_rows(files: RunFiles) -> Names:
    """The image of each row of features.npy and neighbors.npy.

    Raises:
        UserError: naming the command when they have not been made, or are damaged.
    """
    rows = files.made(files.rows, "extract_features")
    with rows.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return Names.of(path_from_cell(row["path"]) for row in csv.DictReader(file))


def rows_by_pixels(files: RunFiles) -> dict[bytes, int]:
    """The row of features.npy of every image of a run, by its `folders.pixel_digest`: what frozen
    weights have seen.

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
