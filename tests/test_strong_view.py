"""SCAN's strong view against Pillow: each operation value by value, the whole by its distribution.

The reference is written from the description of the authors' view (docs/method.md, "The views"),
with Pillow's own operations, and shares no code with `src_py/transforms.py`.
"""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import ks_2samp

from src_py import transforms as ours
from src_py.augmentation import Augmentation

STRENGTHS = 25  # of each operation, spread over its range
AFFINE = Image.Transform.AFFINE


def by_pillow(name: str, image: Image.Image, v: float) -> Image.Image:
    """One operation of the authors' list, of strength v."""
    width, height = image.size
    match name:
        case "identity":
            return image
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "rotate":
            return image.rotate(v)
        case "solarize":
            return ImageOps.solarize(image, v)
        case "posterize":
            return ImageOps.posterize(image, int(v))
        case "color":
            return ImageEnhance.Color(image).enhance(v)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(v)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(v)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(v)
        case "shear_x":
            return image.transform(image.size, AFFINE, (1, v, 0, 0, 1, 0))
        case "shear_y":
            return image.transform(image.size, AFFINE, (1, 0, 0, v, 1, 0))
        case "translate_x":
            return image.transform(image.size, AFFINE, (1, 0, v * width, 0, 1, 0))
        case "translate_y":
            return image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, v * height))
    raise AssertionError(name)


# As published; the table of the code is compared with it, not used in its place.
RANGES = {
    "identity": (0, 1),
    "autocontrast": (0, 1),
    "equalize": (0, 1),
    "rotate": (-30, 30),
    "solarize": (0, 256),
    "posterize": (4, 8),
    "color": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "brightness": (0.05, 0.95),
    "sharpness": (0.05, 0.95),
    "shear_x": (-0.1, 0.1),
    "shear_y": (-0.1, 0.1),
    "translate_x": (-0.1, 0.1),
    "translate_y": (-0.1, 0.1),
}


def pictures(side: int, channels: int) -> np.ndarray:
    """(4, side, side, channels) uint8: noise, a smooth ramp, one level, and few levels."""
    noise = np.random.default_rng(side).integers(0, 256, (side, side, channels))
    ramp = np.add.outer(np.linspace(10, 120, side), np.linspace(0, 90, side))[..., None]
    ramp = ramp * np.linspace(0.6, 1.1, channels)
    few = np.where(noise > 180, 230, np.where(noise > 60, 90, 15))
    return np.stack([noise, ramp, np.full_like(noise, 77), few]).astype(np.uint8)


def to_pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def of_pillow(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def test_the_table_is_the_published_one():
    assert dict(ours.STRONG_OPERATIONS) == RANGES


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 32, 45])
@pytest.mark.parametrize("name", RANGES)
def test_every_operation_equals_pillow(name, side, channels):
    source = pictures(side, channels)
    low, high = RANGES[name]
    # Not the very ends of the range, which a uniform draw does not meet.
    strengths = np.linspace(low, high, STRENGTHS + 2, dtype=np.float32)[1:-1]
    strengths += np.float32(1e-3) * (strengths == 0)  # Pillow copies at 0 degrees
    levels = torch.from_numpy(source).permute(0, 3, 1, 2).float()
    index = list(ours.STRONG_OPERATIONS).index(name)
    for strength in strengths:
        operation = torch.full((len(source),), index)
        actual = ours.strong_operation(levels, operation, torch.full((len(source),), strength))
        for number, picture in enumerate(source):
            expected = of_pillow(by_pillow(name, to_pillow(picture), float(strength)))
            np.testing.assert_array_equal(
                actual[number].permute(1, 2, 0).numpy(), expected, err_msg=f"strength {strength}"
            )


def test_samples_keep_their_order_whatever_their_operations():
    source = np.concatenate([pictures(32, 3)] * 14)
    operation = torch.arange(14).repeat_interleave(4)[torch.randperm(56)]
    names = list(ours.STRONG_OPERATIONS)
    strength = torch.tensor([np.mean(RANGES[names[o]]) + 0.03 for o in operation])
    levels = torch.from_numpy(source).permute(0, 3, 1, 2).float()
    actual = ours.strong_operation(levels, operation, strength)
    for number, picture in enumerate(source):
        name = names[operation[number]]
        expected = of_pillow(by_pillow(name, to_pillow(picture), float(strength[number])))
        np.testing.assert_array_equal(actual[number].permute(1, 2, 0).numpy(), expected)


def test_operations_are_drawn_alike_and_strengths_over_the_whole_range(monkeypatch):
    drawn: list[tuple[int, float]] = []

    def note(levels, operation, strength, sizes):
        drawn.extend(zip(operation.tolist(), strength.tolist(), strict=True))
        return levels

    monkeypatch.setattr(ours, "strong_operation", note)
    generator = torch.Generator().manual_seed(0)
    ours.strong_operations(torch.zeros(14_000, 3, 4, 4), 2, generator)
    counts = Counter(operation for operation, _ in drawn)
    assert set(counts) == set(range(14))
    assert all(abs(count - 2000) < 200 for count in counts.values())
    for index, (low, high) in enumerate(ours.STRONG_OPERATIONS.values()):
        strengths = np.array([strength for operation, strength in drawn if operation == index])
        uniform = np.random.default_rng(0).uniform(low, high, 20_000)
        assert ks_2samp(strengths, uniform).statistic < 0.04
        assert low <= strengths.min() and strengths.max() <= high


# ------------------------------------------------------------------------------ the whole view

MEAN, STD = (0.49, 0.48, 0.45), (0.2, 0.2, 0.2)
COPIES = 400


def photographs(side: int = 32) -> np.ndarray:
    """(8, side, side, 3) uint8: smooth colours with an object each, as different as photographs."""
    images = []
    y, x = np.mgrid[0:side, 0:side] / side
    for number in range(8):
        draw = np.random.default_rng(number)
        tilt = draw.normal(size=(2, 3)) * 60
        base = draw.uniform(50, 200, 3) + x[..., None] * tilt[0] + y[..., None] * tilt[1]
        center, radius = draw.uniform(0.3, 0.7, 2), draw.uniform(0.15, 0.35)
        disc = ((x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2)[..., None]
        base = np.where(disc, draw.uniform(0, 255, 3), base) + draw.normal(size=(side, side, 3)) * 8
        images.append(base.clip(0, 255).astype(np.uint8))
    return np.stack(images)


def reference_view(pixels: np.ndarray, draw: random.Random) -> np.ndarray:
    """Flip, four operations, normalise, cutout: (S, S, 3) float, Pillow and loops only."""
    image = Image.fromarray(pixels)
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name in draw.choices(list(RANGES), k=4):
        image = by_pillow(name, image, draw.uniform(*RANGES[name]))
    view = (np.asarray(image) / 255 - MEAN) / STD
    side = len(view)
    half = draw.randint(1, side // 2) // 2
    row, column = draw.randrange(side), draw.randrange(side)
    view[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
    return view


def looks(views: np.ndarray, source: np.ndarray) -> dict[str, float]:
    """What the issue of a strong view is: how far it still resembles its image.

    Args:
        views: (copies, 8, S, S, 3) normalised.
        source: (8, S, S, 3) uint8.
    """
    pixels = views * np.array(STD) + MEAN
    flat = views.reshape(-1, views[0, 0].size)
    plain = ((source / 255 - MEAN) / STD).reshape(len(source), -1)
    own = np.tile(np.arange(len(source)), len(views))
    distance = ((flat[:, None] - plain[None]) ** 2).sum(axis=2)
    correlation = [np.corrcoef(view, plain[i])[0, 1] for view, i in zip(flat, own, strict=True)]
    return {
        "mean": pixels.mean(),
        "deviation": pixels.std(),
        "black": (pixels < 1 / 510).mean(),
        "mean colour": (np.abs(views) < 1e-6).all(axis=-1).mean(),
        "correlation": float(np.nanmean(correlation)),
        "nearest to its own": (distance.argmin(axis=1) == own).mean(),
    }


def test_the_strong_view_is_distributed_as_by_pillow():
    source = photographs()
    draw = random.Random(0)
    expected = looks(
        np.stack([[reference_view(image, draw) for image in source] for _ in range(COPIES)]), source
    )
    images = torch.from_numpy(source).permute(0, 3, 1, 2).repeat(COPIES, 1, 1, 1)
    strong = Augmentation(flip=0.5, strong_ops=4, cutout=0.5)
    views = ours.random_view(images, strong, torch.Generator().manual_seed(0), (MEAN, STD))
    views = views.permute(0, 2, 3, 1).unflatten(0, (COPIES, len(source))).numpy()
    actual = looks(views, source)
    # Three standard errors of the difference between two samples of 3,200 views each, at most.
    for name, tolerance in {
        "mean": 0.015,
        "deviation": 0.015,
        "black": 0.015,
        "mean colour": 0.008,
        "correlation": 0.04,
        "nearest to its own": 0.04,
    }.items():
        assert actual[name] == pytest.approx(expected[name], abs=tolerance), (actual, expected)


@pytest.mark.parametrize("side", [16, 32, 96, 224])
def test_cutout_erases_the_same_share_whatever_the_side(side):
    """A length uniform in 1 to half of the side; the square's side is twice its half, rounded down.

    The mean area is known: E[(2 (L // 2))^2] without clipping, less what lies outside.
    """
    count = 1000 if side < 100 else 400
    images = torch.full((count, 1, side, side), 128, dtype=torch.uint8)
    plain, erasing = Augmentation(), Augmentation(cutout=0.5)
    statistics = ((0.2,), (0.5,))
    generator = torch.Generator().manual_seed(0)
    before = ours.random_view(images, plain, generator, statistics)
    after = ours.random_view(images, erasing, generator, statistics)
    assert (before == before[0, 0, 0, 0]).all() and before[0, 0, 0, 0] != 0
    is_erased = after == 0
    assert (is_erased | (after == before)).all()
    erased = is_erased.float().mean().item()
    total = 0.0
    for length in range(1, side // 2 + 1):
        half = length // 2
        inside = [min(c + half, side) - max(c - half, 0) for c in range(side)]
        total += (sum(inside) / side) ** 2
    expected = total / (side // 2) / side**2
    assert erased == pytest.approx(expected, abs=0.004 if side < 100 else 0.008)


def test_the_largest_square_has_half_of_the_side():
    images = torch.full((4000, 1, 32, 32), 255, dtype=torch.uint8)
    views = ours.random_view(
        images, Augmentation(cutout=0.5), torch.Generator().manual_seed(0), ((0.0,), (1.0,))
    )
    erased = (views == 0).sum(dim=(1, 2, 3))
    assert erased.max() == 16 * 16
    assert 0 < (erased == 0).float().mean() < 0.1  # a length of 1 erases nothing
