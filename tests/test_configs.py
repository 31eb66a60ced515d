"""A command line becomes a configuration: what overrides what, and what is refused."""

import dataclasses
import importlib
import itertools
import json
import re
import subprocess
import sys

import pytest

from configs import MODULES, REQUIREMENTS
from configs.bounds import as_flag
from configs.config_evaluate import EvaluateConfig
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from configs.presets import BEST, PRESETS
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, as_plain
from src_py.run.hardware import choose_hardware
from src_py.run.options import parse
from src_py.run.options import run_script as run_script_function
from src_py.run.session import TrainingSession
from tests.conftest import PROJECT
from tests.made_runs import write_data, write_stage

STAGES = {
    "simclr": SimCLRConfig,
    "moco": MoCoConfig,
    "extract_features": ExtractFeaturesConfig,
    "scan": ScanConfig,
    "selflabel": SelfLabelConfig,
}


@pytest.fixture
def parsed(monkeypatch, tmp_path):
    """Parses arguments for a stage, in an empty folder: its configuration and their origins."""
    monkeypatch.chdir(tmp_path)

    def parse_arguments(stage, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{stage}.py", *arguments])
        return parse(STAGES[stage], stage, None)

    return parse_arguments


@pytest.fixture
def command_line(parsed):
    return lambda stage, *arguments: parsed(stage, *arguments)[0]


@pytest.fixture
def origins(parsed):
    """Where the values of a stage's options come from."""
    return lambda stage, *arguments: parsed(stage, *arguments)[1]


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
    asked = ["--preset", preset, "--data", str(tmp_path)]
    config = command_line(
        stage, *asked, *([] if stage == "extract_features" else ["--recipe", recipe])
    )
    for name, value in PRESETS[preset].stage(stage, recipe).items():
        assert getattr(config, name) == value


def test_the_paper_recipe_adds_nothing(command_line):
    scan, paper = (command_line("scan", "--recipe", recipe) for recipe in ("best", "paper"))
    assert scan.components and scan.prototypes and scan.head_epochs == BEST["scan"]["head_epochs"]
    assert not (paper.components or paper.prototypes or paper.head_epochs or paper.ema_decay)
    assert not paper.plain_neighbors
    paper = command_line("selflabel", "--recipe", "paper")
    assert not (paper.ema_decay or paper.reliable_share)


def test_the_run_is_named_after_the_folder_or_the_preset(command_line, tmp_path):
    assert command_line("simclr", "--data", str(tmp_path / "cats")).run == "cats"
    assert command_line("simclr", "--preset", "cifar10").run == "cifar10"
    assert command_line("simclr", "--preset", "cifar10", "--run", "mine").run == "mine"


def test_a_run_remembers_its_preset_and_options(command_line):
    remembered = {"preset": "cifar10", "recipe": "paper", "minutes": 9.0}
    write_data(RunFiles("mine"), {"root": None}, **remembered)
    first = command_line("scan", "--run", "mine", "--clusters", "7")
    assert (first.preset, first.recipe, first.minutes) == ("cifar10", "paper", 9.0)
    with pytest.raises(UserError, match="begun with --recipe paper"):
        command_line("scan", "--run", "mine", "--recipe", "best")
    write_stage(RunFiles("mine"), "scan", first)
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
        ("selflabel", ["--minutes", "0"], ["--minutes 0", "at least 0.01"]),
        ("scan", ["--evenness", "1.5"], ["--evenness 1.5", "at most 1"]),
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
    write_data(RunFiles("mine"), {"root": str(tmp_path / "photos")})
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
        "configs.config_moco, configs.config_ablation, src_py.run.options; "
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
    config_class = importlib.import_module(f"configs.config_{script}")
    (options,) = (
        value
        for name, value in vars(config_class).items()
        if name.lower() == f"{script.replace('_', '')}config"
    )
    for field in dataclasses.fields(options):
        if field.name != "paths":  # which have no flag
            assert as_flag(field.name) in text, field.name


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs").glob("*.py")), ids=lambda path: path.name
)
def test_no_help_text_is_cut_off(path):
    """The command line shows a comment of one line; a longer text must be a docstring."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for line, following in itertools.pairwise(lines):
        assert not (re.match(r" {4}\w+: .*#", line) and re.match(r" {4}#", following)), line


def test_each_value_has_its_origin(origins):
    found = origins("scan", "--run", "mine", "--mutual", "--augment.flip", "0.5")
    assert found["run"] == found["mutual"] == found["augment"] == "command line"
    assert found["batch_size"] == "preset digits"
    assert found["components"] == found["head_epochs"] == "recipe best"
    assert found["preset"] == found["seed"] == found["minutes"] == "default"


def test_what_a_run_settled_is_told_as_its_own(origins):
    remembered = {"preset": "cifar10", "recipe": "paper", "minutes": 9.0}
    write_data(RunFiles("mine"), {"root": None}, **remembered)
    assert origins("scan", "--run", "mine")["minutes"] == "run"
    first = ScanConfig(run="mine", clusters=7, minutes=9.0)
    write_stage(RunFiles("mine"), "scan", first)
    found = origins("scan", "--run", "mine")
    assert found["clusters"] == found["minutes"] == found["preset"] == "run"
    assert found["evenness"] == "default"
    assert origins("scan", "--run", "mine", "--restart")["clusters"] == "default"


@pytest.mark.parametrize("script", ["extract_features", "scan", "selflabel"])
def test_later_stages_compute_as_precisely_as_the_first(command_line, script):
    write_data(RunFiles("mine"), {"root": None}, precision="float32")
    assert command_line(script, "--run", "mine").precision == "float32"
    assert command_line(script, "--run", "mine", "--precision", "auto").precision == "auto"
    write_data(RunFiles("mine"), {"root": None})  # as earlier versions did
    assert command_line(script, "--run", "mine").precision == "auto"


def test_minutes_that_the_first_stage_was_given_since_count(command_line):
    """A stage whose inputs have changed begins again, in the time that the run has now."""
    remembered = {"preset": "digits", "recipe": "best", "minutes": 9.0}
    write_data(RunFiles("mine"), {"root": None}, **remembered)
    begun = ScanConfig(run="mine", minutes=3.0)
    of_another = {"pretext.pt": "0" * 64}
    write_stage(RunFiles("mine"), "scan", begun, made_from=of_another)
    assert command_line("scan", "--run", "mine").minutes == 9.0
    assert command_line("scan", "--run", "mine", "--minutes", "3").minutes == 3.0
    write_stage(RunFiles("mine"), "scan", begun, made_from=of_another, run_minutes=3.0)
    assert command_line("scan", "--run", "mine").minutes == 9.0


@pytest.mark.parametrize("of_the_run", [None, 9.0])
def test_minutes_that_a_stage_alone_was_given_stay_its_own(command_line, of_the_run):
    """Also where an earlier stage was trained anew since."""
    remembered = {"preset": "digits", "recipe": "best", "minutes": of_the_run}
    write_data(RunFiles("mine"), {"root": None}, **remembered)
    config = command_line("selflabel", "--run", "mine", "--minutes", "5")
    session = TrainingSession(config, "selflabel", choose_hardware("cpu"))
    session.begin()  # on no scan.pt, so that any other is a new one
    assert RunFiles("mine").is_stale("selflabel")
    assert command_line("selflabel", "--run", "mine").minutes == 5.0
    restarted = command_line("selflabel", "--run", "mine", "--restart")
    assert restarted.minutes == of_the_run


def test_a_pretext_begun_before_views_could_be_chosen_keeps_its_two(command_line):
    write_data(RunFiles("mine"), {"root": None}, preset="cifar10", recipe="best")
    begun = as_plain(SimCLRConfig(run="mine", preset="cifar10", backbone="compact"))
    del begun["views"], begun["view_side"]
    write_stage(RunFiles("mine"), "simclr", begun)
    config = command_line("simclr", "--run", "mine")
    assert (config.views, config.view_side) == (2, 1.0)
    assert command_line("simclr", "--run", "mine", "--restart").views is None
    others = command_line("simclr", "--run", "mine", "--views", "4")
    RunFiles("mine").output("simclr").write_bytes(b"")
    with pytest.raises(UserError, match=r"was begun with --views 2 \(now 4\)"):
        TrainingSession(others, "simclr", choose_hardware("cpu"))


def test_the_configuration_is_shown_before_torch_is_loaded(run_script, tmp_path):
    code = tmp_path / "torch.py"  # imported in torch's place by a script that wants it
    code.write_text("raise RuntimeError('torch was loaded')")
    told = run_script("scan.py", "--show-config", "--clusters", "7", environment=tmp_path).stdout
    rows = dict(line.split(maxsplit=1) for line in told.splitlines())
    assert rows["--clusters"].split(maxsplit=1) == ["7", "command line"]
    assert rows["--augment"].endswith("preset digits")
    assert not (tmp_path / "ckp").exists()


@pytest.mark.parametrize("script", ["simclr", "scan", "predict", "evaluate"])
def test_without_its_packages_a_script_ends_in_one_line(script, tmp_path):
    """-S leaves out the folder of installed packages."""
    command = [sys.executable, "-S", str(PROJECT / f"{script}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script}.py: {sys.executable} has no torch, ")
    assert "tyro" in line and "faiss-cpu" in line
    assert "-m pip install -r" in line and str(PROJECT / "requirements.txt") in line


def test_memory_that_runs_out_ends_in_one_line(monkeypatch, capsys):
    def main(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 GB")

    monkeypatch.setattr(sys, "argv", ["scan.py"])
    with pytest.raises(SystemExit) as ended:
        run_script_function(ScanConfig, "scan", main, None)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory" in line and "--batch-size" in line and "same command" in line


def test_all_packages_that_are_required_are_asked_for():
    required = re.findall(r"^[\w-]+", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert list(MODULES) == required


@pytest.mark.parametrize("option", ["--run", "--data"])
def test_an_empty_name_is_refused(command_line, option):
    """As that of a shell variable that is not set; it would mean the folder one stands in."""
    with pytest.raises(UserError, match=f"{option}: is empty"):
        command_line("simclr", option, "")


def test_a_run_of_a_named_set_remembers_its_folder(command_line, tmp_path):
    settings = {"root": str(tmp_path / "idx"), "source": "mnist"}
    write_data(RunFiles("mine"), settings, preset="mnist")
    assert command_line("simclr", "--run", "mine", "--restart").data == tmp_path / "idx"
    settings["root"] = str(tmp_path / "data")  # where sets are downloaded to
    write_data(RunFiles("mine"), settings, preset="mnist")
    assert command_line("simclr", "--run", "mine", "--restart").data is None


def test_a_damaged_record_is_one_line(command_line):
    RunFiles("mine").checkpoints.mkdir(parents=True)
    RunFiles("mine").data.write_text("{bad")
    with pytest.raises(UserError, match=r"data\.json is damaged"):
        command_line("scan", "--run", "mine")


def test_what_to_do_after_an_interruption_is_true(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def interrupted(config_class, script, *arguments):
        def main(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_script_function(config_class, script, main, None)
        assert ended.value.code == 130
        return capsys.readouterr().err

    assert "the same command goes on" in interrupted(ScanConfig, "scan")
    assert "begins again" in interrupted(ScanConfig, "scan", "--restart")
    RunFiles("digits").checkpoints.mkdir(parents=True)
    RunFiles("digits").partial("scan").touch()
    assert "without --restart goes on" in interrupted(ScanConfig, "scan", "--restart")
    assert "the same command goes on" in interrupted(ExtractFeaturesConfig, "extract_features")
    assert "begins again" in interrupted(EvaluateConfig, "evaluate")
