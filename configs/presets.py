"""What differs from one kind of images to the next, and nothing else."""

from dataclasses import dataclass, field, replace
from typing import Any

from src_py.augmentation import Augmentation


@dataclass(frozen=True)
class Preset:
    """One kind of images.

    Attributes:
        source: where the images come from when no `--data` folder of image files is given.
        image_size: side in px, or None to choose it from the images.
        channels: 1 (grey) or 3.
        mean, std: per channel, of pixels in [0, 1]; None to measure them.
        stages: options of a stage that differ from its config module's, by the script's name, in
            both recipes: views, width, schedule.
        best: further options of the recipe 'best', besides or in the place of BEST.
    """

    source: str
    image_size: int | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stage(self, name: str, recipe: str) -> dict[str, Any]:
        """The options of a stage that differ from its config module's."""
        if name == "moco":  # differs from simclr.py in what only it has
            return self.stage("simclr", recipe)
        common = self.stages.get(name, {})
        if recipe == PAPER_RECIPE:
            return common
        return common | BEST.get(name, {}) | self.best.get(name, {})


PAPER_RECIPE = "paper"
BEST_RECIPE = "best"

# What the recipe 'best' adds to the published algorithm, which is the config modules' defaults.
BEST = {
    "scan": {"head_epochs": 30, "prototypes": True, "mutual": True},
    "selflabel": {"ema_decay": 0.99, "reliable_share": 0.5},
}


# Strokes have no mirror image (2 and 5, 6 and 9 would meet), and no colour: views differ in place,
# size, slant and ink.
STROKES = Augmentation(rotate=15, translate=0.12, zoom=0.15, shear=10, brightness=0.4, cutout=8)
CLUSTER_STROKES = replace(STROKES, brightness=0.0, cutout=0)
MNIST_STROKES = replace(STROKES, cutout=14)  # the same share of 28 px
WEAK_STROKES = Augmentation(rotate=5, translate=0.05, zoom=0.05)

DIGITS = {
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
        "strong_augment": replace(STROKES, cutout=4),
    },
}

GARMENT_VIEW = Augmentation(crop_scale=(0.3, 1.0), flip=0.5, brightness=0.4, contrast=0.4)
GARMENT_STRONG = Augmentation(crop_scale=(0.3, 1.0), flip=0.5, rand_augment_ops=2, cutout=10)

MNIST = {
    "simclr": {"epochs": 50, "temperature": 0.5, "width": 32, "augment": MNIST_STROKES},
    "scan": {"augment": MNIST_STROKES},
    "selflabel": {
        "epochs": 50,
        "weak_augment": WEAK_STROKES,
        "strong_augment": MNIST_STROKES,
    },
}

FASHION_MNIST = {
    "simclr": {"epochs": 100, "temperature": 0.2, "width": 32, "augment": GARMENT_VIEW},
    "scan": {"augment": GARMENT_STRONG},
    "selflabel": {
        "epochs": 100,
        "weak_augment": Augmentation(crop_scale=(0.5, 1.0), flip=0.5),
        "strong_augment": GARMENT_STRONG,
    },
}

# A person's own images: few steps an epoch, many kinds, and often no GPU.
FOLDER = {
    "simclr": {"epochs": 200, "batch_size": 256, "width": 32, "warmup_epochs": 10},
    "selflabel": {"epochs": 100, "batch_size": 256, "threshold": 0.95},
}

STL10 = {
    "scan": {
        "augment": Augmentation(crop_scale=(0.2, 1.0), flip=0.5, rand_augment_ops=4, cutout=32)
    },
    "selflabel": {
        "epochs": 100,
        "strong_augment": Augmentation(
            crop_scale=(0.2, 1.0), flip=0.5, rand_augment_ops=4, cutout=32
        ),
    },
}

LONG_AVERAGE = {"selflabel": {"ema_decay": 0.999}}  # thousands of steps

# cifar10 and cifar20 follow the paper, whose options are the config modules' defaults.
PRESETS = {
    # The published rate is as fast as self-labelling bears without a teacher.
    "digits": Preset(
        "digits",
        image_size=16,
        channels=1,
        stages=DIGITS,
        best={"selflabel": {"learning_rate": 1e-3}},
    ),
    "folder": Preset("folder", stages=FOLDER),
    "cifar10": Preset(
        "cifar10",
        32,
        3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        best=LONG_AVERAGE,
    ),
    "cifar20": Preset(
        "cifar20",
        32,
        3,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        stages={"scan": {"clusters": 20}},
        best=LONG_AVERAGE,
    ),
    "stl10": Preset("stl10", 96, 3, stages=STL10),
    "mnist": Preset("mnist", 28, 1, stages=MNIST),
    "fashion_mnist": Preset("fashion_mnist", 28, 1, stages=FASHION_MNIST),
}

DEFAULT_PRESET = "digits"
FOLDER_PRESET = "folder"
