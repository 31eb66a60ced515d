"""Words that features can be compared with: a classifier's classes, or words as a text network
embeds them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Vocabulary:
    """Words, and the linear layer that says how well an image's features go with each of them.

    Attributes:
        words: W of them, in plain English or as the user gave them.
        weight: (W, D) float32.
        bias: (W,) float32.
        normalized: whether the layer is for features of length 1, as a text network's embeddings
            are; a classifier's takes them as they are.
    """

    words: tuple[str, ...]
    weight: Tensor
    bias: Tensor
    normalized: bool = False

    def logits(self, features: Tensor) -> Tensor:
        """features (N, D) as the backbone gives them -> logits (N, W)."""
        if self.normalized:
            features = F.normalize(features, dim=1)
        return F.linear(features, self.weight.to(features), self.bias.to(features))

    def as_dict(self) -> dict:
        """As a checkpoint stores it."""
        return {
            "words": list(self.words),
            "weight": self.weight,
            "bias": self.bias,
            "normalized": self.normalized,
        }

    @staticmethod
    def from_dict(stored: dict) -> "Vocabulary":
        return Vocabulary(
            tuple(stored["words"]), stored["weight"], stored["bias"], stored["normalized"]
        )


def imagenet_vocabulary(weight: Tensor, bias: Tensor | None) -> Vocabulary | None:
    """A classifier with the names of ImageNet-1k's classes; None when it has others.

    Args:
        weight: (classes, D).
        bias: (classes,), or None for none.
    """
    words = imagenet_words()
    if weight.ndim != 2 or len(weight) != len(words):
        return None
    bias = torch.zeros(len(words)) if bias is None else bias
    return Vocabulary(words, weight.detach().float().clone(), bias.detach().float().clone())


def imagenet_words() -> tuple[str, ...]:
    """The names of ImageNet-1k's 1,000 classes in the order of its classifiers, no two alike."""
    from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)

    from torchvision.models import ResNet18_Weights  # isort: skip

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
