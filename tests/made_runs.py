"""Runs as the stages leave them, made by hand: outputs of any content, with records that fit."""

from dataclasses import is_dataclass
from typing import Any

from src_py.run.files import RunFiles, as_plain, hashes, settings_digest, write_record

IMAGES = {"count": 40, "key": "", "pixels": "", "listing": ""}
SETTINGS: dict[str, Any] = {
    "source": "folder",
    "root": ".",
    "image_size": 16,
    "channels": 3,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}


def write_data(files: RunFiles, settings: dict[str, Any] | None = None, **told: Any) -> None:
    """data.json, as a first stage leaves it."""
    content = {"preset": "folder", "recipe": "best", "minutes": None, "images": IMAGES}
    write_record(files.data, content | {"settings": SETTINGS | (settings or {})} | told)


def write_stage(files: RunFiles, stage: str, config: Any = None, **told: Any) -> None:
    """A stage's record, of its outputs and inputs as they are; what is not there is left out."""
    outputs = [*files.outputs(stage)]
    if stage == "extract_features":
        outputs += [files.rows, files.views]
    options = as_plain(config) if is_dataclass(config) else config or {}
    record: dict[str, Any] = {"made_from": {}, "config": options, "stage": stage}
    record["outputs"] = hashes(path for path in outputs if path.exists())
    if files.data.exists():
        record["settings"] = settings_digest(files.settled())
    write_record(files.config(stage), record | told)
