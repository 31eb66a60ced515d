"""choose_clusters.py: the number of clusters is found where it is known, and without a label."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA

import choose_clusters
from configs.config_choose_clusters import ChooseClustersConfig
from src_py.clusters import number as cluster_number
from src_py.clusters.number import ClusterNumberStudy, Evidence, recommend
from src_py.neighbor_pairs import NeighborPairs
from src_py.neighbors import find_neighbors
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, hashes
from src_py.run.writing import write_array
from tests.conftest import PROJECT
from tests.made_runs import write_data, write_stage


def blobs(count, rows=250, dim=16):
    """Features with `count` equal groups that hardly overlap."""
    centers = np.random.default_rng(0).normal(size=(count, dim)) * 4
    return make_blobs(rows, centers=centers, random_state=0)[0].astype(np.float32)


def study_of(features, seed=0, images=10_000):
    neighbors = find_neighbors(features, 10, threads=1)[0]
    pairs = NeighborPairs.of(neighbors, torch.device("cpu"), mutual=True)
    return ClusterNumberStudy(torch.from_numpy(features), pairs, images, seed)


def evidence(clusters, loss=0.5, agreement=0.5, silhouette=0.5):
    return Evidence(clusters, loss, agreement, silhouette, smallest=0.1)


@pytest.fixture
def fewer_epochs(monkeypatch):
    monkeypatch.setattr(cluster_number, "EPOCHS", 10)


@pytest.mark.parametrize("count", [3, 5])
def test_blobs_are_counted(fewer_epochs, count):
    study = study_of(blobs(count))
    found = recommend([study.examine(clusters, seeds=2) for clusters in range(2, 8)])
    assert found.clusters == count
    assert "all best there" in found.reason


def test_right_clusters_are_seen_in_every_measure():
    right, wrong = (study_of(blobs(5)).examine(clusters, seeds=2) for clusters in (5, 8))
    assert right.loss < 0.02 and right.agreement == 1 and right.silhouette > 0.7
    assert right.smallest == pytest.approx(1 / 5)
    assert wrong.loss > right.loss and wrong.agreement < 0.9 and wrong.smallest < 1 / 8


def test_digits_are_about_ten(fewer_epochs):
    """On pixels, which are worse features than a trained network's."""
    pixels = load_digits().data[:900]
    features = PCA(20, random_state=0).fit_transform(pixels).astype(np.float32)
    study = study_of(features)
    found = recommend([study.examine(clusters, seeds=2) for clusters in (4, 7, 9, 10, 11, 13, 16)])
    assert abs(found.clusters - 10) <= 3


def test_the_same_seed_gives_the_same_evidence(monkeypatch):
    monkeypatch.setattr(cluster_number, "EPOCHS", 2)
    features = blobs(4)
    first, again, other = (study_of(features, seed).examine(6, seeds=2) for seed in (1, 1, 2))
    assert first == again != other


def test_few_of_many_images_are_used():
    study = study_of(blobs(3), images=64)
    assert len(study.rows) == len(study.distances) == len(study.rows.unique()) == 64
    assert study.examine(3, seeds=2).agreement == 1
    with pytest.raises(UserError, match="--highest 17: 64 images are enough for at most 16"):
        study.require_images_for(17)


def test_one_cluster_for_everything_lies_nowhere_apart():
    study = study_of(blobs(3))
    assert study._silhouette(np.zeros(250, np.int64)) == -1


def test_the_comparable_loss_is_one_for_an_output_that_says_nothing(monkeypatch):
    monkeypatch.setattr(cluster_number, "EPOCHS", 0)
    monkeypatch.setattr(
        cluster_number, "start_at_prototypes", lambda heads, *_: heads.linear.weight.data.zero_()
    )
    study = study_of(blobs(3))
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda linear: [
        torch.nn.init.zeros_(linear.weight), torch.nn.init.zeros_(linear.bias)])  # fmt: skip
    for clusters in (2, 7):
        assert study.examine(clusters, seeds=2).loss == pytest.approx(1, abs=1e-5)


def test_the_best_of_all_three_together_is_recommended():
    rows = [evidence(clusters) for clusters in range(2, 13)]
    rows[0] = replace(rows[0], loss=0.1, agreement=0.9, silhouette=0.3)  # 2, last in one
    rows[8] = replace(rows[8], loss=0.2, agreement=0.8, silhouette=0.9)  # 10
    found = recommend(rows)
    assert found.clusters == 10
    assert "held-out loss at 2, agreement at 2, silhouette at 10" in found.reason
    assert "ranked together, 10 is ahead" in found.reason and "they differ" in found.reason


def test_measures_below_zero_are_no_obstacle():
    rows = [replace(evidence(clusters), agreement=-0.02, loss=-1e-9) for clusters in range(2, 13)]
    assert recommend(rows).clusters <= recommend(rows).finer <= 12


def test_equal_values_count_for_the_larger_number_and_the_end_of_the_range_is_said():
    found = recommend([evidence(clusters) for clusters in (2, 3, 4)])
    assert found.clusters == 4
    assert "--highest 8" in found.reason and "differ" not in found.reason


def test_a_finer_division_is_the_other_end_of_the_range():
    rows = [evidence(clusters) for clusters in range(2, 13)]
    rows[1] = replace(rows[1], loss=0.1, agreement=0.9, silhouette=0.9)  # 3
    rows[7] = replace(rows[7], loss=0.2, agreement=0.8, silhouette=0.8)  # 9
    rows[3] = replace(rows[3], loss=0.15, agreement=0.85, silhouette=0.85)  # 5, not twice as many
    found = recommend(rows)
    assert (found.clusters, found.finer) == (3, 9)
    rows[9] = replace(rows[9], loss=0.215, agreement=0.75, silhouette=0.75)  # 11, about as good
    assert recommend(rows).finer == 11
    rows[9] = replace(rows[9], agreement=0.7)
    assert recommend(rows).finer == 9
    assert str(found).endswith("range: K = 3 for coarse kinds to 9 for fine ones")
    found = recommend(rows[:5])  # 2 to 6: only one number is twice as large
    assert found.finer == found.clusters == 3 and "range" not in str(found)


def test_features_without_groups_are_said():
    weak = [evidence(clusters, silhouette=0.2) for clusters in (2, 3)]
    assert "hardly form groups" in recommend(weak).reason
    assert "hardly form groups" not in recommend([evidence(2), *weak]).reason


@pytest.fixture
def mined_run(tmp_path, monkeypatch):
    """A run 'made' as extract_features.py leaves it, with features of five groups."""
    monkeypatch.chdir(tmp_path)
    files = RunFiles("made")
    features = blobs(5)
    write_data(files, {"source": "digits", "root": None}, preset="digits")
    files.output("simclr").write_bytes(b"pretext")
    write_stage(files, "simclr")
    write_array(files.features, features)
    write_array(files.neighbors, find_neighbors(features, 10, threads=1)[0])
    write_stage(files, "extract_features", made_from=hashes([files.output("simclr")]))
    return files


def test_the_script_prints_a_table_and_writes_it_and_a_plot(run_script, mined_run, tmp_path):
    told = run_script(
        "choose_clusters.py", "--run", "made", "--lowest", "4", "--highest", "6", "--seeds", "2",
        "--device", "cpu",
    ).stdout  # fmt: skip
    assert "recommended: K = 5 (" in told
    assert "python scan.py --run made --clusters 5\n" in told
    with (tmp_path / mined_run.log("choose_clusters")).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["clusters"] for row in rows] == ["4", "5", "6"]
    assert max(rows, key=lambda row: float(row["silhouette"]))["clusters"] == "5"
    written = json.loads((tmp_path / "ckp" / "made" / "clusters.json").read_text())
    assert written["recommended"] == 5 and written["reason"] in told
    picture = tmp_path / mined_run.logs / "choose_clusters.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(picture.parent.iterdir())) == 2


def test_a_run_that_cannot_be_examined_is_refused(mined_run):
    with pytest.raises(UserError, match="--highest 99: 250 images are enough for at most 62"):
        choose_clusters.main(ChooseClustersConfig(run="made", highest=99))
    mined_run.output("simclr").write_bytes(b"another")
    write_stage(mined_run, "simclr")
    with pytest.raises(UserError, match="was not made from"):
        choose_clusters.main(ChooseClustersConfig(run="made"))
    mined_run.features.unlink()
    with pytest.raises(UserError, match=r"run first: python extract_features.py --run made"):
        choose_clusters.main(ChooseClustersConfig(run="made"))
    assert not list(mined_run.logs.iterdir())
    assert not (mined_run.checkpoints / cluster_number.RECOMMENDATION_FILE).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lowest": 1}, "--lowest 1: must be at least 2"),
        ({"lowest": 5, "highest": 5}, "--highest 5: must be above --lowest 5"),
        ({"seeds": 1}, "--seeds 1: must be at least 2"),
        ({"images": 8}, "--images 8: must be at least 32"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        ChooseClustersConfig(**options)


def test_help_does_not_wait_for_torch():
    code = "import sys, choose_clusters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
