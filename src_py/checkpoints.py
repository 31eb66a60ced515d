"""Reading and writing checkpoints: plain tensors and values, never pickled objects."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from src_py.cluster_labels import LABELS_FILE, ClusterLabels
from src_py.datasets import DataSettings
from src_py.errors import UserError
from src_py.models import (
    ClusterHeads,
    ClusteringModel,
    ContrastiveModel,
    build_backbone,
    spec_from_dict,
)
from src_py.run_files import RunFiles, as_plain, read_json, write_atomically

FORMAT = 1
CLASSIFIER_DIGITS = 12  # of the SHA-256 of scan.pt, in labels.json


def save_checkpoint(path: Path, content: dict) -> None:
    """Writes `content` (tensors, numbers, strings, lists, dicts) to `path`, all or nothing."""
    complete = {"format": FORMAT, **content}
    write_atomically(path, lambda temporary: torch.save(complete, temporary))


def load_checkpoint(path: Path) -> dict:
    """Reads a checkpoint onto the CPU.

    Raises:
        UserError: when the file is missing, damaged, or of another program or version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"{path} cannot be read as a checkpoint ({reason}); make it again with --restart"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version; make it again with --restart")
    return content


def digest(*paths: Path) -> str:
    """SHA-256 of the files' bytes: tells whether a later stage was made from just these."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def contrastive_content(model: ContrastiveModel) -> dict:
    """What rebuilds a pretext model."""
    projection_dim = model.projection_head[-1].out_features
    return {
        "backbone": model.backbone.spec.as_dict(),
        "projection_dim": projection_dim,
        "weights": _weights(model),
    }


def clustering_content(model: ClusteringModel, settings: DataSettings, temperature: float) -> dict:
    """What rebuilds a classifier, and how it must be shown images.

    Args:
        temperature: that its logits are divided by where a confidence is told.
    """
    return {
        "data": as_plain(settings),
        "temperature": temperature,
        "backbone": model.backbone.spec.as_dict(),
        "clusters": model.heads.clusters,
        "heads": model.heads.heads,
        "normalized": model.heads.normalized,
        "weights": _weights(model),
    }


def load_contrastive(path: Path) -> ContrastiveModel:
    content = load_checkpoint(path)
    model = ContrastiveModel(spec_from_dict(content["backbone"]), content["projection_dim"])
    model.load_state_dict(content["weights"])
    return model


def load_clustering(path: Path) -> tuple[ClusteringModel, dict]:
    """The classifier in `path` and the rest of what the checkpoint holds."""
    content = load_checkpoint(path)
    backbone = build_backbone(spec_from_dict(content["backbone"]))
    content.setdefault("normalized", False)  # of a checkpoint from before k-means was a candidate
    heads = ClusterHeads(
        backbone.feature_dim, content["clusters"], content["heads"], content["normalized"]
    )
    model = ClusteringModel(backbone, heads)
    model.load_state_dict(content.pop("weights"))
    content.setdefault("temperature", 1.0)  # of a checkpoint from before calibration
    return model, content


def load_cluster_labels(files: RunFiles, clusters: int) -> ClusterLabels:
    """The names and merged groups of a run's clusters.

    Args:
        clusters: how many the run's classifier has.

    Raises:
        UserError: when labels.json is damaged, or of another training.
    """
    classifier = digest(files.output("scan"))[:CLASSIFIER_DIGITS]
    return ClusterLabels.load(files.checkpoints / LABELS_FILE, clusters, classifier)


def require(files: RunFiles, path: Path, command: str) -> Path:
    """`path`, when it is there.

    Raises:
        UserError: naming the command that makes the missing file.
    """
    if not path.exists():
        raise UserError(
            f"run '{files.run}': {path} is missing; run first: python {command}"
            + _known_runs_hint(files)
        )
    return path


def is_current(files: RunFiles, stage: str, *made_from: Path) -> bool:
    """Whether a stage was made from these files as they are now."""
    stored = read_json(files.config(stage)) or {}
    return all(path.exists() for path in made_from) and stored.get("made_from") == digest(
        *made_from
    )


def made_from(files: RunFiles, stage: str) -> list[Path]:
    """What scan.py or selflabel.py trains from."""
    if stage == "selflabel":
        return [files.output("scan")]
    return [files.output("simclr"), files.features, files.neighbors]


def choose_classifier(files: RunFiles) -> Path:
    """selflabel.pt where it was made from scan.pt as that is now and has not lost what that knew.

    Raises:
        UserError: naming the command to run when there is neither.
    """
    require(files, files.data, f"simclr.py {files.option}")
    scan = require(files, files.output("scan"), f"scan.py {files.option}")
    self_labelled = files.output("selflabel")
    if not (is_current(files, "selflabel", scan) and self_labelled.exists()):
        print(f"selflabel.py has not been run on {scan}: using that")
        return scan
    record = read_json(files.config("selflabel")) or {}
    # A record from before there was evidence has none: nothing then speaks against the last stage.
    information = record.get("information", {"scan": 0.0, "selflabel": 0.0})
    if record.get("kept") == "selflabel" and information["selflabel"] < information["scan"]:
        print(f"{self_labelled} is worse than {scan} by evidence without labels: using {scan}")
        return scan
    return self_labelled


def require_current_mining(files: RunFiles, pretext: Path) -> None:
    """
    Raises:
        UserError: when the neighbors were found with another pretext model.
    """
    if not is_current(files, "extract_features", pretext):
        raise UserError(
            f"run '{files.run}': {files.neighbors} was not made from {pretext} as it is now; "
            f"run again: python extract_features.py {files.option}"
        )


def require_current_scan(files: RunFiles) -> None:
    """
    Raises:
        UserError: when scan.py was trained with other neighbors.
    """
    if not is_current(files, "scan", *made_from(files, "scan")):
        raise UserError(
            f"run '{files.run}': {files.output('scan')} was not made from {files.neighbors} as it "
            f"is now; run again: python scan.py {files.option}"
        )


def _known_runs_hint(files: RunFiles) -> str:
    if files.checkpoints.exists():
        return ""
    root = files.checkpoints.parent
    known = sorted(path.parent.name for path in root.glob("*/data.json"))
    return f" (runs that exist: {', '.join(known)})" if known else ""


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
