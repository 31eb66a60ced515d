"""The classes of ImageNet's subsets, by the names of their folders: WordNet ids."""

from functools import cache
from pathlib import Path

CLASSES_FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def _table() -> list[tuple[str, int, str]]:
    """(WordNet id, size of the smallest subset that has it, words), sorted by id."""
    lines = CLASSES_FILE.read_text(encoding="utf-8").splitlines()
    rows = (line.split(" ", 2) for line in lines if not line.startswith("#"))
    return [(name, int(smallest), words) for name, smallest, words in rows]


def class_folders(count: int) -> tuple[str, ...]:
    """Of the subset of 50, 100 or 200 classes, sorted."""
    return tuple(name for name, smallest, _ in _table() if smallest <= count)


def class_words() -> dict[str, str]:
    """The first word for each class of the largest subset, by its folder."""
    return {name: words.partition(",")[0] for name, _, words in _table()}
