"""What one random view consists of, as plain data: no torch here, so configs load quickly.

The tensor code that carries it out is `src_py/transforms.py` (`random_view`).
"""

from dataclasses import dataclass

LARGEST_CHANGE = 10.0  # of a factor around 1
MOST_OPERATIONS = 100
LARGEST_RATIO = 100.0  # of width to height


@dataclass(frozen=True)
class Augmentation:
    """The parts of one random view, in the order in which `random_view` applies them.

    Every default is neutral: `Augmentation()` only resizes.

    Raises:
        ValueError: for a value outside the range in which it has a meaning.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)  # area of the crop, fraction of the image's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    flip: float = 0.0  # probability of a horizontal flip
    rotate: float = 0.0  # largest angle, degrees, both ways
    translate: float = 0.0  # largest shift, fraction of the side, both ways and along both axes
    zoom: float = 0.0  # largest change of scale, uniform in 1 - zoom to 1 + zoom
    shear: float = 0.0  # largest horizontal shear angle, degrees, both ways
    brightness: float = 0.0  # largest change of the brightness factor around 1
    contrast: float = 0.0  # largest change of the contrast factor around 1
    saturation: float = 0.0  # largest change of the saturation factor around 1
    hue: float = 0.0  # largest change of hue, turns of the colour circle, 0 to 0.5
    jitter_probability: float = 0.8  # probability of the four colour changes together
    grayscale: float = 0.0  # probability of dropping the colours
    blur: float = 0.0  # probability of a Gaussian blur, sigma uniform in 0.1 to 2 px
    strong_ops: int = 0  # operations of SCAN's strong view in a row, a count
    cutout: float = 0.0  # largest side of an erased square, fraction of the view's side

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("flip", 0, 1),
            ("rotate", 0, 180),
            ("translate", 0, 1),
            ("zoom", 0, 0.99),
            ("shear", 0, 89),
            ("brightness", 0, LARGEST_CHANGE),
            ("contrast", 0, LARGEST_CHANGE),
            ("saturation", 0, LARGEST_CHANGE),
            ("hue", 0, 0.5),
            ("jitter_probability", 0, 1),
            ("grayscale", 0, 1),
            ("blur", 0, 1),
            ("strong_ops", 0, MOST_OPERATIONS),
            ("cutout", 0, 1),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ValueError(f"augmentation {name} is {value}, expected {lowest} to {highest}")
        if not isinstance(self.strong_ops, int):
            raise ValueError(f"augmentation strong_ops is {self.strong_ops}, expected an int")
        for name, highest in (("crop_scale", 1.0), ("crop_ratio", LARGEST_RATIO)):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= highest:
                expected = f"0 < low <= high <= {highest:g}"
                raise ValueError(f"augmentation {name} is {value}, expected {expected}")


# SimCLR's view, and those of SCAN and of its self-labelling, as in the authors' code.
SIMCLR_VIEW = Augmentation(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter_probability=0.8,
    grayscale=0.2,
)
PLAIN_VIEW = Augmentation()
CROPPED_VIEW = Augmentation(crop_scale=(0.4, 1.0), flip=0.5)  # of frozen weights, not the authors'
STRONG_VIEW = Augmentation(flip=0.5, strong_ops=4, cutout=0.5)
