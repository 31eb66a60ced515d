"""The losses of SCAN (Van Gansbeke et al., ECCV 2020): pure functions of tensors, batch first.

Half and bfloat16 inputs are computed in float32, also inside an autocast region; float64 stays
float64. Nothing here copies a value to the host, so no loss makes an accelerator wait.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNRELIABLE = -1  # in the place of a pseudo-label where there is none to rely on


class ScanLoss(NamedTuple):
    """The clustering loss and its two terms: scalars, or (H,) tensors for H heads."""

    total: Tensor
    consistency: Tensor
    entropy: Tensor


class SelfLabelLoss(NamedTuple):
    """The self-labelling loss (scalar) and the number of kept samples (0-dim int64)."""

    loss: Tensor
    kept: Tensor


def nt_xent(views: Sequence[Tensor], temperature: float) -> Tensor:
    """SimCLR's loss (Chen et al., 2020) for V views of a batch, a scalar.

    l(i, p) = -log( exp(z_i.z_p / t) / (exp(z_i.z_p / t) + sum_n exp(z_i.z_n / t)) ), averaged over
    the VB views z_i, which are L2-normalised here, and over the positives p of each, the V - 1
    other views of its image; n runs over all views of the other images. With two views it is the
    published loss: the positive stays in the denominator, the view itself does not. With B = 1
    the positive is the whole denominator and the loss is 0.

    Args:
        views: V of (B, D) projections, row i of all from image i.
        temperature: t > 0.

    Raises:
        ValueError: for fewer than two, for other shapes, an empty batch or a temperature that is
            not positive.
    """
    if len(views) < 2:
        raise ValueError(f"two views or more are compared, got {len(views)}")
    for number, view in enumerate(views[1:], start=2):
        _check_pair("first", views[0], f"view {number}", view, ranks=(2,))
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    batch = len(views[0])
    with _no_autocast(views[0]):
        z = F.normalize(torch.cat([_widen(view) for view in views]), dim=1)  # (VB, D)
        similarity = z @ z.T / temperature  # (VB, VB)
        index = torch.arange(len(z), device=z.device)[:, None]
        own = index % batch == index.T % batch  # views of the same image
        negatives = similarity.masked_fill(own, -math.inf).logsumexp(dim=1, keepdim=True)
        # Row i of one view has its positives B, 2B, ... rows away, in the others.
        shifts = torch.arange(batch, len(z), batch, device=z.device)
        positives = similarity.gather(1, (index + shifts) % len(z))  # (VB, V - 1)
        return (torch.logaddexp(positives, negatives) - positives).mean()


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss (He et al., 2020), a scalar: each query must find its own key.

    l(i) = -log( exp(q_i.k_i / t) / sum_j exp(q_i.k_j / t) ), where j runs over the keys of the
    batch and those in the queue. No gradient reaches keys and queue.

    Args:
        queries, keys: (B, D), row i of both from image i; L2-normalised here.
        queue: (K, D), unit rows.

    Raises:
        ValueError: for other shapes, an empty batch or a temperature that is not positive.
    """
    _check_pair("queries", queries, "keys", keys, ranks=(2,))
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with _no_autocast(queries):
        candidates = torch.cat([F.normalize(_widen(keys.detach()), dim=1), queue])  # (B + K, D)
        similarity = F.normalize(_widen(queries), dim=1) @ candidates.T / temperature
        return F.cross_entropy(similarity, torch.arange(len(queries), device=queries.device))


def scan_loss(
    anchor_logits: Tensor, neighbor_logits: Tensor, entropy_weight: float, evenness: float = 1.0
) -> ScanLoss:
    """SCAN's clustering loss, for one head or for several at once.

    With p = softmax(logits) and m the mean of the anchors' p over the batch:
      consistency = -mean_i log <p(anchor_i), p(neighbor_i)>
      entropy     = -sum_c m_c log m_c
      total       = consistency - entropy_weight * min(entropy, evenness * log C)
    With evenness 1, the paper's loss, clusters of equal size are asked for without end; below 1,
    only as far as the entropy of their sizes falls short of that share of its maximum.
    All in log space, so that saturated logits need no epsilon and keep their gradient.

    Args:
        anchor_logits, neighbor_logits: (B, C) -> scalars, or (H, B, C) -> (H,) tensors.

    Raises:
        ValueError: for other shapes or an empty batch.
    """
    _check_pair("anchor_logits", anchor_logits, "neighbor_logits", neighbor_logits, ranks=(2, 3))
    with _no_autocast(anchor_logits):
        log_anchor = _heads_last(_widen(anchor_logits)).log_softmax(dim=1)  # (B, C) or (B, C, H)
        log_neighbor = _heads_last(_widen(neighbor_logits)).log_softmax(dim=1)
        consistency = -(log_anchor + log_neighbor).logsumexp(dim=1).mean(dim=0)
        log_mean = log_anchor.logsumexp(dim=0) - math.log(len(log_anchor))
        entropy = -(log_mean.exp() * log_mean).sum(dim=0)
        clusters = anchor_logits.shape[-1]
        return whole_scan_loss(consistency, entropy, clusters, entropy_weight, evenness)


def whole_scan_loss(
    consistency: Tensor, entropy: Tensor, clusters: int, entropy_weight: float, evenness: float
) -> ScanLoss:
    """scan_loss of its two terms."""
    asked_for = entropy
    if evenness < 1:
        asked_for = entropy.clamp(max=evenness * math.log(clusters))
    return ScanLoss(consistency - entropy_weight * asked_for, consistency, entropy)


def self_label_loss(
    weak_logits: Tensor,
    strong_logits: Tensor,
    threshold: float,
    balanced: bool = True,
    reliable: Tensor | None = None,
) -> SelfLabelLoss:
    """SCAN's self-labelling loss: confident predictions on weak views teach the strong views.

    A sample is kept when max softmax(weak) > threshold; its target is the argmax of weak. A sample
    with a reliable pseudo-label is kept whatever weak says, and that is its target. With
    l_i = cross_entropy(strong_i, target_i) and w_i = kept / (kept samples of class target_i),
    or w_i = 1 when not balanced:
      loss = sum_{kept} w_i l_i / sum_{kept} w_i
    When nothing is kept the loss is 0 and its gradient is 0. No gradient reaches weak_logits.

    Args:
        weak_logits, strong_logits: (B, C).
        reliable: (B,) int64, UNRELIABLE (-1) where there is none.

    Raises:
        ValueError: for other shapes or an empty batch.
    """
    _check_pair("weak_logits", weak_logits, "strong_logits", strong_logits, ranks=(2,))
    with _no_autocast(strong_logits):
        confidence, target = _widen(weak_logits.detach()).softmax(dim=1).max(dim=1)  # (B,), (B,)
        keep = confidence > threshold
        if reliable is not None:
            known = reliable != UNRELIABLE
            keep, target = keep | known, reliable.where(known, target)
        each = F.cross_entropy(_widen(strong_logits), target, reduction="none")  # (B,)
        # Dropped samples become zeros rather than being indexed away: a boolean index would
        # have to ask the device for its length.
        weight = keep.to(each.dtype)
        kept = keep.sum()
        if balanced:
            classes = torch.arange(weak_logits.shape[1], device=target.device)
            kept_of_class = (keep[:, None] & (target[:, None] == classes)).sum(dim=0)  # (C,)
            weight = weight * kept / kept_of_class.clamp(min=1)[target]
        # The sum of weights is 0 or at least 1, so the clamp acts on an empty mask only.
        loss = (weight * each.where(keep, 0.0)).sum() / weight.sum().clamp(min=1)
        return SelfLabelLoss(loss, kept)


def _widen(tensor: Tensor) -> Tensor:
    """float64 as it is, anything else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _heads_last(logits: Tensor) -> Tensor:
    """(H, B, C) as (B, C, H): for many heads processors then work on whole rows of them."""
    return logits.movedim(0, -1) if logits.ndim == 3 else logits


def _no_autocast(tensor: Tensor) -> torch.autocast:
    """A region in which autocast does not take the matrix product back to half precision."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _check_pair(
    first_name: str, first: Tensor, second_name: str, second: Tensor, ranks: tuple[int, ...]
) -> None:
    """Raise ValueError unless both have the same shape, with an allowed rank and no empty axis."""
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name} must have the same shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.dim() not in ranks or first.numel() == 0:
        expected = " or ".join({2: "(B, C)", 3: "(H, B, C)"}[rank] for rank in ranks)
        raise ValueError(
            f"{first_name} must be a non-empty {expected} tensor, got {tuple(first.shape)}"
        )
