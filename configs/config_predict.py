"""Options of predict.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from configs.base_config import LoadingOption, NetworkOptions, RunConfig
from src_py.run.errors import UserError


@dataclass(frozen=True)
class PredictConfig(LoadingOption, NetworkOptions, RunConfig):
    paths: Positional[tuple[Path, ...]] = ()  # images, and folders of images
    out: Path = Path("out")  # folder for predictions.csv, skipped.csv and all else that is written
    batch_size: int = 256  # images a step
    gallery: bool = False  # also write gallery.html: look at the clusters, name them, merge them
    sort: Literal["copy", "link", "move"] | None = None  # into a folder of OUT for each name
    unsure: float = 0.0  # confidence below which --sort puts an image into OUT/unsure, 0 to 1
    dry_run: bool = False  # only say what --sort would do
    review: int = 0  # write review.csv and review.html with so many of the least confident images
    hand_off: bool = False  # write files that Label Studio and FiftyOne import

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sort is None and (self.dry_run or self.unsure):
            option = "--dry-run" if self.dry_run else "--unsure"
            raise UserError(f"{option} says how to sort: give --sort copy, link or move too")
        if self.sort == "move" and self.hand_off and not self.dry_run:
            raise UserError(
                "--hand-off would name files that --sort move takes away: "
                "sort by copy or link, or hand off in a second call, on the sorted folders"
            )
        if not self.paths and (self.sort or self.review or self.hand_off):
            raise UserError("--sort, --review and --hand-off need images: name files or folders")
        if self.sort in ("copy", "link") and self.out.resolve() in map(Path.resolve, self.paths):
            raise UserError(f"--out {self.out}: is a folder to be sorted; choose another")
