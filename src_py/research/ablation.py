"""Whole runs of the four stages, by setting and seed, and the table of their scores."""

import csv
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from configs.bounds import as_flag
from configs.config_ablation import VARIANTS, AblationConfig
from configs.config_scan import ScanConfig
from configs.config_simclr import SimCLRConfig
from configs.presets import BEST_RECIPE, PAPER_RECIPE, PRESETS
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, load_json, write_json, write_record
from src_py.run.hardware import choose_hardware
from src_py.run.pretrained import settle_network
from src_py.run.stages import CLASSIFIERS, LABELS_FILE, PRETEXTS, chain

Scores = dict[str, list[float]]  # by '<split> <score>', one value for each seed

SCORES = ("acc", "nmi", "ari")
RESULTS = Path("results")
# What the pretext leaves: a setting that changes only later stages begins with it.
SHARED = ("data.json", "simclr.json", "pretext.pt")
# What the mining adds, which no seed changes where the weights are frozen.
MINED = ("extract_features.json", "features.npy", "views.npy", "neighbors.npy", "rows.csv")


def run_setting(config: AblationConfig, setting: str, seed: int, out: Path) -> None:
    """Trains and scores one setting with one seed, unless `out` has its scores already.

    Args:
        setting: a recipe, or a variant of the best one.

    Raises:
        UserError: when a stage fails; its own message is printed before.
    """
    if (out / "evaluation.json").exists():
        print(f"{setting}, seed {seed}: done already ({out})")
        return
    runs = runs_name(out.parent.parent)
    pattern = f"{runs}-{{}}-seed{seed}"  # of the runs' names, by setting
    files = RunFiles(pattern.format(setting))
    recipe = PAPER_RECIPE if setting == PAPER_RECIPE else BEST_RECIPE
    pretext = "moco" if setting == "moco" else "simclr"
    source = _pretext_source(config, setting, pattern)
    done: tuple[str, ...] = ("simclr",)
    first_seed = config.seeds.split(",")[0]
    if "--init" in config.simclr and "--fine-tune" not in config.simclr and str(seed) != first_seed:
        mined = RunFiles(f"{runs}-{setting}-seed{first_seed}")
        if mined.neighbors.exists():  # not where only its results have been kept
            source, done = mined, ("simclr", "extract_features")
    if source:
        _copy_pretext(source, files, recipe, SHARED if len(done) == 1 else SHARED + MINED)
    for stage in chain():
        if source and stage in done:
            continue
        options = ["--run", files.run, "--device", config.device, "--loading", config.loading]
        if stage == "simclr":
            options += ["--preset", config.preset, "--recipe", recipe]
            options += ["--data", str(config.data)] if config.data else []
        if stage != "extract_features":
            options += ["--seed", str(seed), *config.options_of(stage)]
        options += _variant_options(config, setting, stage)
        _run(pretext if stage == "simclr" else stage, options)
    labelling = _variant_options(config, setting, "label")
    if labelling:
        _run("label", ["--run", files.run, "--device", config.device, *labelling])
    flags = [flag for flag in ("pixels", "folder_labels") if getattr(config, flag)]
    computed = ["--device", config.device, "--loading", config.loading]
    _run("evaluate", ["--run", files.run, *computed, *map(as_flag, flags)])
    _keep(files, pretext, out)


def runs_name(out: Path) -> str:
    """What the names of the runs begin with whose results lie in `out`: all of its folders below
    results/, so that no two comparisons share a run."""
    below = out.relative_to(RESULTS) if out.is_relative_to(RESULTS) else Path(out.name)
    return "-".join(below.parts)


def summarize(out: Path) -> dict[str, dict[str, Scores]]:
    """All scores below `out`: setting -> method -> '<split> <score>' -> one value for each seed."""
    found: dict = {}
    for path in sorted(out.glob("*/seed*/evaluation.json")):
        evaluation = load_json(path)
        setting = found.setdefault(path.parent.parent.name, {})
        for split in ("train", "test"):
            for method, scores in evaluation.get(split, {}).items():
                for score in SCORES:
                    values = setting.setdefault(method, {}).setdefault(f"{split} {score}", [])
                    values.append(scores[score])
    return found


def as_table(summary: dict) -> str:
    """A Markdown table: mean and standard deviation over the seeds, and the worst seed."""
    columns = [f"{split} {score}" for split in ("train", "test") for score in SCORES]
    lines = [
        f"| setting | method | seeds | {' | '.join(columns)} | worst acc |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for setting, methods in summary.items():
        for method, scores in methods.items():
            present = {name: scores.get(name) for name in columns}
            accuracies = present["test acc"] or present["train acc"]
            cells = [mean_and_spread(values) for values in present.values()]
            lines.append(
                f"| {setting} | {method} | {len(accuracies)} | {' | '.join(cells)} "
                f"| {min(accuracies):.3f} |"
            )
    return "\n".join(lines) + "\n"


def as_headlines(name: str, summary: dict) -> list[str]:
    """A row for each recipe of one set, or setting where there is no recipe by itself: ACC of
    k-means on the features, of scan and of selflabel.

    Args:
        name: of the set's folder below results/.
    """
    recipes = [recipe for recipe in (PAPER_RECIPE, BEST_RECIPE) if recipe in summary]
    return [
        f"| [{name}](results/{name}/table.md) | {setting} | {headline_cells(summary[setting])} |"
        for setting in recipes or summary
    ]


def headline_cells(methods: dict[str, Scores]) -> str:
    """Of one setting: how many seeds, ACC of k-means, scan and selflabel, and the worst seed's.

    On the test split, or on the training split where there is no other.
    """
    scores = {
        method: methods[method].get("test acc") or methods[method]["train acc"]
        for method in ("kmeans", *CLASSIFIERS)
    }
    cells = [mean_and_spread(values) for values in scores.values()]
    final = scores["selflabel"]
    return f"{len(final)} | {' | '.join(cells)} | {min(final):.3f}"


def mean_and_spread(values: list[float] | None) -> str:
    """'0.968 ± 0.003'; without spread for one value, '' for none."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _variant_options(config: AblationConfig, setting: str, script: str) -> list[str]:
    scan = PRESETS[config.preset].stage("scan", BEST_RECIPE)
    clusters = scan.get("clusters", ScanConfig.clusters)
    options = VARIANTS.get(setting, {}).get(script, [])
    return [option.format(clusters=clusters, twice=2 * clusters) for option in options]


def _pretext_source(config: AblationConfig, setting: str, pattern: str) -> RunFiles | None:
    """The run whose pretext a setting begins with, because it would train just the same.

    Args:
        pattern: of the runs' names, with {} in the place of the setting.
    """
    if setting in VARIANTS:
        own = setting == "moco" or "simclr" in VARIANTS[setting]  # another method, or network
        return None if own else RunFiles(pattern.format(BEST_RECIPE))
    if setting == BEST_RECIPE and PAPER_RECIPE in config.settings and _pretexts_are_alike(config):
        return RunFiles(pattern.format(PAPER_RECIPE))
    return None


def _pretexts_are_alike(config: AblationConfig) -> bool:
    """Whether both recipes have the same network, optimizer and views."""
    preset = PRESETS[config.preset]
    options = {"preset": config.preset} | preset.stage("simclr", BEST_RECIPE)
    if preset.stage("simclr", PAPER_RECIPE) != preset.stage("simclr", BEST_RECIPE):
        return False
    words = " ".join(config.options_of("simclr")).replace("=", " ").split()
    given = dict(pairwise(words))
    if "--augment.crop-scale" in given:
        return False  # the number of views may go by it
    for name in ("backbone", "optimizer", "init"):
        if as_flag(name) in given:
            options[name] = given[as_flag(name)]
    for name in ("image_size", "width"):
        if given.get(as_flag(name), "").isdigit():
            options[name] = int(given[as_flag(name)])
    if "--views" in given:
        options["views"] = 2  # in both, however many they are
    hardware = choose_hardware(config.device)
    paper, best = (
        settle_network(SimCLRConfig(recipe=recipe, **options), hardware)
        for recipe in (PAPER_RECIPE, BEST_RECIPE)
    )
    return replace(paper, recipe=BEST_RECIPE) == best


def _copy_pretext(source: RunFiles, target: RunFiles, recipe: str, names: tuple[str, ...]) -> None:
    if not all((source.checkpoints / name).exists() for name in names):
        raise UserError(f"run '{source.run}' has no pretext to share: it must be compared first")
    target.checkpoints.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy2(source.checkpoints / name, target.checkpoints / name)
    target.logs.mkdir(parents=True, exist_ok=True)
    if source.log("simclr").exists():  # frozen weights leave none
        shutil.copy2(source.log("simclr"), target.log("simclr"))
    write_record(target.data, (target.settled() or {}) | {"recipe": recipe})


def _run(script: str, options: list[str]) -> None:
    project = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(project / f"{script}.py"), *options]
    print(f"$ python {script}.py {shlex.join(options)}", flush=True)
    status = subprocess.run(command).returncode
    if status:
        raise UserError(f"{script}.py ended with status {status}; the same command goes on")


def _training_seconds(files: RunFiles) -> float:
    """Of all epochs of all stages, as logged: also right for a run that was interrupted."""
    total = 0.0
    for log in (files.log(stage) for stage in (*PRETEXTS, *CLASSIFIERS)):
        if log.exists():
            with log.open(newline="", encoding="utf-8") as file:
                total += sum(float(row["seconds"]) for row in csv.DictReader(file))
    return round(total, 1)


def _keep(files: RunFiles, pretext: str, out: Path) -> None:
    """Copies what is worth keeping of a run. Paths of the images are cut to the folder's name."""
    out.mkdir(parents=True, exist_ok=True)
    names = files.checkpoints.glob(LABELS_FILE)  # where there is one
    for log in (*files.logs.glob("*.csv"), files.logs / "contact_sheet.png", *names):
        shutil.copy2(log, out / log.name)
    hardware = ""
    for stage in chain(pretext):
        stored = files.record(stage) or {"config": {}}
        if stored["config"].get("data"):
            stored["config"]["data"] = Path(stored["config"]["data"]).name
        hardware = stored.get("hardware", hardware)
        write_json(out / f"{stage}.json", stored)
    machine = {"device": hardware, "processor": platform.processor() or platform.machine()}
    write_json(out / "machine.json", machine | {"training_seconds": _training_seconds(files)})
    shutil.copy2(files.evaluation, out / "evaluation.json")  # last: it says that all is there
