"""Models in checkpoints: what rebuilds them, and how they must be shown images."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from src_py.backbones import build_backbone, spec_from_dict
from src_py.images.image_set import DataSettings
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.run.checkpoints import load_checkpoint
from src_py.run.errors import UserError
from src_py.run.files import as_plain
from src_py.run.vocabulary import Vocabulary

LARGEST = 2**20  # of a layer's width, heads, clusters, and whatever else a checkpoint counts

Built = TypeVar("Built", bound=nn.Module)


def contrastive_content(model: ContrastiveModel, vocabulary: Vocabulary | None = None) -> dict:
    """What rebuilds a pretext model.

    Args:
        vocabulary: that its features can be compared with.
    """
    projection_dim = model.projection_head[-1].out_features
    content = {
        "backbone": asdict(model.backbone.spec),
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
        "backbone": asdict(model.backbone.spec),
        "clusters": model.heads.clusters,
        "heads": model.heads.heads,
        "normalized": model.heads.space.normalized,
        "components": model.heads.space.components,
        "weights": _weights(model),
    }


def load_contrastive(path: Path) -> ContrastiveModel:
    """
    Raises:
        UserError: when the checkpoint does not hold what rebuilds a pretext model.
    """
    content = load_checkpoint(path)

    def build() -> ContrastiveModel:
        spec = spec_from_dict(content["backbone"])
        return ContrastiveModel(spec, _bounded(content["projection_dim"]))

    return _rebuilt(path, content, build)


def load_vocabulary(path: Path) -> Vocabulary | None:
    """The words that the features of a pretext model in `path` can be compared with, if any.

    Raises:
        UserError: when they are not as they must be.
    """
    stored = load_checkpoint(path).get("vocabulary")
    try:
        return None if stored is None else Vocabulary.from_dict(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds damaged words ({error}); make it again") from None


def load_clustering(path: Path) -> tuple[ClusteringModel, dict]:
    """The classifier in `path` and the rest of what the checkpoint holds.

    Raises:
        UserError: when the checkpoint does not hold what rebuilds a classifier.
    """
    content = load_checkpoint(path)

    def build() -> ClusteringModel:
        DataSettings(**content["data"])
        float(content["temperature"])
        backbone = build_backbone(spec_from_dict(content["backbone"]))
        heads = ClusterHeads(
            backbone.feature_dim,
            _bounded(content["clusters"]),
            _bounded(content["heads"]),
            content["normalized"],
            _bounded(content["components"]),
        )
        return ClusteringModel(backbone, heads)

    model = _rebuilt(path, content, build)
    return model, {name: value for name, value in content.items() if name != "weights"}


def _rebuilt(path: Path, content: dict, build: Callable[[], Built]) -> Built:
    """What `build` makes of a checkpoint, with the weights in it.

    Raises:
        UserError: when the two do not fit.
    """
    try:
        weights = content["weights"]
        _require_sizes(content, weights)
        model = build()
        model.load_state_dict(weights)
    except UserError:
        raise
    except Exception as error:  # a foreign file may hold anything, and torch raises many kinds
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise UserError(
            f"{path} does not hold a network of this program ({reason}); make it again with "
            f"--restart"
        ) from None
    return model


def _require_sizes(content: dict, weights: dict[str, Tensor]) -> None:
    """A network is only built when the weights that fill it are there: a changed number would
    otherwise ask for any amount of memory.

    Raises:
        ValueError: naming what is too large.
    """
    backbone = content["backbone"]
    for name, value in backbone.items():
        for number in value if isinstance(value, list | tuple) else (value,):
            _bounded(number, name)
    if "projection_dim" in content:
        rows = {"projection_head.2.weight": content["projection_dim"]}
    else:
        rows = {"heads.linear.weight": content["heads"] * content["clusters"]}
    if "timm_name" not in backbone:
        rows["backbone.conv1.weight"] = backbone["width"]
        blocks = backbone["blocks"]
        one_each = {"blocks": blocks} if isinstance(blocks, int) else {}
        stages = one_each or {f"layer{n}": count for n, count in enumerate(blocks, start=1)}
        for stage, count in stages.items():
            if f"backbone.{stage}.{count - 1}.conv1.weight" not in weights:
                raise ValueError(f"{count} blocks in {stage}")
    for name, expected in rows.items():
        if len(weights[name]) != expected:
            raise ValueError(f"{name} has {len(weights[name])} rows, not {expected}")


def _bounded(value: int, name: str = "a size") -> int:
    if isinstance(value, int) and not 0 <= value <= LARGEST:
        raise ValueError(f"{name} {value}")
    return value


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
