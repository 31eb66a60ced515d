"""The small JSON files of a run: what each must hold, and how it is known whether it still does.

A record is a JSON object with a checksum: the SHA-256 of all else that it holds. One flipped bit,
a file cut short and a file of another kind are all told apart from what the program wrote.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

CHECKSUM = "checksum"
LARGEST_RECORD = 2**28  # bytes

Check = Callable[[object], bool]


class Damaged(ValueError):
    """A file does not hold what it must. The message says what is wrong, in a few words."""


@dataclass(frozen=True)
class Schema:
    """What an object must and may hold; whatever else it holds is not of this program.

    Attributes:
        needed, allowed: a check of the value, by its key.
    """

    needed: dict[str, Check]
    allowed: dict[str, Check] = field(default_factory=dict)

    def __call__(self, value: object) -> bool:
        """A schema is a check too: of an object inside another one."""
        try:
            self.require(value)
        except Damaged:
            return False
        return True

    def require(self, value: object) -> None:
        """
        Raises:
            Damaged: naming the key that is wrong.
        """
        if not isinstance(value, dict):
            raise Damaged("expected an object")
        checks = self.needed | self.allowed
        if missing := self.needed.keys() - value.keys():
            raise Damaged(f'"{min(missing)}" is missing')
        for key, content in value.items():
            if key not in checks:
                raise Damaged(f"unknown key {json.dumps(key)}")
            if not checks[key](content):
                raise Damaged(f'"{key}" is not as it must be')


# --- checks of one value -------------------------------------------------------------------------


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_number(value: object) -> bool:
    """Finite, and no flag."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def is_digest(value: object) -> bool:
    """A SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_prediction(value: object) -> bool:
    """[path, cluster, name, confidence]"""
    checks = (is_text, is_count, is_text, is_number)
    return (
        isinstance(value, list)
        and len(value) == len(checks)
        and all(check(each) for check, each in zip(checks, value, strict=True))
    )


def is_stored_part(value: object) -> bool:
    """[rows, digest]"""
    return (
        isinstance(value, list) and len(value) == 2 and is_count(value[0]) and is_digest(value[1])
    )


def is_object(value: object) -> bool:
    return isinstance(value, dict)


def or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def texts_to(check: Check) -> Check:
    """An object with any keys."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


# --- what the files of a run hold ----------------------------------------------------------------

SETTINGS = Schema(
    {
        "source": is_text,
        "root": or_none(is_text),
        "image_size": lambda value: is_count(value) and value != 0,
        "channels": lambda value: value in (1, 3) and type(value) is int,
        "mean": list_of(is_number),
        "std": list_of(is_number),
    },
    {"ranges": or_none(texts_to(list_of(is_number))), "classes": list_of(is_text)},
)
# Which images were read: how many; a key of their names, sizes and times; one of what was decoded;
# one of their names and sizes alone, which a moved folder keeps.
IMAGES = Schema({"count": is_count, "key": is_text, "pixels": is_text, "listing": is_text})
DATA = Schema(
    {
        "preset": is_text,
        "recipe": is_text,
        "minutes": or_none(is_number),
        "settings": SETTINGS,
        "images": IMAGES,
    },
    {"precision": lambda value: value in ("auto", "float32")},
)
SCHEDULE = Schema(
    {
        "images": is_count,
        "epochs": is_count,
        "images_per_epoch": is_count,
        "batch_size": is_count,
        "warmup_epochs": is_count,
        "ema_decay": is_number,
        "head_epochs": is_count,
        "seconds": or_none(is_number),
    },
    {"rate_factor": is_number},
)
BEGUN = Schema(
    {"made_from": texts_to(is_digest), "config": is_object},
    {
        "stage": is_text,
        "hardware": is_text,
        "torch": is_text,
        "run_minutes": or_none(is_number),
        "schedule": SCHEDULE,
        "data": or_none(DATA),
        "states": list_of(is_digest),
    },
)
FINISHED = Schema(
    BEGUN.needed | {"outputs": texts_to(is_digest)},
    BEGUN.allowed
    | {
        "seconds": is_number,
        "settings": is_digest,
        "images": IMAGES,
        "kept": is_text,
        "information": texts_to(is_number),
        "corrected": is_flag,
    },
)
EVALUATION = Schema(
    {"label_free": texts_to(is_object)},
    {
        "train": is_object,
        "test": is_object,
        "clusters": or_none(is_count),
        "mapping": is_text,
        "neighbor_accuracy": is_number,
    },
)
CACHE = Schema(
    {
        "key": is_text,
        # Of the file beside it; in runs of before, the names themselves.
        "names": lambda value: is_text(value) or list_of(is_text)(value),
        "skipped": list_of(list_of(is_text)),
        "mean": list_of(is_number),
        "std": list_of(is_number),
        "ranges": texts_to(list_of(is_number)),
        "dark": is_count,
        "lost": list_of(list_of(is_text)),
        "facts": is_text,
        "pixels": is_text,
    }
)
MINING = Schema(
    {
        "features_of": is_digest,
        "searched_as": is_digest,
        "random": is_text,
        "parts": list_of(is_stored_part),
    },
    {"seconds": is_number},
)
# Of images: source, target, and the size and time of the source (which records of before lack).
MOVES = Schema({"moves": list_of(list_of(is_text)), "predictions": list_of(is_prediction)})
SWITCH = Schema({"moves": list_of(list_of(is_text)), "removed": list_of(is_text)})


# --- reading and writing -------------------------------------------------------------------------


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with its checksum, as it is to be written."""
    plain = json.loads(json.dumps(content))
    return plain | {CHECKSUM: digest(plain)}


def digest(content: object) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of_texts(texts: Iterable[str]) -> str:
    """What `digest` gives for a list of them, without such a list."""
    sha256 = hashlib.sha256(b"[")
    for number, text in enumerate(texts):
        sha256.update(((", " if number else "") + json.dumps(text)).encode())
    sha256.update(b"]")
    return sha256.hexdigest()


def parse(text: bytes) -> Any:
    """JSON, without numbers that are none and keys that are there twice.

    Raises:
        Damaged: when it is not that.
    """
    try:
        return json.loads(
            text.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_without_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error) or "not JSON") from None


def opened(text: bytes, schema: Schema) -> dict[str, Any]:
    """What a sealed record holds, without its checksum.

    Raises:
        Damaged: when it is damaged, of another kind, or of an earlier version, without a checksum.
    """
    if len(text) > LARGEST_RECORD:
        raise Damaged(f"more than {LARGEST_RECORD // 2**20} MiB")
    content = parse(text)
    if not isinstance(content, dict):
        raise Damaged("expected an object")
    if CHECKSUM not in content:
        raise Damaged("no checksum: of an earlier version of this program, or another file")
    if content.pop(CHECKSUM) != digest(content):
        raise Damaged("its checksum does not agree")
    schema.require(content)
    return content


def _refuse(word: str) -> None:
    raise Damaged(f"{word} is no number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise Damaged("a key is there twice")
    return content
