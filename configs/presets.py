"""What differs from one kind of images to the next, and nothing else."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from configs.imagenet import class_folders
from configs.weights import IMAGENET_MEAN, IMAGENET_STD
from src_py.augmentation import SIMCLR_VIEW, Augmentation

# By the script's name: values of its options, each of the type that its dataclass says.
Stages = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Preset:
    """One kind of images.

    Attributes:
        source: where the images come from when no `--data` folder of image files is given.
        image_size: side in px, or None to choose it from the images.
        channels: 1 (grey) or 3.
        mean, std: per channel, of pixels in [0, 1]; None to measure them.
        stages: options of a stage that differ from its config module's, by the script's name, in
            both recipes: augmentations, width, schedule.
        best: further options of the recipe 'best', besides or in the place of BEST and `stages`.
        classes: the only class folders that are read of each split, sorted; () for all images.
    """

    source: str
    image_size: int | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    stages: Stages = field(default_factory=dict)
    best: Stages = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def stage(self, name: str, recipe: str) -> dict[str, Any]:
        """The options of a stage that differ from its config module's."""
        if name == "moco":  # an option that both have is simclr.py's, unless it is told apart
            return self.stage("simclr", recipe) | self.stages.get("moco", {})
        common = self.stages.get(name, {})
        if recipe == PAPER_RECIPE:
            return common
        return common | BEST.get(name, {}) | self.best.get(name, {})


PAPER_RECIPE: Final = "paper"
BEST_RECIPE: Final = "best"

# What the recipe 'best' adds to the published algorithm, which is the config modules' defaults.
BEST: Stages = {
    "extract_features": {"components": 64},
    "scan": {
        "head_epochs": 30,
        "candidate_heads": 100,
        "head_learning_rate": 3e-2,
        "prototypes": True,
        "components": 64,
        "plain_neighbors": True,
    },
    "selflabel": {"ema_decay": 0.99, "reliable_share": 0.5},
}


# Small grey images are mostly signs: strokes have no mirror image (2 and 5, 6 and 9 would meet) and
# no colour. Views differ in place, size and slant, and by blur and contrast in the pen's thickness.
STROKES = Augmentation(
    rotate=15,
    translate=0.12,
    zoom=0.15,
    shear=10,
    brightness=0.4,
    contrast=0.4,
    blur=0.3,
    cutout=0.5,
)
CLUSTER_STROKES = Augmentation(rotate=15, translate=0.12, zoom=0.15, shear=10)
WEAK_STROKES = Augmentation(rotate=5, translate=0.05, zoom=0.05)

SMALL_GREY: Stages = {
    "simclr": {
        "epochs": 60,
        "batch_size": 128,
        "width": 16,
        "temperature": 0.5,
        "warmup_epochs": 5,
        "augment": STROKES,
    },
    "scan": {
        "epochs": 20,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "augment": CLUSTER_STROKES,
    },
    "selflabel": {
        "epochs": 40,
        "batch_size": 256,
        "threshold": 0.95,
        "weak_augment": WEAK_STROKES,
        "strong_augment": CLUSTER_STROKES,
    },
}
# From heads that are trained already, a gentler network training does more, and in fewer epochs.
# Plain neighbors have not been tried with these views, which are milder than SCAN's strong one.
SMALL_GREY_BEST: Stages = {
    "simclr": {"backbone": "compact", "optimizer": "muon", "epochs": 40},
    "extract_features": {"components": 64},
    "scan": {"epochs": 10, "learning_rate": 3e-4, "mutual": True, "plain_neighbors": False},
    "selflabel": {"epochs": 10, "learning_rate": 3e-4},
}

GARMENT_VIEW = Augmentation(crop_scale=(0.3, 1.0), flip=0.5, brightness=0.4, contrast=0.4)

MNIST: Stages = {
    "simclr": {"epochs": 50, "temperature": 0.5, "width": 32, "augment": STROKES},
    "scan": {"augment": CLUSTER_STROKES},
    "selflabel": {"epochs": 50, "weak_augment": WEAK_STROKES, "strong_augment": CLUSTER_STROKES},
}

FASHION_MNIST: Stages = {
    "simclr": {"epochs": 100, "temperature": 0.2, "width": 32, "augment": GARMENT_VIEW},
    "selflabel": {"epochs": 100},
}

# A person's own images: few steps an epoch, many kinds, and often no GPU.
FOLDER: Stages = {
    "simclr": {"epochs": 200, "batch_size": 256, "width": 32, "warmup_epochs": 10},
    "selflabel": {"epochs": 100, "batch_size": 256, "threshold": 0.95},
}

STL10_VIEW = Augmentation(flip=0.5, strong_ops=4, cutout=1 / 3)
STL10: Stages = {
    "simclr": {"use_unlabelled": True},
    "scan": {"epochs": 100, "augment": STL10_VIEW},
    "selflabel": {"epochs": 100, "strong_augment": STL10_VIEW},
}

IMAGENET_STRONG_VIEW = Augmentation(flip=0.5, strong_ops=4, cutout=75 / 224)
# The authors' self-labelling lets a moving average of 0.999 take the network's place after every
# step: of a step of SGD at a rate of 0.03, a thousandth remains. This rate does the same.
RATE_OF_AVERAGED_STEPS = 3e-5  # 0.03 x (1 - 0.999)


def _imagenet(
    clusters: int, scan_batch: int, classes: tuple[str, ...] = (), best: Stages | None = None
) -> Preset:
    """ImageNet or a subset: MoCo v2's ResNet-50, whose weights stay until the self-labelling.

    Args:
        scan_batch: images a step of scan.py, as the authors have it for this many clusters.
    """
    return Preset(
        "folder",
        224,
        3,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        classes=classes,
        stages={
            "simclr": {"backbone": "resnet50", "freeze": True},
            "moco": {  # MoCo v2's own (Chen et al., 2020), of 800 epochs
                "epochs": 800,
                "batch_size": 256,
                "learning_rate": 0.06,  # of a batch of 512: 0.03 for 256
                "temperature": 0.2,
                "queue_size": 65_536,
                "target_decay": 0.999,
                "augment": replace(SIMCLR_VIEW, blur=0.5),
            },
            "extract_features": {"neighbors": 50},
            "scan": {
                "clusters": clusters,
                "epochs": 100,
                "batch_size": scan_batch,
                "optimizer": "sgd",
                "learning_rate": 5.0,
                "weight_decay": 0.0,
                "heads": 10,
                "fresh_views": True,
                "augment": SIMCLR_VIEW,
            },
            "selflabel": {
                "epochs": 25,
                "batch_size": 512,
                "optimizer": "sgd",
                "learning_rate": RATE_OF_AVERAGED_STEPS,
                "weight_decay": 0.0,
                "fine_tune": True,
                "balanced": False,
                "strong_augment": IMAGENET_STRONG_VIEW,
            },
        },
        best=best or {},
    )


# A hundred candidates of so many clusters take long, and the sample that k-means' prototypes are
# found in has only twenty images for each of 1,000 kinds.
STORED_VIEWS: Stages = {"scan": {"fresh_views": False}}
FEW_CANDIDATES: Stages = {"scan": {"fresh_views": False, "candidate_heads": 20}}
NO_CANDIDATES: Stages = {
    "scan": {"head_epochs": 0, "prototypes": False, "components": 0, "plain_neighbors": False}
}

LONG_AVERAGE: Stages = {"selflabel": {"ema_decay": 0.999}}  # thousands of steps

# cifar10 and cifar20 follow the paper, whose options are the config modules' defaults.
PRESETS = {
    "digits": Preset(
        "digits",
        image_size=16,
        channels=1,
        stages=SMALL_GREY,
        best=SMALL_GREY_BEST,
    ),
    "folder": Preset("folder", stages=FOLDER),
    "small_grey": Preset(
        "folder",
        channels=1,
        stages=SMALL_GREY,
        best=SMALL_GREY_BEST,
    ),
    "cifar10": Preset(
        "cifar10",
        32,
        3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        best=LONG_AVERAGE,
    ),
    "cifar20": Preset(
        "cifar20",
        32,
        3,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        stages={"scan": {"clusters": 20, "epochs": 100, "batch_size": 512}},
        best=LONG_AVERAGE,
    ),
    "stl10": Preset(
        "stl10",
        96,
        3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        stages=STL10,
    ),
    "mnist": Preset("mnist", 28, 1, stages=MNIST, best={"scan": {"plain_neighbors": False}}),
    "fashion_mnist": Preset("fashion_mnist", 28, 1, stages=FASHION_MNIST),
    # ACC / NMI / ARI in % on val/, published, not measured here: after scan.py, after selflabel.py.
    "imagenet50": _imagenet(  # 75.1 / 80.5 / 63.5, 76.8 / 82.2 / 66.1
        50, 512, class_folders(50), STORED_VIEWS
    ),
    "imagenet100": _imagenet(  # 66.2 / 78.7 / 54.4, 68.9 / 80.8 / 57.6
        100, 1024, class_folders(100), FEW_CANDIDATES
    ),
    "imagenet200": _imagenet(  # 56.3 / 75.7 / 44.1, 58.1 / 77.2 / 47.0
        200, 1024, class_folders(200), FEW_CANDIDATES
    ),
    "imagenet": _imagenet(1000, 1024, best=NO_CANDIDATES),  # 39.9 / 72.0 / 27.5, after scan.py
}

DEFAULT_PRESET = "digits"
FOLDER_PRESET = "folder"
LARGEST_SIDE_ON_CPU = 64  # px, of a folder's: above it one epoch of a small one takes hours there
SMALL_GREY_PRESET = "small_grey"  # for a folder of such images, unless another one is named
