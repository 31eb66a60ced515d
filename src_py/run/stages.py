"""The stages of a run: what each leaves, what it is made from, and its part of the minutes."""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_ROOT = Path("ckp")  # has a folder for each run
LABELS_FILE = "labels.json"  # in ckp/<run>/; see clusters/names.py
CORRECTIONS_FILE = "corrections.csv"  # see clusters/corrections.py

# What guard.view_information compares two classifiers by.
EVIDENCE_PAIRS = 10_000  # of views, at most
EVIDENCE_VIEWS = 3  # of each image and of a neighbor, at most


@dataclass(frozen=True)
class Stage:
    """One script of the chain.

    Attributes:
        outputs: files in ckp/<run>/ that it leaves.
        needs: stages that it is made from; in the place of simclr, moco may have been run.
        share: of the minutes, for its training; 0 where it does not train.
        looks: at all images without training that are still to come when its training begins: for
            the mining, to choose a head, for the pseudo-labels and, at the end of the last
            stage, for the temperature.
        evidences: comparisons of two classifiers (guard.view_information) that are still to come.
        heeds: files in ckp/<run>/ that a person makes, and that it learns from where they are.
        sometimes: what it also leaves, of frozen weights alone.
    """

    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    share: float = 0.0
    looks: int = 0
    evidences: int = 0
    heeds: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


_PRETEXT = Stage(("pretext.pt",), share=0.6, looks=4, evidences=2)

# In the order in which they are run; either of the first two begins a run.
STAGES = {
    "simclr": _PRETEXT,
    "moco": _PRETEXT,
    "extract_features": Stage(
        ("features.npy", "neighbors.npy"), ("simclr",), sometimes=("views.npy",)
    ),
    "scan": Stage(("scan.pt",), ("simclr", "extract_features"), 0.2, looks=3, evidences=2),
    "selflabel": Stage(
        ("selflabel.pt",), ("scan",), 0.2, looks=2, evidences=1, heeds=(CORRECTIONS_FILE,)
    ),
}
PRETEXTS = tuple(name for name, stage in STAGES.items() if not stage.needs)
CLASSIFIERS = ("scan", "selflabel")


def evidence_looks(images: int) -> float:
    """What guard.view_information takes for two classifiers, in looks at all images."""
    return 2 * 2 * min(EVIDENCE_PAIRS, EVIDENCE_VIEWS * images) / images


def chain(pretext: str = PRETEXTS[0]) -> tuple[str, ...]:
    """The stages of one run, in order."""
    return tuple(name for name in STAGES if name == pretext or name not in PRETEXTS)
