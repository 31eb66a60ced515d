"""Reading and writing checkpoints: plain tensors and values, never pickled objects."""

from pathlib import Path

import torch
from torch import nn

from src_py.images.image_set import DataSettings
from src_py.models import (
    ClusterHeads,
    ClusteringModel,
    ContrastiveModel,
    build_backbone,
    spec_from_dict,
)
from src_py.run.errors import UserError
from src_py.run.files import as_plain, write_atomically
from src_py.run.vocabulary import Vocabulary

FORMAT = 3  # since heads have a space that they see features in


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


def contrastive_content(model: ContrastiveModel, vocabulary: Vocabulary | None = None) -> dict:
    """What rebuilds a pretext model.

    Args:
        vocabulary: that its features can be compared with.
    """
    projection_dim = model.projection_head[-1].out_features
    content = {
        "backbone": model.backbone.spec.as_dict(),
        "projection_dim": projection_dim,
        "weights": _weights(model),
    }
    return content if vocabulary is None else content | {"vocabulary": vocabulary.as_dict()}


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
        "normalized": model.heads.space.normalized,
        "components": model.heads.space.components,
        "weights": _weights(model),
    }


def load_contrastive(path: Path) -> ContrastiveModel:
    content = load_checkpoint(path)
    model = ContrastiveModel(spec_from_dict(content["backbone"]), content["projection_dim"])
    model.load_state_dict(content["weights"])
    return model


def load_vocabulary(path: Path) -> Vocabulary | None:
    """The words that the features of a pretext model in `path` can be compared with, if any."""
    stored = load_checkpoint(path).get("vocabulary")
    return None if stored is None else Vocabulary.from_dict(stored)


def load_clustering(path: Path) -> tuple[ClusteringModel, dict]:
    """The classifier in `path` and the rest of what the checkpoint holds."""
    content = load_checkpoint(path)
    backbone = build_backbone(spec_from_dict(content["backbone"]))
    heads = ClusterHeads(
        backbone.feature_dim,
        *(content[name] for name in ("clusters", "heads", "normalized", "components")),
    )
    model = ClusteringModel(backbone, heads)
    model.load_state_dict(content.pop("weights"))
    return model, content


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
