"""Which of a classifier's own predictions are worth learning from: no label is involved.

A prediction is reliable when the image's neighbors get the same cluster and the classifier is
confident. The best of each cluster are taken, the same number from all, so that an eager cluster
cannot crowd out a modest one (as SPICE does, Niu et al., 2022, with its own measures).
"""

import torch
from torch import Tensor

from src_py.feature_space import BLOCK
from src_py.losses import UNRELIABLE


def reliable_pseudo_labels(probabilities: Tensor, neighbors: Tensor, share: float) -> Tensor:
    """The cluster of each reliable image, and UNRELIABLE (-1) for the others: (N,) int64.

    Args:
        probabilities: (N, C) of all images.
        neighbors: (N, k) int64.
        share: of an equal cluster's N / C images, how many are taken at most from each cluster:
            those with the highest product of confidence and agreement, where agreement is the mean
            probability that the neighbors give to the image's cluster.
    """
    images, clusters = probabilities.shape
    confidence, cluster = probabilities.max(dim=1)
    agreement = torch.zeros_like(confidence)
    for column in neighbors.T:  # one column at a time: (N, k, C) would be large
        agreement += probabilities[column, cluster]
    merit = confidence * agreement / neighbors.shape[1]
    sizes = torch.bincount(cluster, minlength=clusters)
    # At most `share` of the cluster's own images too: the doubtful half of a small cluster is
    # doubtful all the same.
    limit = (share * sizes.clamp(max=images / clusters)).long().clamp(min=1)
    found = torch.full_like(cluster, UNRELIABLE)
    members = torch.argsort(cluster, stable=True).split(sizes.tolist())
    for number, (rows, most) in enumerate(zip(members, limit.tolist(), strict=True)):
        best = torch.argsort(merit[rows], descending=True, stable=True)
        found[rows[best[:most]]] = number
    return found


class PseudoLabels:
    """The reliable ones, which hold until they are renewed, as a part of what is resumed.

    Attributes:
        reliable: (N,) int64, UNRELIABLE where there is none.
        given: (N,) int64, those that a person has given: they hold whatever else is found.
    """

    def __init__(self, images: int, device: torch.device, given: Tensor | None = None) -> None:
        unknown = torch.full((images,), UNRELIABLE, device=device)
        self.given = unknown if given is None else given.to(device)
        self.reliable = self.given

    def renew(self, logits: Tensor, neighbors: Tensor, share: float) -> None:
        """See `reliable_pseudo_labels`.

        Args:
            logits: (N, C) of all images, which become probabilities: a copy may be large.
        """
        for block in logits.split(BLOCK):
            block.copy_(block.softmax(dim=1))
        found = reliable_pseudo_labels(logits, neighbors, share)
        self.reliable = self.given.where(self.given != UNRELIABLE, found)

    def state_dict(self) -> dict[str, Tensor]:
        return {"reliable": self.reliable}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.reliable = state["reliable"].to(self.reliable.device)
