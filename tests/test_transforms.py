"""`src_py/transforms.py`: SimCLR's operations against torchvision's, sample by sample; whole views.

Tolerances are on the scale [0, 1]. SCAN's strong operations, which work on grey levels, are held
against Pillow's in `tests/test_strong_view.py`.
"""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.stats import ks_2samp, kstest

from src_py import transforms as ours
from src_py.run import torchvision_compat  # noqa: F401

# isort: split
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as reference
from torchvision.transforms.functional import InterpolationMode

BATCH = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(side: int = 32, channels: int = 3, batch: int = BATCH, seed: int = 0):
    """(B, C, side, side) uint8: noise, with a smooth, a constant and a two-valued sample."""
    images = torch.randint(0, 256, (batch, channels, side, side), generator=generator(seed))
    if batch > 3:
        ramp = torch.linspace(40, 200, side)
        images[1] = (ramp[:, None] * 0.5 + ramp * 0.5).long()
        images[2] = 77
        images[3] = torch.where(images[3] > 99, 250, 3)
    return images.to(torch.uint8)


def uniform(low: float, high: float, batch: int = BATCH, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, generator=generator(seed)) * (high - low) + low


def assert_close(actual, expected, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def assert_same_distribution(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Kolmogorov-Smirnov distance at most 0.04; 4,000 against 4,000 equal ones exceed it in 0.3 %.

    The seeds are fixed, so the outcome is too.
    """
    assert ks_2samp(actual.numpy(), expected.numpy()).statistic < 0.04


# ------------------------------------------------------------------------------ crop and flip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(16, 16), (32, 32), (96, 32), (32, 96), (96, 96)])
def test_resized_crop_equals_torchvision(side, size, channels):
    images = ours.to_float(random_images(side, channels, batch=24))
    boxes = ours.sample_crop_boxes(24, side, side, (0.05, 1.0), (0.5, 2.0), generator())
    flip = torch.arange(24) % 2 == 1
    actual = ours.resized_crop(images, *boxes, size, flip)
    for index, box in enumerate(zip(*(part.tolist() for part in boxes), strict=True)):
        expected = reference.resized_crop(images[index], *box, [size, size], antialias=True)
        expected = reference.hflip(expected) if flip[index] else expected
        assert_close(actual[index], expected, 1e-5)


def test_resized_crop_of_the_whole_image_is_the_image():
    images = ours.to_float(random_images())
    zero, full = torch.zeros(BATCH), torch.full((BATCH,), 32.0)
    assert_close(ours.resized_crop(images, zero, zero, full, full, 32), images, 0)


def test_resized_crop_takes_fractional_boxes():
    ramp = torch.arange(32.0).expand(2, 1, 32, 32) / 32
    start, length = torch.tensor([4.5, 9.3]), torch.tensor([8.0, 0.01])
    actual = ours.resized_crop(ramp, start, start, length, length, 8)
    # Pixel i of the output lies at start + i + 0.5, where the ramp is (start + i) / 32.
    assert_close(actual[0, 0, 3, 1:-1], (4.5 + torch.arange(1, 7)) / 32, 1e-5)
    assert torch.isfinite(actual).all()


@pytest.mark.parametrize(
    ("scale", "ratio", "height", "width"),
    [
        ((0.2, 1.0), (3 / 4, 4 / 3), 32, 32),
        ((0.08, 1.0), (3 / 4, 4 / 3), 96, 48),
        ((0.9, 1.0), (1 / 3, 3.0), 20, 30),  # often fails ten times: the central box
        ((1.0, 1.0), (2.0, 3.0), 32, 32),  # always fails
        ((1.0, 1.0), (0.4, 0.5), 32, 40),
    ],
)
def test_crop_boxes_are_distributed_as_torchvisions(scale, ratio, height, width):
    count = 4000
    actual = ours.sample_crop_boxes(count, height, width, scale, ratio, generator(3))
    torch.manual_seed(4)
    blank = torch.zeros(1, height, width)
    boxes = [RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(count)]
    expected = torch.tensor(boxes).unbind(1)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.int64
        assert_same_distribution(one, other)
    assert_same_distribution(actual[2] * actual[3], expected[2] * expected[3])
    assert_same_distribution(actual[3] / actual[2], expected[3] / expected[2])
    top, left, box_height, box_width = actual
    assert (top >= 0).all() and (top + box_height <= height).all() and (box_height > 0).all()
    assert (left >= 0).all() and (left + box_width <= width).all() and (box_width > 0).all()


def test_flip_horizontal():
    images = ours.to_float(random_images())
    chosen = torch.arange(BATCH) % 2 == 0
    actual = ours.flip_horizontal(images, chosen)
    assert torch.equal(actual[chosen], images[chosen].flip(3))
    assert torch.equal(actual[~chosen], images[~chosen])


# ------------------------------------------------------------------------------ colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "low", "high", "tolerance"),
    [
        ("brightness", 0.0, 2.0, 1e-5),
        ("contrast", 0.0, 2.0, 1e-5),
        ("saturation", 0.0, 2.0, 1e-5),
        ("hue", -0.5, 0.5, 1e-5),
    ],
)
def test_color_operations_equal_torchvision(name, low, high, tolerance, channels):
    images = ours.to_float(random_images(channels=channels, batch=40))
    factor = uniform(low, high, batch=40)
    factor[:3] = torch.tensor([low, high, (low + high) / 2])
    actual = getattr(ours, f"adjust_{name}")(images, factor)
    operation = getattr(reference, f"adjust_{name}")
    expected = [
        operation(image, value) for image, value in zip(images, factor.tolist(), strict=True)
    ]
    assert_close(actual, torch.stack(expected), tolerance)
    assert actual.min() >= 0 and actual.max() <= 1


def test_hue_on_every_kind_of_color():
    """Ties, zeros and ones of the three channels: all 9 x 9 x 9 colours of a grid, and 9 turns."""
    values = torch.linspace(0, 1, 9)
    colors = torch.cartesian_prod(values, values, values).T.reshape(1, 3, 27, 27)
    for turn in torch.linspace(-0.5, 0.5, 9):
        expected = reference.adjust_hue(colors, turn.item())
        assert_close(ours.adjust_hue(colors, turn[None]), expected, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # bfloat16 resolves 1/256 near 1; hue is steep in its arguments and rounds some ten times.
    [(torch.float64, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.08)],
)
def test_color_operations_keep_the_dtype(dtype, tolerance):
    images = ours.to_float(random_images())
    for name in ("brightness", "contrast", "saturation", "hue"):
        operation = getattr(ours, f"adjust_{name}")
        actual = operation(images.to(dtype), uniform(0.1, 0.5))
        assert actual.dtype == dtype
        assert_close(actual.float(), operation(images, uniform(0.1, 0.5)), tolerance)


@pytest.mark.parametrize("strength", [(0.4, 0.4, 0.4, 0.1), (1.5, 1.2, 0.3, 0.5), (0, 0.8, 0, 0)])
def test_color_jitter_draws_from_the_ranges_of_torchvision(monkeypatch, strength):
    """Also that a part of strength 0 draws nothing."""
    ranges = []

    def record(batch, low, high, generator):
        ranges.append((low, high))
        return torch.ones(batch)

    monkeypatch.setattr(ours, "_uniform", record)
    monkeypatch.setattr(ours, "_host_permutation", lambda length, generator: range(length))
    ours.color_jitter(torch.rand(2, 3, 4, 4), *strength, 1.0, generator())
    theirs = ColorJitter(*strength)
    expected = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
    assert ranges == [limits for limits in expected if limits is not None]


def test_uniform_is_uniform():
    drawn = ours._uniform(4000, 0.4, 1.6, generator())
    assert kstest(drawn.numpy(), "uniform", (0.4, 1.2)).statistic < 0.03


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_color_jitter_in_each_order_equals_torchvision(monkeypatch, order):
    monkeypatch.setattr(ours, "_uniform", lambda batch, low, high, _: torch.full((batch,), high))
    monkeypatch.setattr(ours, "_host_permutation", lambda length, generator: order)
    images = ours.to_float(random_images(8))
    expected = images
    for index in order:
        name = ("brightness", "contrast", "saturation", "hue")[index]
        expected = getattr(reference, f"adjust_{name}")(expected, (1.4, 1.3, 1.2, 0.1)[index])
    actual = ours.color_jitter(images, 0.4, 0.3, 0.2, 0.1, 1.0, generator())
    assert_close(actual, expected, 1e-4)


class CudaGenerator:
    """As much of a CUDA generator as the host sees."""

    device = torch.device("cuda")

    def __init__(self, seed: int, offset: int) -> None:
        self.initial_seed, self.get_offset = lambda: seed, lambda: offset


def test_host_permutation_takes_every_order_equally_often():
    on_cpu = generator()
    of_cpu = Counter(tuple(ours._host_permutation(4, on_cpu)) for _ in range(4800))
    of_cuda = Counter(
        tuple(ours._host_permutation(4, CudaGenerator(5, 4 * step))) for step in range(4800)
    )
    for counts in (of_cpu, of_cuda):
        assert len(counts) == math.factorial(4)
        assert all(abs(count - 200) < 60 for count in counts.values())  # 4 sigma are 55


def test_color_jitter_leaves_the_others_untouched():
    images = ours.to_float(random_images(8, batch=2000))
    jittered = ours.color_jitter(images, 0.4, 0.4, 0.4, 0.1, 0.8, generator())
    untouched = (jittered == images).flatten(1).all(dim=1)
    assert abs(untouched.float().mean() - 0.2) < 0.04  # 4 standard deviations are 0.036


@pytest.mark.parametrize("channels", [1, 3])
def test_to_grayscale_equals_torchvision(channels):
    images = ours.to_float(random_images(channels=channels))
    chosen = torch.arange(BATCH) % 2 == 0
    actual = ours.to_grayscale(images, chosen)
    expected = reference.rgb_to_grayscale(images, num_output_channels=channels)
    assert_close(actual[chosen], expected[chosen], 1e-6)
    assert torch.equal(actual[~chosen], images[~chosen])


# ------------------------------------------------------------------------------ blur


@pytest.mark.parametrize(("side", "kernel_size"), [(16, 3), (32, 5), (96, 9), (6, 11)])
def test_gaussian_blur_equals_torchvision(side, kernel_size):
    images = ours.to_float(random_images(side))
    sigma = uniform(0.1, 2.0)
    actual = ours.gaussian_blur(images, sigma, kernel_size)
    for index in range(BATCH):
        expected = reference.gaussian_blur(images[index], kernel_size, sigma[index].item())
        assert_close(actual[index], expected, 1e-5)


@pytest.mark.parametrize("kernel_size", [4, 33])
def test_gaussian_blur_names_a_bad_kernel_size(kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size is {kernel_size}"):
        ours.gaussian_blur(torch.zeros(1, 1, 16, 16), torch.ones(1), kernel_size)


# ------------------------------------------------------------------------------ geometry


def affine_parameters(batch: int = BATCH) -> dict[str, torch.Tensor]:
    return {
        "angle_degrees": uniform(-180, 180, batch, seed=1),
        "translate_x": uniform(-5, 5, batch, seed=2),
        "translate_y": uniform(-5, 5, batch, seed=3),
        "scale": uniform(0.7, 1.4, batch, seed=4),
        "shear_x": uniform(-30, 30, batch, seed=5),
        "shear_y": uniform(-20, 20, batch, seed=6),
    }


def torchvision_affine(image, parameters, index):
    value = {name: numbers[index].item() for name, numbers in parameters.items()}
    return reference.affine(
        image,
        angle=value["angle_degrees"],
        translate=[value["translate_x"], value["translate_y"]],
        scale=value["scale"],
        shear=[value["shear_x"], value["shear_y"]],
        interpolation=InterpolationMode.BILINEAR,
    )


@pytest.mark.parametrize("side", [16, 33, 96])
def test_affine_equals_torchvision(side):
    """With zeros around the image this holds at the borders too."""
    images, parameters = ours.to_float(random_images(side, batch=20)), affine_parameters(20)
    actual = ours.affine(images, **parameters)
    for index in range(20):
        expected = torchvision_affine(images[index], parameters, index)
        assert_close(actual[index], expected, 1e-4)


def test_affine_on_a_wide_image():
    images, parameters = torch.rand(BATCH, 3, 20, 44, generator=generator()), affine_parameters()
    actual = ours.affine(images, **parameters)
    for index in range(BATCH):
        expected = torchvision_affine(images[index], parameters, index)
        assert_close(actual[index], expected, 1e-4)


def test_affine_shifts_right_and_down():
    images = ours.to_float(random_images())
    zero, one = torch.zeros(BATCH), torch.ones(BATCH)
    shifted = ours.affine(images, zero, 3 * one, 2 * one, one, zero, zero)
    assert torch.equal(shifted[:, :, 2:, 3:], images[:, :, :-2, :-3])
    assert shifted[:, :, :2].abs().max() == 0 and shifted[..., :3].abs().max() == 0


# ------------------------------------------------------------------------------ SCAN's strong view


def test_equalize_of_skewed_histograms():
    """Channels that differ in spread, down to two values and one pixel, at 16, 32 and 96 px."""
    for side in (16, 32, 96):
        images = torch.rand(8, 3, side, side, generator=generator()) ** torch.arange(1, 9).view(
            -1, 1, 1, 1
        )
        quantised = (images * 255).to(torch.uint8)
        quantised[0] = 9
        quantised[0, 0, 0, 0] = 10
        expected = reference.equalize(quantised).float()
        assert torch.equal(ours.equalize(quantised.float()), expected)


def test_soften_leaves_an_image_without_inner_pixels():
    tiny = random_images(2, batch=1).float()
    assert torch.equal(ours.soften(tiny, torch.zeros(1)), tiny)


# ------------------------------------------------------------------------------ cutout


def test_erase_squares_equals_a_loop():
    images = torch.rand(40, 3, 20, 24, generator=generator())
    center_y = torch.randint(20, (40,), generator=generator(1))
    center_x = torch.randint(24, (40,), generator=generator(2))
    half = torch.tensor([0, 1, 2, 8, 50]).repeat(8)  # from nothing to all
    expected = images.clone()
    for index, (y, x, h) in enumerate(torch.stack([center_y, center_x, half], dim=1).tolist()):
        expected[index, :, max(y - h, 0) : y + h, max(x - h, 0) : x + h] = 0
    assert torch.equal(ours.erase_squares(images, center_y, center_x, half), expected)


def test_cutout_centers_are_uniform_and_lengths_too():
    """A length of 2 erases from one pixel above and left of the center up to the center."""
    side = 16
    erased = ours.cutout(torch.ones(8000, 1, side, side), 2, generator())[:, 0] == 0
    rows, columns = erased.any(dim=2), erased.any(dim=1)  # (8000, side)
    chosen = rows.any(dim=1)  # the others drew a length of 1, which erases nothing
    assert abs(chosen.float().mean() - 0.5) < 0.03
    for line in (rows[chosen], columns[chosen]):
        center = side - 1 - line.flip(1).int().argmax(dim=1)
        assert torch.equal(line.sum(dim=1), (center + 1).clamp(max=2))
        assert_same_distribution(center, torch.arange(4000) % side)
    # A square of n px a side, unless cut off, comes of the lengths n and n + 1.
    halves = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "erase_squares", lambda images, y, x, half: halves.append(half))
        ours.cutout(torch.ones(7000, 1, side, side), 7, generator())
    counts = halves[0].bincount()
    assert len(counts) == 4 and (counts - torch.tensor([1000, 2000, 2000, 2000])).abs().max() < 160


# ------------------------------------------------------------------------------ whole views

SIMCLR = ours.Augmentation(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
)
STRONG = ours.Augmentation(flip=0.5, strong_ops=4, cutout=0.5)
EVERYTHING = ours.Augmentation(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    rotate=10,
    translate=0.1,
    zoom=0.1,
    shear=5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    strong_ops=4,
    cutout=0.5,
)


@pytest.mark.parametrize("augmentation", [ours.Augmentation(), SIMCLR, STRONG, EVERYTHING])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "size"),
    [(1, 3, 32, 32, 32), (5, 1, 16, 16, 16), (5, 3, 96, 96, 96), (2, 3, 48, 40, 16)],
)
def test_augment_shape_range_determinism(augmentation, batch, channels, height, width, size):
    images = torch.randint(0, 256, (batch, channels, height, width), generator=generator())
    images = images.to(torch.uint8)
    before = images.clone()
    view = ours.augment(images, augmentation, generator(7), size)
    assert view.shape == (batch, channels, size, size) and view.dtype == torch.float32
    assert torch.isfinite(view).all() and view.min() >= 0 and view.max() <= 1
    assert torch.equal(view, ours.augment(images, augmentation, generator(7), size))
    assert torch.equal(images, before)
    if augmentation != ours.Augmentation():
        assert not torch.equal(view, ours.augment(images, augmentation, generator(8), size))


def test_neutral_augmentation_only_converts_or_resizes():
    images = random_images()
    view = ours.augment(images, ours.Augmentation(), generator(), 32)
    assert torch.equal(view, ours.to_float(images))
    smaller = ours.augment(images, ours.Augmentation(), generator(), 20)
    expected = reference.resize(ours.to_float(images), [20, 20], antialias=True)
    assert_close(smaller, expected, 1e-5)
    state = generator().get_state()
    drawn = generator()
    ours.augment(images, ours.Augmentation(), drawn, 20)
    assert torch.equal(drawn.get_state(), state)  # neutral parts draw nothing


def test_augment_ignores_autocast():
    images = random_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = ours.augment(images, EVERYTHING, generator(), 32)
    assert torch.equal(view, ours.augment(images, EVERYTHING, generator(), 32))


@pytest.mark.parametrize(
    ("augmentation", "share"),
    [
        (ours.Augmentation(flip=0.3), 0.3),
        (ours.Augmentation(grayscale=0.2), 0.2),
        (ours.Augmentation(blur=0.4), 0.4),
        (ours.Augmentation(hue=0.1, jitter_probability=0.6), 0.6),
    ],
)
def test_augment_changes_the_share_of_samples_that_was_asked_for(augmentation, share):
    images = random_images(8, batch=3000)[4:]
    view = ours.augment(images, augmentation, generator(), 8)
    changed = (view != ours.to_float(images)).flatten(1).any(dim=1).float().mean().item()
    assert abs(changed - share) < 0.04  # 4 standard deviations are at most 0.037


@pytest.mark.parametrize("augmentation", [ours.Augmentation(), SIMCLR, STRONG, EVERYTHING])
@pytest.mark.parametrize(("batch", "channels", "size"), [(1, 3, 32), (5, 1, 16), (5, 3, 96)])
def test_random_view_is_augment_normalised_then_cutout(augmentation, batch, channels, size):
    images = random_images(size, channels, batch)
    before = images.clone()
    statistics = ([0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.25][:channels])
    view = ours.random_view(images, augmentation, generator(7), statistics)
    assert view.shape == images.shape and view.dtype == torch.float32
    assert torch.equal(view, ours.random_view(images, augmentation, generator(7), statistics))
    assert torch.equal(images, before)
    drawn = generator(7)
    expected = ours.normalize(ours.augment(images, augmentation, drawn, size), *statistics)
    if augmentation.cutout > 0:
        expected = ours.cutout(expected, size // 2, drawn)
    assert torch.equal(view, expected)
    if augmentation == ours.Augmentation():
        assert torch.equal(drawn.get_state(), generator(7).get_state())
    else:
        other = ours.random_view(images, augmentation, generator(8), statistics)
        assert not torch.equal(view, other)


def per_sample_operations() -> dict:
    """Every deterministic operation with random parameters, as (images, slice) -> images."""
    boxes = ours.sample_crop_boxes(BATCH, 32, 32, (0.2, 1.0), (0.75, 1.33), generator())
    chosen = torch.arange(BATCH) % 2 == 0
    geometry, factor = affine_parameters(), uniform(0, 2)
    turn, sigma = uniform(-0.5, 0.5), uniform(0.1, 2)
    center, half = torch.tensor([3, 9, 13, 5, 10, 0]), torch.tensor([8, 1, 0, 3, 16, 5])
    return {
        "resized_crop": lambda x, s: ours.resized_crop(x, *(b[s] for b in boxes), 24, chosen[s]),
        "flip": lambda x, s: ours.flip_horizontal(x, chosen[s]),
        "brightness": lambda x, s: ours.adjust_brightness(x, factor[s]),
        "contrast": lambda x, s: ours.adjust_contrast(x, factor[s]),
        "saturation": lambda x, s: ours.adjust_saturation(x, factor[s]),
        "hue": lambda x, s: ours.adjust_hue(x, turn[s]),
        "grayscale": lambda x, s: ours.to_grayscale(x, chosen[s]),
        "blur": lambda x, s: ours.gaussian_blur(x, sigma[s], 5),
        "affine": lambda x, s: ours.affine(x, **{name: v[s] for name, v in geometry.items()}),
        "erase": lambda x, s: ours.erase_squares(x, center[s], 2 * center[s], half[s]),
    }


def per_sample_level_operations() -> dict:
    """The same of the strong operations, which take grey levels."""
    names = list(ours.STRONG_OPERATIONS)
    motions = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    motion, mixed = torch.tensor([names.index(name) for name in motions]), torch.arange(0, 14, 3)
    mixed = torch.cat([mixed, mixed[1:2]])  # among them the same operation twice
    low, high = torch.tensor(list(ours.STRONG_OPERATIONS.values())).unbind(dim=1)
    fraction, factor = uniform(0, 1), uniform(0.05, 0.95)
    bits, threshold = uniform(4, 8), uniform(0, 256)

    def strength(operation: torch.Tensor) -> torch.Tensor:
        return low[operation] + fraction * (high - low)[operation]

    return {
        "autocontrast": lambda x, s: ours.autocontrast(x),
        "equalize": lambda x, s: ours.equalize(x),
        "solarize": lambda x, s: ours.solarize(x, threshold[s]),
        "posterize": lambda x, s: ours.posterize(x, bits[s]),
        "fade": lambda x, s: ours.fade(x, factor[s]),
        "lower_contrast": lambda x, s: ours.lower_contrast(x, factor[s]),
        "darken": lambda x, s: ours.darken(x, factor[s]),
        "soften": lambda x, s: ours.soften(x, factor[s]),
        "move": lambda x, s: ours.move(x, motion[s], strength(motion)[s]),
        "strong_operation": lambda x, s: ours.strong_operation(x, mixed[s], strength(mixed)[s]),
    }


def per_sample_case(name: str):
    """The operation of that name, and images for it."""
    on_levels = per_sample_level_operations()
    if name in on_levels:
        return on_levels[name], random_images().float()
    return per_sample_operations()[name], ours.to_float(random_images())


PER_SAMPLE = [*per_sample_operations(), *per_sample_level_operations()]


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_samples_do_not_influence_each_other_and_inputs_stay(name):
    operation, images = per_sample_case(name)
    before = images.clone()
    together = operation(images, slice(None))
    apart = [operation(images[:2], slice(0, 2)), operation(images[2:], slice(2, BATCH))]
    assert_close(together, torch.cat(apart), 1e-6)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(set(PER_SAMPLE) - {"strong_operation"}))
def test_torch_compile_takes_the_operation_whole(name):
    """strong_operation splits by sizes that depend on the data, and stays outside."""
    operation, images = per_sample_case(name)
    explained = torch.compile(operation, backend="eager", fullgraph=True, dynamic=False)
    assert_close(explained(images, slice(None)), operation(images, slice(None)), 1e-6)


def test_normalize_and_to_float():
    images = ours.to_float(random_images())
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    expected = reference.normalize(images, mean, std)
    assert_close(ours.normalize(images, mean, std), expected, 1e-6)
    assert_close(ours.normalize(images, torch.tensor(mean), torch.tensor(std)), expected, 1e-6)
    with pytest.raises(TypeError, match=r"torch\.float32, expected torch\.uint8"):
        ours.to_float(images)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip", 1.5),
        ("flip", float("nan")),
        ("crop_scale", (0.5, 1.2)),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5,)),
        ("crop_ratio", (2.0, 1.0)),
        ("hue", 0.6),
        ("brightness", -0.1),
        ("zoom", 1.0),
        ("strong_ops", 1.5),
        ("strong_ops", 4.0),
        ("strong_ops", -1),
        ("cutout", -1),
        ("cutout", 8),
    ],
)
def test_augmentation_names_a_bad_value(name, value):
    with pytest.raises(ValueError, match=f"augmentation {name} is .*, expected") as error:
        ours.Augmentation(**{name: value})
    assert "\n" not in str(error.value)
