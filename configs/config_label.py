"""Options of label.py."""

from dataclasses import dataclass

from tyro.conf import UseAppendAction

from configs.base_config import LoadingOption, NetworkOptions, RunConfig
from configs.bounds import shortened
from src_py.run.errors import UserError

MOST_DIGITS = 9  # of a cluster's number


@dataclass(frozen=True)
class LabelConfig(LoadingOption, NetworkOptions, RunConfig):
    merge: UseAppendAction[tuple[str, ...]] = ()  # clusters that are one: 3,7 (may be repeated)
    name: UseAppendAction[tuple[str, ...]] = ()  # of a cluster: 3=cat (may be repeated)
    merge_to: int | None = None
    """join clusters whose images are each other's neighbors, until so many are left"""
    show: bool = False  # only print what the names are, or would be: write nothing
    serve: bool = False  # name clusters, and move images, in a page that this machine alone can see
    port: int = 0  # to serve the page on (default: one that is free)
    browser: bool = True  # open the page that --serve serves

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.serve and (self.merge or self.name or self.merge_to or self.show):
            raise UserError("--serve: name and merge in the page, or without --serve")
        if not self.serve and (self.port or not self.browser):
            raise UserError("--port and --no-browser say how to --serve: give that too")

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """
        Raises:
            UserError: when a --merge is not a list of numbers.
        """
        return [
            tuple(_cluster(part, f"--merge {text}") for part in text.split(","))
            for text in self.merge
        ]

    @property
    def names(self) -> list[tuple[int, str]]:
        """
        Raises:
            UserError: when a --name is not a number, '=', and a name.
        """
        for text in self.name:
            if "=" not in text:
                raise UserError(f"--name {text}: give a cluster and its name, like 3=cat")
        pairs = [(text, *text.split("=", 1)) for text in self.name]
        return [(_cluster(number, f"--name {text}"), name) for text, number, name in pairs]


def _cluster(text: str, option: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise UserError(
            f"{shortened(option)}: '{shortened(text)}' is not the number of a cluster "
            "(3,7 or 3=cat)"
        )
    return int(text)
