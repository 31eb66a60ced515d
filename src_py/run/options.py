"""How a command line becomes a configuration, and how a script ends.

Nothing here imports torch, so that `--help`, `--show-config` and wrong options are answered at
once.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from configs.base_config import RunConfig, ScriptConfig
from configs.bounds import as_flag, shortened
from configs.presets import (
    BEST_RECIPE,
    DEFAULT_PRESET,
    FOLDER_PRESET,
    PAPER_RECIPE,
    PRESETS,
    SMALL_GREY_PRESET,
)
from src_py.run.addresses import at_home, located, short_name
from src_py.run.errors import UserError, is_out_of_memory
from src_py.run.files import DOWNLOAD_FOLDER, FREE_OPTIONS, RunFiles
from src_py.run.launch import is_left_alone, launched_as
from src_py.run.stages import PRETEXTS, STAGES
from src_py.run.streams import Terminated, lasting_streams, terminable

STARTED = time.monotonic()  # the script; what it imports and reads before it trains counts too
COMMAND_LINE = "command line"
FIRST_TO_TELL = 3.0  # s that other processes wait: what all of them find wrong, the first one tells
LONGEST_RUN_NAME = 200  # bytes; file systems allow 255, and stages add endings
LONGEST_ARGUMENT = 4096  # characters, as of a path; no number has so many digits

Config = TypeVar("Config", bound=ScriptConfig)


class Early(NamedTuple):
    """The options that decide what the others' defaults are, as typed."""

    run: str | None
    preset: str | None
    recipe: str | None
    data: str | None
    restart: bool


def run_script(
    config_class: type[Config], script: str, main: Callable[[Config], None], description: str | None
) -> None:
    """Runs a script: a wrong input ends in one line and exit status 2, Ctrl-C in status 130,
    SIGTERM in 143. Of several processes that torchrun has started, the first one tells."""
    with lasting_streams(script, silent=not launched_as().is_first):
        try:
            with terminable():
                config, origins = parse(config_class, script, description)
                if config.show_config:
                    print(*show_config(config, origins), sep="\n")
                    return
                try:
                    main(config)
                    _leave()
                finally:
                    _release()
        except KeyboardInterrupt as interrupt:
            _end_interrupted(script, interrupt)
        except Exception as error:
            # A package that is being imported turns Ctrl-C into an error of its own.
            if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
                _end_interrupted(script, KeyboardInterrupt())
            told = str(error)
            if is_left_alone(error):
                told = f"another process has ended; {_how_to_go_on(script)}"
            elif not (isinstance(error, UserError | OSError) or is_out_of_memory(error)):
                raise
            if is_out_of_memory(error):
                told = (
                    f"out of memory; close other programs, then "
                    f"{_how_to_go_on(script)}, or lower --batch-size"
                )
            _end(script, told)


def _end_interrupted(script: str, interrupt: KeyboardInterrupt) -> NoReturn:
    by_signal = isinstance(interrupt, Terminated)
    what = "ended by SIGTERM" if by_signal else "interrupted"
    print(f"{script}.py: {what}; {_how_to_go_on(script)}", file=sys.stderr)
    sys.exit(143 if by_signal else 130)


def _release() -> None:
    """Of the run: where a notebook runs the script, its process goes on."""
    from src_py.run.claim import release  # which --help need not wait for

    release()


def _leave() -> None:
    """The other processes, at the end of the work. One that fails stays until it has told why: they
    wait for it, and torchrun ends them."""
    if launched_as().size > 1:
        from src_py.run.distributed import leave

        leave()


def _how_to_go_on(script: str) -> str:
    """What the same command does after a stage has been stopped, in words."""
    if script not in STAGES:
        return "the same command begins again"
    if "--restart" not in sys.argv:
        return "the same command goes on"
    run = _choose_run(script, _early_options(sys.argv[1:]))["run"]
    if RunFiles(run).partial(script).exists():
        return "the same command without --restart goes on"
    return "the same command begins again"


def parse(
    config_class: type[Config], script: str, description: str | None
) -> tuple[Config, dict[str, str]]:
    """The configuration of a script, and where the value of each option comes from.

    In rising order: the class, the preset, the recipe, the run (what the first stage settled, and
    what an earlier start of the script was given, unless `--restart`), and the command line.

    Raises:
        UserError: on a wrong option or value, or one that contradicts the run's images.
    """
    arguments = sys.argv[1:]
    if too_long := next((a for a in arguments if len(a) > LONGEST_ARGUMENT), None):
        raise UserError(f"{shortened(too_long)}: {len(too_long):,} characters are too many")
    values = _as_dict(config_class())
    origins = dict.fromkeys(values, "default")
    chosen: dict[str, Any] = {}
    if issubclass(config_class, RunConfig):
        early = _early_options(arguments)
        chosen = _choose_run(script, early)
        for origin, layer in _layers(script, chosen, early, values):
            changed = {k: v for k, v in layer.items() if k in values and v != values[k]}
            values |= changed
            origins |= dict.fromkeys(changed, origin)
    config = _run_tyro(config_class(**values), arguments, description)
    origins |= dict.fromkeys(_typed_options(arguments) & values.keys(), COMMAND_LINE)
    if isinstance(config, RunConfig):
        chosen["data"] = _folder(config, script)
        settled = {k: v for k, v in chosen.items() if k in values}
        config = dataclasses.replace(config, **settled)
        known = "run" if config.files.data.exists() else "default"
        origins |= {name: known for name in settled if origins[name] != COMMAND_LINE}
        if known == "default" and early.data and early.preset is None:
            origins["preset"] = "images"
    return config, origins


def show_config(config: ScriptConfig, origins: dict[str, str]) -> list[str]:
    """A line for each option: its value and where that comes from; of a view, its parts in use."""
    rows = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "show_config":
            continue
        if dataclasses.is_dataclass(value):
            value = ", ".join(
                f"{part.name} {getattr(value, part.name)}"
                for part in dataclasses.fields(value)
                if getattr(value, part.name) != part.default
            )
        rows.append((as_flag(field.name), str(value), origins[field.name]))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    widths[1] = min(widths[1], 40)
    return [f"{flag:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for flag, value, origin in rows]


def _end(script: str, message: str) -> NoReturn:
    launch, stream = launched_as(), sys.stderr
    if not launch.is_first:
        time.sleep(FIRST_TO_TELL)
        message, stream = f"{message} (process {launch.rank} of {launch.size})", sys.__stderr__
    print(f"{script}.py: {message}", file=stream)
    sys.exit(2)


def _as_dict(config: ScriptConfig) -> dict[str, Any]:
    """A configuration's fields, those that are dataclasses as they are."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _early_options(arguments: list[str]) -> Early:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--run", "--preset", "--recipe", "--data"):
        parser.add_argument(name)
    parser.add_argument("--restart", action=argparse.BooleanOptionalAction, default=False)
    try:
        return Early(**vars(parser.parse_known_args(arguments)[0]))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None


def _typed_options(arguments: list[str]) -> set[str]:
    """The fields that a command line names: of --no-mutual and --augment.flip, mutual, augment."""
    names = (re.match(r"--(?:no-)?([\w-]+)", argument) for argument in arguments)
    return {name[1].replace("-", "_") for name in names if name}


def _choose_run(script: str, early: Early) -> dict[str, Any]:
    """The run's name, and its preset and recipe, which a run that exists remembers."""
    if early.preset is not None and early.preset not in PRESETS:
        raise UserError(f"--preset {early.preset}: no such preset; known: {', '.join(PRESETS)}")
    if early.recipe not in (None, BEST_RECIPE, PAPER_RECIPE):
        raise UserError(
            f"--recipe {early.recipe}: no such recipe; known: {BEST_RECIPE}, {PAPER_RECIPE}"
        )
    for name in ("run", "data"):
        if getattr(early, name) == "":
            raise UserError(f"--{name}: is empty")
    folder = short_name(Path(early.data)) if early.data else None
    run = early.run or (folder if early.preset is None else early.preset) or DEFAULT_PRESET
    if not _is_folder_name(run):
        raise UserError(
            f"--run {ascii(shortened(run))[1:-1]}: a run's name must be usable as a folder's name"
        )
    begins_again = script in PRETEXTS and early.restart
    stored = _settled_or_none(RunFiles(run), script, begins_again)
    if stored is None:
        preset = early.preset or _preset_of(early.data, script in PRETEXTS)
        return {"run": run, "preset": preset, "recipe": early.recipe or BEST_RECIPE}
    for name in ("preset", "recipe"):
        if getattr(early, name) not in (None, stored[name]):
            raise UserError(
                f"run '{run}' was begun with --{name} {stored[name]}, now "
                f"{getattr(early, name)}: choose another --run"
            )
    if early.data and not begins_again:
        _require_same_images(RunFiles(run), stored, early.data)
    return {"run": run, "preset": stored["preset"], "recipe": stored["recipe"]}


def _is_folder_name(run: str) -> bool:
    """Whether `run` names a visible folder on any system, and can be told in a line."""
    fits = len(os.fsencode(run)) <= LONGEST_RUN_NAME
    return Path(run).name == run and not run.startswith(".") and run.isprintable() and fits


def _settled_or_none(files: RunFiles, script: str, begins_again: bool) -> dict[str, Any] | None:
    """What the run remembers; what is damaged does not stop a first stage that begins again."""
    try:
        return files.settled(script)
    except UserError:
        if begins_again:
            return None
        raise


def _require_same_images(files: RunFiles, settled: dict[str, Any], typed: str) -> None:
    """
    Raises:
        UserError: when a folder is neither the run's nor holds the same files.
    """
    settings, folder = settled["settings"], located(Path(typed))
    root = settings["root"] or settings["source"]
    if root == str(folder):
        return
    if differs := _difference(files, settled, folder):
        raise UserError(
            f"run '{files.run}' was begun with the images in {root}, now --data {typed}, "
            f"{differs}: choose another --run, or begin again with python {PRETEXTS[0]}.py "
            f"--restart"
        )


def _difference(files: RunFiles, settled: dict[str, Any], folder: Path) -> str:
    """What a folder that is not the run's holds else, in words; "" where it holds the same."""
    if settled["settings"]["source"] != "folder":
        return "and the set is not one of files"
    from src_py.images.splits import file_states, folder_files, listing
    from src_py.images.tars import is_in_shards

    if not (folder.is_dir() or is_in_shards(folder)):
        return "which is not there"
    paths = folder_files(folder, "train", settled["settings"].get("classes", ())) or []
    mined = files.record("extract_features") or {}
    states = [settled["images"], *([mined["images"]] if "images" in mined else [])]
    if listing(file_states(folder, paths)) in (state["listing"] for state in states):
        return ""
    counts = " or ".join(dict.fromkeys(str(state["count"]) for state in states))
    return f"whose {len(paths)} image files are not those {counts}, by their names and sizes"


def _preset_of(folder: str | None, is_told: bool) -> str:
    """The preset where nobody has named one.

    Args:
        is_told: whether to say what was found out about a folder.
    """
    if folder is None:
        return DEFAULT_PRESET
    from src_py.images.small_grey import are_small_and_grey

    if not are_small_and_grey(at_home(folder)):
        return FOLDER_PRESET
    if is_told:
        print(
            f"images: small and grey, so --preset {SMALL_GREY_PRESET}: views without flip and "
            f"colour (--preset {FOLDER_PRESET} takes those of photographs)"
        )
    return SMALL_GREY_PRESET


def _layers(
    script: str, chosen: dict[str, Any], early: Early, values: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the choice of a run brings, by origin, in rising order.

    Args:
        values: of the options so far; the caller puts each layer over them.
    """
    preset, recipe, files = PRESETS[chosen["preset"]], chosen["recipe"], RunFiles(chosen["run"])
    yield f"preset {chosen['preset']}", preset.stage(script, PAPER_RECIPE)
    yield f"recipe {recipe}", preset.stage(script, recipe)
    begins_again = script in PRETEXTS and early.restart
    settled = _settled_or_none(files, script, begins_again) or {}
    minutes = settled.get("minutes")
    if script not in PRETEXTS:
        yield "run", {"minutes": minutes, "precision": settled.get("precision", "auto")}
    stored = None if early.restart or script not in STAGES else files.begun(script)
    if stored is None:
        return
    given = {k: v for k, v in stored["config"].items() if k in values and k not in FREE_OPTIONS}
    had = given.get("minutes")
    if "minutes" in values and had == stored.get("run_minutes", had) and files.is_stale(script):
        given["minutes"] = minutes  # not its own: it begins again, in the time that the run has now
    yield "run", {name: _as_typed(value, values[name]) for name, value in given.items()}


def _as_typed(value: Any, default: Any) -> Any:
    """A value that was read from JSON, of the type of an option's default."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        parts = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        return dataclasses.replace(default, **parts)
    return tuple(value) if isinstance(value, list) else value


def _folder(config: RunConfig, script: str) -> Path | None:
    """The folder of images, where there is one: as typed, or as the run remembers it."""
    begins_again = script in PRETEXTS and getattr(config, "restart", False)
    settled = _settled_or_none(config.files, script, begins_again)
    root = None if settled is None else settled["settings"]["root"]
    # Where a set was downloaded is no choice of its own.
    if config.data is None and root is not None and Path(root) != DOWNLOAD_FOLDER.resolve():
        return Path(root)
    return None if config.data is None else located(config.data)


def _run_tyro(defaults: Config, arguments: list[str], description: str | None) -> Config:
    import tyro

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
