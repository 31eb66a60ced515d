"""Which classifier of a run answers, and what its clusters are called."""

from dataclasses import replace
from pathlib import Path

from src_py.clusters.corrections import Corrections
from src_py.clusters.names import ClusterNames
from src_py.run.claim import settle
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, sha256
from src_py.run.stages import LABELS_FILE, PRETEXTS

CLASSIFIER_DIGITS = 12  # of the SHA-256 of scan.pt, in labels.json


def choose_classifier(files: RunFiles) -> Path:
    """selflabel.pt where it was made from scan.pt as that is now and has not lost what that knew.

    Raises:
        UserError: naming the command to run when there is neither.
    """
    settle(files)
    files.require(files.data, PRETEXTS[0])
    scan = files.made(files.output("scan"), "scan")
    self_labelled = files.output("selflabel")
    if not files.is_current("selflabel", corrected=False):
        print(f"selflabel.py has not been run on {scan}: using that")
        return scan
    if not files.is_current("selflabel"):
        print(f"{self_labelled} has not learned from {files.corrections} as it is now")
    record = files.record("selflabel") or {}
    information = record.get("information", {"scan": 0.0, "selflabel": 0.0})
    lost = record.get("kept") == "selflabel" and information["selflabel"] < information["scan"]
    if lost and not record.get("corrected"):
        print(f"{self_labelled} is worse than {scan} by evidence without labels: using {scan}")
        return scan
    return files.made(self_labelled, "selflabel")


def load_cluster_names(files: RunFiles, clusters: int) -> ClusterNames:
    """The names and merged groups of a run's clusters, with those that splits have added.

    Args:
        clusters: how many the run's classifier has.

    Raises:
        UserError: when labels.json or corrections.csv is damaged, or of another training.
    """
    classifier = sha256(files.output("scan"))[:CLASSIFIER_DIGITS]
    names = ClusterNames.load(files.checkpoints / LABELS_FILE, clusters, classifier)
    # A file that was written before the last split does not know of it.
    return replace(names, clusters=Corrections.load(files.corrections, names.clusters).clusters)


def cluster_names_again(files: RunFiles, clusters: int, before: ClusterNames) -> ClusterNames:
    """What `load_cluster_names` gives now, after work that others may have written in.

    Raises:
        UserError: when the clusters are no longer those of `before`; as `load_cluster_names`.
    """
    now = load_cluster_names(files, clusters)
    if now.classifier != before.classifier:
        raise UserError(
            f"scan.py has trained run '{files.run}' again meanwhile, and its clusters are others: "
            "nothing is written; start label.py again"
        )
    return now


def load_corrections(files: RunFiles, cluster_names: ClusterNames) -> Corrections:
    """What a person said of single images.

    Args:
        cluster_names: of the run, by `load_cluster_names`.

    Raises:
        UserError: when corrections.csv is damaged.
    """
    return Corrections.load(files.corrections, cluster_names.clusters)
