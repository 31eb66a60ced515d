"""Features as they are stored: of the images, and of a few random views of each where the weights
are frozen.

On a CPU they are memory maps, so that they may be larger than the memory, and all images are only
looked at a block at a time.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from src_py.backbones import Backbone
from src_py.feature_space import BLOCK, FeatureSpace, gathered
from src_py.models import ClusteringModel
from src_py.run.arrays import load_features, load_views
from src_py.run.errors import UserError
from src_py.run.files import RunFiles


@dataclass(frozen=True)
class StoredFeatures:
    """
    Attributes:
        plain: (N, D) float32 on the device, of the images as they are.
        views: (N, V, D) on the device; without them the plain images are all there is to see.
        scratch: folder for what is made of them, where they are many; None keeps it in memory.
    """

    plain: Tensor
    views: Tensor | None = None
    scratch: Path | None = None

    @staticmethod
    def load(files: RunFiles, device: torch.device, frozen: bool) -> "StoredFeatures":
        """Those of a run.

        Args:
            frozen: whether the weights are, so that there are views.

        Raises:
            UserError: when these are missing, or not of these features.
        """
        plain, views = torch.from_numpy(load_features(files)).to(device), None
        if frozen:
            views = torch.from_numpy(load_views(files)).to(device)
            if views.shape[::2] != plain.shape:
                raise UserError(
                    f"{files.views} does not go with {files.features}; run again: "
                    f"python extract_features.py {files.option}"
                )
        return StoredFeatures(plain, views, files.checkpoints)

    def __len__(self) -> int:
        return len(self.plain)

    def seen_in(self, space: FeatureSpace) -> "StoredFeatures":
        """All of them as `space` gives them."""
        views = None if self.views is None else space.of_all(self.views, self.scratch)
        return StoredFeatures(space.of_all(self.plain, self.scratch), views, self.scratch)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(B, D) float32 of one random view of each of the images `rows`, (B,) int64."""
        if self.views is None:
            return self.plain[rows]
        count = self.views.shape[1]
        chosen = torch.randint(count, rows.shape, generator=generator, device=rows.device)
        return self.views[rows, chosen].float()

    def features(self, backbone: Backbone) -> Tensor:
        """(N, D) float32 of the images as they are, which the backbone has given before."""
        return self.plain

    @torch.no_grad()
    def all_logits(self, heads: nn.Module) -> Tensor:
        """(H, N, C) float32 of the images as they are."""
        return gathered(map(heads, self.plain.split(BLOCK)), len(self), 1, self.scratch)

    def logits(self, model: ClusteringModel) -> Tensor:
        """(N, C) float32 of the images as they are, of a model with one head."""
        return self.all_logits(model.heads)[0]

    def clusters(self, model: ClusteringModel, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(M,) int64, where the model puts one random view of each of the images `rows`."""
        return model.heads(self.draw(rows, generator))[0].argmax(dim=1)
