"""Accuracy against minutes, from made-up results: what is there is shown, and nothing else."""

import json
import os
import shutil
import subprocess

import pytest
from PIL import Image

from src_py.research.minutes_plot import (
    PICTURE,
    as_section,
    devices_of,
    read_budgets,
    write_picture,
)
from tests.conftest import PROJECT


@pytest.fixture
def left(tmp_path):
    """Writes the scores of one seed as ablation.py leaves them; gives the folder of all."""

    def leave(path, accuracy, splits=("train", "test")):
        seed = tmp_path / "minutes" / path
        seed.mkdir(parents=True)
        scores = {"acc": accuracy, "nmi": accuracy / 2, "ari": accuracy / 4}
        methods = dict.fromkeys(("kmeans", "scan", "selflabel"), scores)
        (seed / "evaluation.json").write_text(json.dumps(dict.fromkeys(splits, methods)))
        (seed / "machine.json").write_text(json.dumps({"device": "cpu, 1 threads, float32"}))
        return tmp_path / "minutes"

    return leave


def test_results_are_read_as_far_as_they_are_there(left):
    left("fashion_mnist/10/resnet18/seed0", 0.5)
    left("digits/10/compact/seed0", 0.9)
    left("digits/3/compact/seed0", 0.8)
    left("digits/3/compact/seed1", 0.7)
    left("digits/0.3/resnet18/seed0", 0.6)
    folder = left("digits/notes/resnet18/seed0", 0.1)
    (folder / "digits" / "60" / "compact" / "seed0").mkdir(parents=True)  # begun, not finished
    budgets = read_budgets(folder)
    assert [(each.images, each.setting, each.minutes) for each in budgets] == [
        ("digits", "compact", 3),
        ("digits", "compact", 10),
        ("digits", "resnet18", 0.3),
        ("fashion_mnist", "resnet18", 10),
    ]
    assert budgets[0].accuracies == [0.8, 0.7]
    assert devices_of(folder) == ["cpu, 1 threads, float32"]


def test_the_table_has_a_row_for_each_budget(left):
    left("digits/3/compact/seed0", 0.8)
    told = as_section(read_budgets(left("digits/3/compact/seed1", 0.6)))
    cells = "0.700 ± 0.141"
    assert f"| digits | compact | 3 | 2 | {cells} | {cells} | {cells} | 0.600 |" in told
    columns = {line.count("|") for line in told.splitlines() if line.startswith("|")}
    assert columns == {9} and f"(minutes/{PICTURE})" in told
    assert as_section([]) == ""


def test_the_picture_has_a_panel_for_each_set(left):
    folder = left("digits/3/compact/seed0", 0.8)
    write_picture(folder)
    one = Image.open(folder / PICTURE).size
    left("cifar10/60/resnet18/seed0", 0.3)
    left("cifar10/3/compact/seed0", 0.2)
    write_picture(folder)
    two = Image.open(folder / PICTURE).size
    assert two == (2 * one[0], one[1])


def test_without_a_test_split_there_is_no_picture(left, tmp_path):
    write_picture(tmp_path / "minutes")
    folder = left("digits/3/compact/seed0", 0.8, splits=("train",))
    write_picture(folder)
    assert not (folder / PICTURE).exists()
    assert "| digits | compact | 3 | 1 | 0.800 " in as_section(read_budgets(folder))


def test_the_command_measures_both_networks_within_each_of_the_minutes():
    if os.name == "nt" or shutil.which("make") is None:
        pytest.skip("needs make and a POSIX shell")

    def told(*variables):
        command = ["make", "-n", "results-minutes", *variables]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    whole = told("DATA=my photos", "MINUTES=3 0.5", "SEEDS=0,1").stdout
    assert "for minutes in 3 0.5; do" in whole and whole.count("ablation.py") == 3
    assert whole.count('--recipes "" --variants compact,resnet18,sgd --seeds 0,1') == 3
    assert whole.count('--simclr="--minutes $minutes') == 3
    assert '--preset cifar10 --data "my photos"' in whole
    for images in ("digits", "fashion_mnist", "cifar10"):
        assert f"--out results/minutes/{images}/$minutes" in whole
    assert "minutes_plot" in whole
    assert "cifar10" not in told().stdout
    assert "say which folder has CIFAR-10" in told("SETS=cifar10").stderr
