"""The bar of long work, on the standard error; none where nobody watches."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    title: str,
    total: int,
    over: Iterable[Any] | None = None,
    done: int = 0,
    unit: str = "img",
    hidden: bool = False,
) -> "tqdm[Any]":
    """
    Args:
        over: what to go through, one unit each; None where `update` is called.
        done: of the total, before this start.
    """
    return tqdm(
        over,
        desc=title,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        disable=hidden or not sys.stderr.isatty(),
    )
