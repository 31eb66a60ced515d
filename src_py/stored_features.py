"""Features that frozen weights gave, once for each image and each of a few random views of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src_py.models import ClusteringModel
from src_py.run.errors import UserError
from src_py.run.files import RunFiles


@dataclass(frozen=True)
class StoredFeatures:
    """
    Attributes:
        plain: (N, D) float32 on the device, of the images as they are.
        views: (N, V, D) float16 on the device.
    """

    plain: Tensor
    views: Tensor

    @staticmethod
    def load(files: RunFiles, device: torch.device) -> "StoredFeatures":
        """
        Raises:
            UserError: when they have not been stored, or not with these features.
        """
        plain, path = np.load(files.features), files.require(files.views, "extract_features")
        views = np.load(path)
        if views.ndim != 3 or views.shape[::2] != plain.shape:
            raise UserError(
                f"{path} does not go with {files.features}; run again: "
                f"python extract_features.py {files.option}"
            )
        return StoredFeatures(
            torch.from_numpy(plain).to(device), torch.from_numpy(views).to(device)
        )

    def __len__(self) -> int:
        return len(self.plain)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(B, D) float32 of one random view of each of the images `rows`, (B,) int64."""
        count = self.views.shape[1]
        chosen = torch.randint(count, rows.shape, generator=generator, device=rows.device)
        return self.views[rows, chosen].float()

    def batches(
        self, row_batches: Iterable[Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields (rows (B,), plain features (B, D), those of one random view each (B, D))."""
        for rows in row_batches:
            yield rows, self.plain[rows], self.draw(rows, generator)

    def clusters(self, model: ClusteringModel, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(M,) int64, where the model puts one random view of each of the images `rows`."""
        return model.heads(self.draw(rows, generator))[0].argmax(dim=1)
