"""The most similar of all rows: every query is compared with every row."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from src_py.run.errors import is_out_of_memory

ROWS_AT_ONCE = 2**12  # on a device, where 8,192 queries have 128 MiB of products with them


def most_similar(
    queries: np.ndarray, unit: np.ndarray, count: int, device: torch.device
) -> np.ndarray:
    """Of all rows, those that are most similar to each query.

    Args:
        queries: (Q, D) float32 rows of length 1, as those of `unit`, (N, D).
        count: of rows that are wanted for each query.
        device: that compares them: a CPU by faiss, another by matrix products where it has room.

    Returns:
        (Q, min(count, N)) int64, which rows, the most similar first.
    """
    count = min(count, len(unit))
    if device.type != "cpu":
        try:
            return _by_products(queries, unit, count, device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    import faiss

    # The same code as IndexFlatIP.search, without the index's copy of the features.
    return faiss.knn(queries, unit, count, metric=faiss.METRIC_INNER_PRODUCT)[1]


@torch.no_grad()
def _by_products(
    queries: np.ndarray, unit: np.ndarray, count: int, device: torch.device
) -> np.ndarray:
    asked = torch.from_numpy(queries).to(device)
    similarity = asked.new_empty(len(asked), 0)
    rows = similarity.long()
    with _full_float32():
        for start in range(0, len(unit), ROWS_AT_ONCE):
            block = torch.from_numpy(unit[start : start + ROWS_AT_ONCE]).to(device)
            products, places = _largest(asked @ block.T, count)
            similarity = torch.cat([similarity, products], dim=1)
            rows = torch.cat([rows, places + start], dim=1)
            similarity, kept = _largest(similarity, count)
            rows = rows.gather(1, kept)
    return rows.cpu().numpy()


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of each row of (Q, n), the largest and where they are, (Q, min(count, n)) each."""
    return values.topk(min(count, values.shape[1]), dim=1)


@contextmanager
def _full_float32() -> Iterator[None]:
    """TF32 keeps three digits, and neighbors differ in the fourth."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
