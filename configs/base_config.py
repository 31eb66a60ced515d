"""What every stage can be told, and how a command line becomes a configuration.

Nothing here imports torch, so that `--help` and wrong options are answered at once.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from configs.presets import (
    BEST_RECIPE,
    DEFAULT_PRESET,
    FOLDER_PRESET,
    PAPER_RECIPE,
    PRESETS,
    SMALL_GREY_PRESET,
)
from src_py.errors import UserError
from src_py.run_files import FREE_OPTIONS, RunFiles, read_json

STARTED = time.monotonic()  # the script; what it imports and reads before it trains counts too
FIRST_STAGES = ("simclr", "moco")  # those that decide on the images


@dataclass
class BaseConfig:
    """Options that mean the same in every script."""

    run: str | None = None  # name of the run (default: the folder's or the preset's)
    preset: str | None = None  # settings for a known kind of images (see configs/presets.py)
    recipe: Literal["best", "paper"] = "best"  # the published algorithm, or all that improves it
    data: Path | None = None  # folder of images, or where a built-in set is or will be downloaded
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # what to compute on
    loading: Literal["auto", "resident", "streamed"] = "auto"
    """keep a folder's decoded images in memory, or decode them as they are needed; auto: by size"""
    seed: int = 0  # of every random number

    def __post_init__(self) -> None:
        require_at_least(self, 0, "seed")
        if self.seed >= 2**32:
            raise UserError(f"--seed {self.seed}: must be below 2^32")
        if self.data is not None:
            self.data = self.data.expanduser().resolve()

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.run)


def as_flag(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return "--" + name.replace("_", "-")


def require_at_least(config: BaseConfig, least: float, *names: str) -> None:
    """
    Raises:
        UserError: when one of the fields `names` is below `least`.
    """
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise UserError(f"{as_flag(name)} {value}: must be at least {least}")


def require_fraction(config: BaseConfig, *names: str) -> None:
    """
    Raises:
        UserError: when one of the fields `names` is not at least 0 and below 1.
    """
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise UserError(f"{as_flag(name)} {value}: must be in [0, 1)")


@dataclass
class TrainingConfig(BaseConfig):
    """Options of the stages that train."""

    epochs: int = 100  # passes over the images
    minutes: float | None = None
    """for all four stages together: epochs, images per epoch and batches are chosen to fit; of
    scan.py and selflabel.py no more epochs than --epochs"""
    images_per_epoch: int | None = None  # drawn anew for each epoch (default: all)
    batch_size: int = 512  # images a step
    learning_rate: float = 1e-3  # peak of the optimizer's schedule
    weight_decay: float = 1e-4  # L2 penalty
    compile: bool = False  # fuse operations with torch.compile; takes half a minute to start
    restart: bool = False  # begin again, although the stage is finished or half done
    checkpoint_seconds: float = 30.0  # least time between two resumable states, s
    tensorboard: bool = False  # also write TensorBoard logs, where it is installed

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "epochs", "batch_size")
        if self.minutes is not None and self.minutes <= 0:
            raise UserError(f"--minutes {self.minutes}: must be above 0")
        if self.images_per_epoch is not None:
            require_at_least(self, 1, "images_per_epoch")
        require_at_least(self, 0, "learning_rate", "weight_decay")


Config = TypeVar("Config", bound=BaseConfig)


def run_script(
    config_class: type[Config], stage: str, main: Callable[[Config], None], description: str | None
) -> None:
    """Runs a script: a wrong input ends in one line and exit status 2, Ctrl-C in status 130."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names are not always valid text
    try:
        main(parse(config_class, stage, description))
    except (UserError, OSError) as error:
        print(f"{stage}.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        hint = " without --restart" if "--restart" in sys.argv else ""
        print(f"{stage}.py: interrupted; the same command{hint} goes on", file=sys.stderr)
        sys.exit(130)


def parse(config_class: type[Config], stage: str, description: str | None) -> Config:
    """Builds a stage's configuration from, in rising order: its class, the preset, what an earlier
    start of the stage was given (unless `--restart`), and the command line.

    Raises:
        UserError: on a wrong option or value, or one that contradicts the run's images.
    """
    arguments = sys.argv[1:]
    early = _early_options(arguments)
    run, preset, recipe = _choose_run(early)
    _check_folder(run, early, begins_again=stage in FIRST_STAGES and bool(early.restart))
    known = {"run": run, "preset": preset, "recipe": recipe}
    if issubclass(config_class, TrainingConfig) and stage not in FIRST_STAGES:
        known["minutes"] = (read_json(RunFiles(run).data) or {}).get("minutes")
    defaults = config_class(**known, **PRESETS[preset].stage(stage, recipe))
    stored = read_json(RunFiles(run).config(stage))
    if stored and not early.restart:
        defaults = _overlay(defaults, stored["config"])
    config = _run_tyro(defaults, arguments, description)
    config.run, config.preset, config.recipe = run, preset, recipe
    if stage in FIRST_STAGES and preset == SMALL_GREY_PRESET and early.preset is None:
        print(
            f"images: small and grey, so --preset {SMALL_GREY_PRESET}: views without flip and "
            f"colour (--preset {FOLDER_PRESET} takes those of photographs)"
        )
    images = (read_json(RunFiles(run).data) or {}).get("settings", {})
    if config.data is None and images.get("source") == "folder":
        config.data = Path(images["root"])
    return config


def _early_options(arguments: list[str]) -> argparse.Namespace:
    """The options that decide what the others' defaults are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--run", "--preset", "--recipe", "--data"):
        parser.add_argument(name)
    parser.add_argument("--restart", action=argparse.BooleanOptionalAction)
    try:
        return parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None


def _choose_run(early: argparse.Namespace) -> tuple[str, str, str]:
    """The run's name, and its preset and recipe, which a run that exists remembers."""
    if early.preset is not None and early.preset not in PRESETS:
        raise UserError(f"--preset {early.preset}: no such preset; known: {', '.join(PRESETS)}")
    if early.recipe not in (None, BEST_RECIPE, PAPER_RECIPE):
        raise UserError(
            f"--recipe {early.recipe}: no such recipe; known: {BEST_RECIPE}, {PAPER_RECIPE}"
        )
    folder = Path(early.data).resolve().name if early.data else None
    run = early.run or (folder if early.preset is None else early.preset) or DEFAULT_PRESET
    if Path(run).name != run or run.startswith("."):
        raise UserError(f"--run {run}: a run's name must be usable as a folder's name")
    stored = read_json(RunFiles(run).data)
    if stored is None:
        preset = early.preset or (_preset_of(early.data) if early.data else DEFAULT_PRESET)
        return run, preset, early.recipe or BEST_RECIPE
    stored.setdefault("recipe", early.recipe or BEST_RECIPE)  # of a run from before recipes
    for name in ("preset", "recipe"):
        if getattr(early, name) not in (None, stored[name]):
            raise UserError(
                f"run '{run}' was begun with --{name} {stored[name]}, now "
                f"{getattr(early, name)}: choose another --run"
            )
    return run, stored["preset"], stored["recipe"]


def _preset_of(folder: str) -> str:
    """The preset for a folder of images that nobody has named one for."""
    from src_py.image_files import are_small_and_grey

    small_and_grey = are_small_and_grey(Path(folder).expanduser())
    return SMALL_GREY_PRESET if small_and_grey else FOLDER_PRESET


def _check_folder(run: str, early: argparse.Namespace, begins_again: bool) -> None:
    stored = read_json(RunFiles(run).data)
    if stored is None or early.data is None or begins_again:
        return
    root = stored["settings"]["root"]
    if root != str(Path(early.data).expanduser().resolve()):
        raise UserError(
            f"run '{run}' was begun with the images in {root}, now --data {early.data}: "
            f"choose another --run, or begin again with python {FIRST_STAGES[0]}.py --restart"
        )


def _overlay(defaults: Config, stored: dict[str, Any]) -> Config:
    """`defaults` with the values of an earlier start in place of its own."""
    values = {}
    for field in dataclasses.fields(defaults):
        if field.name in FREE_OPTIONS or field.name not in stored:
            continue
        default, value = getattr(defaults, field.name), stored[field.name]
        if dataclasses.is_dataclass(default):
            value = _overlay(default, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif field.name == "data" and value is not None:
            value = Path(value)
        values[field.name] = value
    return dataclasses.replace(defaults, **values)


def _run_tyro(defaults: Config, arguments: list[str], description: str | None) -> Config:
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                type(defaults), default=defaults, args=arguments, description=description
            )
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(_one_line(messages.getvalue())) from None


def _one_line(box: str) -> str:
    """tyro's framed message as one line."""
    lines = [line.strip("╭╮╰╯│─ ") for line in box.splitlines()]
    kept = [line for line in lines[1:] if line and not line.startswith("For full helptext")]
    return "; ".join(kept).replace(":;", ":") + " (--help lists the options)"
