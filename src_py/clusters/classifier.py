"""Which classifier of a run answers, and what its clusters are called."""

from pathlib import Path

from src_py.clusters.names import LABELS_FILE, ClusterNames
from src_py.run.files import RunFiles, sha256
from src_py.run.stages import PRETEXTS

CLASSIFIER_DIGITS = 12  # of the SHA-256 of scan.pt, in labels.json


def choose_classifier(files: RunFiles) -> Path:
    """selflabel.pt where it was made from scan.pt as that is now and has not lost what that knew.

    Raises:
        UserError: naming the command to run when there is neither.
    """
    files.require(files.data, PRETEXTS[0])
    scan = files.require(files.output("scan"), "scan")
    self_labelled = files.output("selflabel")
    if not files.is_current("selflabel"):
        print(f"selflabel.py has not been run on {scan}: using that")
        return scan
    record = files.record("selflabel") or {}
    information = record.get("information", {"scan": 0.0, "selflabel": 0.0})
    if record.get("kept") == "selflabel" and information["selflabel"] < information["scan"]:
        print(f"{self_labelled} is worse than {scan} by evidence without labels: using {scan}")
        return scan
    return self_labelled


def load_cluster_names(files: RunFiles, clusters: int) -> ClusterNames:
    """The names and merged groups of a run's clusters.

    Args:
        clusters: how many the run's classifier has.

    Raises:
        UserError: when labels.json is damaged, or of another training.
    """
    classifier = sha256(files.output("scan"))[:CLASSIFIER_DIGITS]
    return ClusterNames.load(files.checkpoints / LABELS_FILE, clusters, classifier)
