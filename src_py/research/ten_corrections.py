"""What ten corrections are worth, made in the worst cluster of a finished run.

    python -m src_py.research.ten_corrections trashnet-best-seed0 results/corrections.json

Ten of the images that lie wrong in the cluster of lowest purity are said to belong where their
labels say; selflabel.py then learns them, in copies of the run, once for each of three draws.
It reads labels, in the place of the person: no training stage imports it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from src_py.clusters.corrections import Corrections
from src_py.images.run_images import load_settings, read_rows
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, write_json
from src_py.run.stored_models import load_clustering
from src_py.scoring.class_labels import load_labels
from src_py.scoring.metrics import hungarian_mapping

CORRECTED = 10  # images
DRAWS = 3  # of the images to correct


def worst_cluster(assigned: np.ndarray, labels: np.ndarray, mapping: np.ndarray) -> int:
    """The cluster that the smallest share of its images belongs to.

    Args:
        assigned: (N,) int64, the cluster of each image.
        labels: (N,) int64.
        mapping: (C,) int64, the class of each cluster; -1 for none.
    """
    belongs = mapping[assigned] == labels
    clusters = np.unique(assigned)
    return int(clusters[np.argmin([belongs[assigned == cluster].mean() for cluster in clusters])])


def correct(
    assigned: np.ndarray, labels: np.ndarray, mapping: np.ndarray, random: np.random.Generator
) -> dict[int, int]:
    """The right cluster of ten rows that lie wrong in the worst cluster; of all, if fewer.

    Args:
        assigned, labels, mapping: see `worst_cluster`.
    """
    worst = worst_cluster(assigned, labels, mapping)
    known = np.isin(labels, mapping)  # a class that no cluster stands for has no right place
    wrong = np.flatnonzero((assigned == worst) & (mapping[assigned] != labels) & known)
    chosen = random.permutation(wrong)[:CORRECTED]
    cluster_of = {int(label): cluster for cluster, label in enumerate(mapping)}
    return {int(row): cluster_of[int(labels[row])] for row in chosen}


def measure(run: str, draws: int = DRAWS) -> dict:
    """Training ACC of the classifier alone, before and after, with one matching of both.

    Raises:
        UserError: when the run is not finished, its weights are not frozen, or its images have no
            labels.
    """
    files = RunFiles(run)
    files.require(files.output("selflabel"), "selflabel")
    if not load_clustering(files.output("selflabel"))[0].backbone.spec.frozen:
        raise UserError(f"run '{run}': its features are not those that its classifier sees")
    settings, names = load_settings(files), read_rows(files)
    found = load_labels(settings.source, settings.folder, "train", names, True)
    if found is None:
        raise UserError(f"run '{run}': its images have no labels to correct by")
    labels, classes = found
    before = _clusters(files)
    clusters = load_clustering(files.output("selflabel"))[0].heads.clusters
    mapping = hungarian_mapping(before, labels, clusters, len(classes))

    afterwards = []
    for draw in range(draws):
        given = correct(before, labels, mapping, np.random.default_rng(draw))
        copy = RunFiles(f"{run}-corrected{draw}")
        shutil.copytree(files.checkpoints, copy.checkpoints, dirs_exist_ok=True)
        told = {names[row]: cluster for row, cluster in given.items()}
        Corrections(clusters, told).write(copy.corrections)
        script = Path(__file__).resolve().parents[2] / "selflabel.py"
        subprocess.run([sys.executable, str(script), "--run", copy.run], check=True)
        afterwards.append(_accuracy(_clusters(copy), labels, mapping))
    return {
        "images": len(labels),
        "corrected": len(given),
        "acc_before": _accuracy(before, labels, mapping),
        "acc_after": afterwards,
    }


def _clusters(files: RunFiles) -> np.ndarray:
    """(N,) int64, where selflabel.pt puts each image whose features are stored."""
    heads = load_clustering(files.output("selflabel"))[0].heads
    with torch.no_grad():
        return heads(torch.from_numpy(np.load(files.features)))[0].argmax(dim=1).numpy()


def _accuracy(assigned: np.ndarray, labels: np.ndarray, mapping: np.ndarray) -> float:
    return round(float((mapping[assigned] == labels).mean()), 4)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("ten_corrections: expected a run and the file to write", file=sys.stderr)
        sys.exit(2)
    write_json(Path(sys.argv[2]), measure(sys.argv[1]))
