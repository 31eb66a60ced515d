"""Options of export.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.base_config import RunConfig


@dataclass(frozen=True)
class ExportConfig(RunConfig):
    out: Path = Path("out")  # folder for <run>.onnx, <run>.pt2 and <run>.md
    format: Literal["onnx", "pt2", "both"] = "both"  # for onnxruntime, for torch, or for each

    @property
    def formats(self) -> tuple[str, ...]:
        return ("onnx", "pt2") if self.format == "both" else (self.format,)
