"""ablation.py on a tiny set: every setting is run once, and the table has them all."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.config_ablation import AblationConfig
from src_py.research import ablation
from src_py.research.ablation import as_table, mean_and_spread, runs_name
from src_py.run.options import parse
from tests.script_process import Copy

TINY = "--epochs 1 --batch-size 16"


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs ablation.py in this process, and the scripts that it begins as copies of another."""

    def run(*arguments):
        words = list(map(str, arguments))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ablation.py", *words])
        begin = SimpleNamespace(run=lambda command: Copy(command[1:], tmp_path).done())
        monkeypatch.setattr(ablation, "subprocess", begin)
        importlib.import_module("ablation").main(parse(AblationConfig, "ablation", None)[0])
        return capsys.readouterr().out

    return run


def test_settings_and_seeds_become_a_table(compare, class_tree, tmp_path):
    arguments = [
        "--data", class_tree, "--preset", "folder", "--recipes", "best", "--variants", "mutual",
        "--seeds", "1", f"--simclr={TINY} --width 4 --image-size 8",
        f"--scan={TINY} --clusters 4 --candidate-heads 2 --heads 2",
        f"--selflabel={TINY}", "--device", "cpu", "--out", "results/tiny",
    ]  # fmt: skip
    told = compare(*arguments)
    out = tmp_path / "results" / "tiny"
    table = (out / "table.md").read_text()
    assert table in told
    for setting in ("best", "mutual"):
        assert f"| {setting} | selflabel | 1 |" in table
        kept = out / setting / "seed1"
        scan = json.loads((kept / "scan.json").read_text())["config"]
        assert scan["seed"] == 1 and scan["mutual"] == (setting == "mutual")
        assert json.loads((kept / "simclr.json").read_text())["config"]["data"] == "tree"
        assert json.loads((kept / "machine.json").read_text())["training_seconds"] > 0
        assert (kept / "selflabel.csv").exists()
    assert "evaluate" not in compare(*arguments)


def test_a_variant_needs_the_pretext_of_best(run_script, class_tree):
    said = run_script(
        "ablation.py", "--data", class_tree, "--preset", "folder", "--recipes", "",
        "--variants", "mutual", "--seeds", "0", status=2,
    ).stderr  # fmt: skip
    assert "it must be compared first" in said


def test_a_variant_of_the_network_trains_its_own_pretext(compare, class_tree, tmp_path):
    told = compare(
        "--data", class_tree, "--preset", "folder", "--recipes", "",
        "--variants", "compact,resnet18", "--seeds", "0",
        f"--simclr={TINY} --width 4 --image-size 8",
        f"--scan={TINY} --clusters 4 --candidate-heads 2 --heads 2",
        f"--selflabel={TINY}", "--device", "cpu", "--out", "results/minutes/tree/3",
    )  # fmt: skip
    for network in ("compact", "resnet18"):
        kept = tmp_path / "results" / "minutes" / "tree" / "3" / network / "seed0"
        assert json.loads((kept / "simclr.json").read_text())["config"]["backbone"] == network
        assert f"--run minutes-tree-3-{network}-seed0" in told


def test_comparisons_that_lie_apart_share_no_run():
    assert runs_name(Path("results/digits")) == "digits"
    assert runs_name(Path("results/minutes/digits/3")) == "minutes-digits-3"
    assert runs_name(Path("out/cifar10-25min")) == "cifar10-25min"


def test_unknown_settings_are_refused(run_script):
    said = run_script("ablation.py", "--variants", "no-luck", status=2).stderr
    assert "no-luck" in said and "mutual" in said


def test_the_table_shows_spread_and_the_worst_seed():
    scores = {"test acc": [0.9, 0.8], "train acc": [1.0, 1.0]}
    table = as_table({"best": {"scan": scores}})
    assert "| best | scan | 2 | 1.000 ± 0.000 |" in table and "| 0.800 |" in table
    assert mean_and_spread([0.5]) == "0.500"


@pytest.mark.parametrize(
    ("simclr", "shared"),
    [
        ("", False),
        ("--backbone resnet18", True),
        ("--backbone=compact", False),  # by SGD, and by Muon
        ("--backbone=compact --optimizer muon", False),  # of two views, and of four
        ("--backbone=compact --optimizer muon --views 2", False),  # of two widths
        ("--backbone=compact --optimizer muon --views 2 --width 16", True),
        ("--init resnet18", True),
        ("--backbone resnet18 --image-size 32", True),
        ("--backbone resnet18 --augment.crop-scale 0.3 1", False),  # the number of views may differ
    ],
)
def test_recipes_share_a_pretext_only_where_all_of_it_is_the_same(simclr, shared):
    config = AblationConfig(preset="cifar10", device="cpu", simclr=simclr)
    source = ablation._pretext_source(config, "best", "cifar10-{}-seed0")
    assert (source is not None) == shared


def test_small_images_of_a_large_set_are_for_another_network():
    config = AblationConfig(preset="stl10", device="cpu", simclr="--image-size 32")
    assert ablation._pretext_source(config, "best", "stl10-{}-seed0") is None
    config = AblationConfig(preset="stl10", device="cpu")
    assert ablation._pretext_source(config, "best", "stl10-{}-seed0") is not None


def test_views_that_are_no_crops_are_two_in_both_recipes():
    config = AblationConfig(
        preset="mnist", device="cpu", simclr="--backbone compact --optimizer muon"
    )
    assert ablation._pretext_source(config, "best", "mnist-{}-seed0") is not None
