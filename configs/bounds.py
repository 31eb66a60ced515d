"""The least and the largest value of every option that is a number, in whichever script it occurs.

The limits are far beyond what has a use: what they keep out is a slip of the fingers, or a number
that no computation ends with.
"""

import dataclasses
import math

from src_py.run.errors import UserError

BELOW_ONE = math.nextafter(1.0, 0.0)
MOST_ROWS = 10**9
LARGEST_SIDE = 4096  # px
LONGEST = 366 * 24 * 60  # minutes

BOUNDS: dict[str, tuple[float, float]] = {
    "batch_size": (1, 2**20),
    "candidate_heads": (1, 10_000),
    "channels": (1, 3),
    "checkpoint_seconds": (0, 60 * LONGEST),
    "clusters": (2, 100_000),
    "components": (0, 65_536),
    "ema_decay": (0, BELOW_ONE),
    "entropy_weight": (0, 1e6),
    "epochs": (1, 10**6),
    "evenness": (0, 1),
    "head_epochs": (0, 10**6),
    "head_learning_rate": (0, 1e4),
    "heads": (1, 1000),
    "highest": (2, 100_000),
    "image_size": (8, LARGEST_SIDE),
    "images": (32, MOST_ROWS),
    "images_per_epoch": (1, MOST_ROWS),
    "images_per_shard": (1, MOST_ROWS),
    "learning_rate": (0, 1e4),
    "lowest": (2, 100_000),
    "merge_to": (2, 100_000),
    "minutes": (0.01, LONGEST),
    "momentum": (0, BELOW_ONE),
    "neighbors": (1, 10_000),
    "port": (0, 2**16 - 1),
    "projection_dim": (1, 65_536),
    "queue_size": (1, 10**7),
    "refresh_epochs": (1, 10**6),
    "reliable_share": (0, BELOW_ONE),
    "review": (0, MOST_ROWS),
    "rounds": (1, 10_000),
    "seconds": (0.01, 3600),
    "seed": (0, 2**32 - 1),
    "seeds": (2, 1000),
    "target_decay": (0, BELOW_ONE),
    "temperature": (0.001, 1000),
    "threshold": (0, BELOW_ONE),
    "unsure": (0, BELOW_ONE),
    "view_side": (0.1, 1),
    "views": (1, 100),
    "warmup_epochs": (0, 10**6),
    "weight_decay": (0, 1e12),
    "width": (1, 1024),
}


def as_flag(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return "--" + name.replace("_", "-")


def require_in_bounds(config: object) -> None:
    """
    Raises:
        UserError: when a number among the fields of a dataclass is not one, or out of bounds.
    """
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            _require_between(as_flag(field.name), value, *BOUNDS[field.name])


def parse_numbers(flag: str, text: str, lowest: float, highest: float) -> list[int]:
    """
    Args:
        text: whole numbers, separated by commas.

    Raises:
        UserError: when it is anything else, or one is out of bounds.
    """
    parts = text.split(",")
    # Longer ones are out of all bounds, and int() refuses thousands of digits in its own words.
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
        raise UserError(f"{flag} {shortened(text)}: must be whole numbers separated by commas")
    for number in map(int, parts):
        _require_between(flag, number, lowest, highest)
    return [int(part) for part in parts]


def shortened(text: str) -> str:
    """What was typed, as a message can show it."""
    return text if len(text) <= 60 else f"{text[:60]}..."


def _require_between(flag: str, value: float, lowest: float, highest: float) -> None:
    typed = f"{flag} {shortened(str(value))}"
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{typed}: must be a finite number")
    if value < lowest:
        raise UserError(f"{typed}: must be at least {lowest}")
    if value > highest:
        limit = "below 1" if highest == BELOW_ONE else f"at most {highest}"
        raise UserError(f"{typed}: must be {limit}")
