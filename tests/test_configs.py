"""A command line becomes a configuration: what overrides what, and what is refused."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys

import pytest

from configs.base_config import as_flag, parse
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from configs.presets import BEST, PRESETS
from src_py.errors import UserError
from src_py.run_files import RunFiles, as_plain, write_json
from tests.conftest import PROJECT

STAGES = {
    "simclr": SimCLRConfig,
    "moco": MoCoConfig,
    "extract_features": ExtractFeaturesConfig,
    "scan": ScanConfig,
    "selflabel": SelfLabelConfig,
}


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """Parses arguments for a stage, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def parse_arguments(stage, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{stage}.py", *arguments])
        return parse(STAGES[stage], stage, None)

    return parse_arguments


def test_no_arguments_mean_the_digits(command_line):
    config = command_line("simclr")
    assert (config.run, config.preset, config.data) == ("digits", "digits", None)
    assert config.width == PRESETS["digits"].stages["simclr"]["width"]


def test_command_line_overrides_the_preset(command_line):
    config = command_line("simclr", "--width", "8", "--augment.rotate", "3", "--seed", "5")
    assert (config.width, config.seed, config.augment.rotate) == (8, 5, 3)
    assert config.augment.zoom == PRESETS["digits"].stages["simclr"]["augment"].zoom


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", ["paper", "best"])
def test_every_preset_fits_every_stage(command_line, stage, preset, recipe, tmp_path):
    config = command_line(stage, "--preset", preset, "--recipe", recipe, "--data", str(tmp_path))
    for name, value in PRESETS[preset].stage(stage, recipe).items():
        assert getattr(config, name) == value


def test_the_paper_recipe_adds_nothing(command_line):
    scan, paper = (command_line("scan", "--recipe", recipe) for recipe in ("best", "paper"))
    assert scan.mutual and scan.prototypes and scan.head_epochs == BEST["scan"]["head_epochs"]
    assert not (paper.mutual or paper.prototypes or paper.head_epochs or paper.ema_decay)
    assert not paper.plain_neighbors
    paper = command_line("selflabel", "--recipe", "paper")
    assert not (paper.ema_decay or paper.reliable_share)


def test_the_run_is_named_after_the_folder_or_the_preset(command_line, tmp_path):
    assert command_line("simclr", "--data", str(tmp_path / "cats")).run == "cats"
    assert command_line("simclr", "--preset", "cifar10").run == "cifar10"
    assert command_line("simclr", "--preset", "cifar10", "--run", "mine").run == "mine"


def test_a_run_remembers_its_preset_and_options(command_line):
    remembered = {"preset": "cifar10", "recipe": "paper", "minutes": 9.0}
    write_json(RunFiles("mine").data, remembered | {"settings": {"root": None}})
    first = command_line("scan", "--run", "mine", "--clusters", "7")
    assert (first.preset, first.recipe, first.minutes) == ("cifar10", "paper", 9.0)
    with pytest.raises(UserError, match="begun with --recipe paper"):
        command_line("scan", "--run", "mine", "--recipe", "best")
    write_json(RunFiles("mine").config("scan"), {"made_from": "", "config": as_plain(first)})
    again = command_line("scan", "--run", "mine")
    assert again == first
    assert command_line("scan", "--run", "mine", "--restart").clusters == 10


def test_a_configuration_survives_json(command_line):
    for stage in STAGES:
        config = command_line(stage, "--data", "photos")
        assert json.loads(json.dumps(as_plain(config))) == as_plain(config)
        assert as_plain(config).keys() == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize(
    ("stage", "arguments", "words"),
    [
        ("scan", ["--epoch", "3"], ["--epoch", "Perhaps you meant", "--epochs"]),
        ("scan", ["--epochs", "x"], ["--epochs", "x"]),
        ("scan", ["--epochs", "0"], ["--epochs 0", "at least 1"]),
        ("scan", ["--clusters", "1"], ["--clusters 1", "at least 2"]),
        ("simclr", ["--preset", "cifar11"], ["cifar11", "cifar10"]),
        ("simclr", ["--run", "a/b"], ["a/b"]),
        ("simclr", ["--seed", "-1"], ["--seed -1"]),
        ("simclr", ["--augment.flip", "2"], ["flip", "2"]),
        ("simclr", ["--temperature", "0"], ["--temperature"]),
        ("selflabel", ["--threshold", "1"], ["--threshold"]),
        ("selflabel", ["--minutes", "0"], ["--minutes 0", "above 0"]),
        ("scan", ["--evenness", "1.5"], ["--evenness 1.5", "[0, 1]"]),
        ("scan", ["--recipe", "bset"], ["--recipe", "bset"]),
        ("moco", ["--queue-size", "0"], ["--queue-size 0", "at least 1"]),
    ],
)
def test_wrong_options_end_in_one_line(command_line, stage, arguments, words):
    with pytest.raises(UserError) as error:
        command_line(stage, *arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_another_preset_or_folder_for_a_run_is_refused(command_line, tmp_path):
    settings = {"root": str(tmp_path / "photos")}
    remembered = {"preset": "folder", "recipe": "best", "settings": settings}
    write_json(RunFiles("mine").data, remembered)
    with pytest.raises(UserError, match="choose another --run"):
        command_line("scan", "--run", "mine", "--preset", "digits")
    with pytest.raises(UserError, match="was begun with the images in"):
        command_line("scan", "--run", "mine", "--data", str(tmp_path / "other"))
    command_line("scan", "--run", "mine", "--data", str(tmp_path / "photos"))


def test_flags_are_spelt_with_dashes():
    assert as_flag("batch_size") == "--batch-size"


def test_configurations_do_not_import_torch():
    """Or --help would take seconds."""
    code = (
        "import sys, configs.config_simclr, configs.config_scan, configs.config_selflabel, "
        "configs.config_extract_features, configs.config_evaluate, configs.config_predict, "
        "configs.config_label, configs.config_export, configs.config_choose_clusters, "
        "configs.config_moco, configs.config_ablation; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize(
    "script",
    [
        "simclr",
        "moco",
        "extract_features",
        "scan",
        "selflabel",
        "evaluate",
        "predict",
        "label",
        "choose_clusters",
        "export",
    ],
)
def test_help_names_every_option(run_script, script):
    text = run_script(f"{script}.py", "--help").stdout
    assert f"python {script}.py" in text
    assert "--run" in text and "--device" in text


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs").glob("*.py")), ids=lambda path: path.name
)
def test_no_help_text_is_cut_off(path):
    """The command line shows a comment of one line; a longer text must be a docstring."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for line, following in itertools.pairwise(lines):
        assert not (re.match(r" {4}\w+: .*#", line) and re.match(r" {4}#", following)), line
