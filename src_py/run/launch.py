"""Which of several processes that do one stage's work this one is, as torchrun's environment tells.

Nothing here imports torch, so that `--help` and wrong options are answered at once.
"""

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """
    Attributes:
        rank: 0 for the first.
        size: how many processes work together.
        local_rank, local_size: the same of those on this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def launched_as() -> Launch:
    told = ("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)
    return Launch(*(int(os.environ.get(name, alone)) for name, alone in told))


def is_left_alone(error: Exception) -> bool:
    """Whether an error means that another process, which takes part in the work, is gone."""
    said = ("closed by peer", "reset by peer", "broken pipe", "distbackenderror", "remote process")
    told = f"{type(error).__name__} {error}".casefold()
    is_one_of_many = launched_as().size > 1 and isinstance(error, RuntimeError)
    return is_one_of_many and any(words in told for words in said)
