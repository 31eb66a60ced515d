"""Random views of image batches, as batched tensor functions.

    generator = torch.Generator(device=images.device).manual_seed(0)
    view = random_view(images_uint8, Augmentation(flip=0.5, strong_ops=4), generator, (mean, std))

Images are (B, C, H, W), floating point in [0, 1], C = 1 or 3. Each augmentation is a deterministic
operation with one parameter per sample, (B,), and a sampler of those parameters; it returns images
of the shape that it was given, unless it says otherwise. There is no loop over samples; every
random number comes from the `generator` given, which must live on the images' device.

The operations of SimCLR's views follow torchvision, v0.28 (signs, factors, distributions; held
against it in `tests/test_transforms.py`), those of SCAN's strong view follow Pillow, as the
authors' code does (`tests/test_strong_view.py`). Neither is imported: torchvision's compiled part
often does not match the installed torch.
"""

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from src_py.augmentation import Augmentation

# Mean and standard deviation of the pixels, per channel.
Statistics = tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]

# ------------------------------------------------------------------------------ parameters


def _per_sample(values: Tensor, images: Tensor) -> Tensor:
    """(B,) numbers in the images' dtype, shaped (B, 1, 1, 1) to broadcast over them."""
    return values.to(images.dtype).view(-1, 1, 1, 1)


def _constants(
    values: Sequence[float] | Sequence[tuple[float, float]] | Tensor, like: Tensor
) -> Tensor:
    """Numbers as a tensor of the dtype and on the device of `like`, without waiting for it."""
    return torch.as_tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


class PartOfBatch(Protocol):
    """A generator for some images of a batch: each gets the numbers it would get in the whole one;
    see run/distributed.py.

    Attributes:
        rows: (b,) int64, their places in the batch, on the generator's device.
        total: size of the whole batch.
    """

    @property
    def generator(self) -> torch.Generator: ...

    @property
    def rows(self) -> Tensor: ...

    @property
    def total(self) -> int: ...


Numbers = torch.Generator | PartOfBatch


def _rand(shape: tuple[int, ...], generator: Numbers, batch_dim: int = 0) -> Tensor:
    """float32, uniform in [0, 1), on the generator's device.

    Args:
        batch_dim: which axis of the shape counts the images.
    """
    if isinstance(generator, torch.Generator):
        return torch.rand(shape, generator=generator, device=generator.device)
    whole = (*shape[:batch_dim], generator.total, *shape[batch_dim + 1 :])
    return _rand(whole, generator.generator).index_select(batch_dim, generator.rows)


def _uniform(batch: int, low: float, high: float, generator: Numbers) -> Tensor:
    """(B,) float32, uniform in [low, high)."""
    return _rand((batch,), generator) * (high - low) + low


def _bernoulli(batch: int, probability: float, generator: Numbers) -> Tensor:
    """(B,) bool, true with `probability`; exactly never at 0 and always at 1."""
    return _rand((batch,), generator) < probability


def _integers(batch: int, low: int, high: int, generator: Numbers) -> Tensor:
    """(B,) int64, uniform from low up to, without, high."""
    if isinstance(generator, torch.Generator):
        return torch.randint(low, high, (batch,), generator=generator, device=generator.device)
    return _integers(generator.total, low, high, generator.generator)[generator.rows]


def _host_generator(generator: torch.Generator) -> torch.Generator:
    """A generator on the CPU for what the host must know, without waiting for a CUDA device.

    Copying a CUDA draw to the host would wait for all kernels queued so far. The generator's seed
    and offset are kept on the host and move on with every draw, so they seed the copy.
    """
    if generator.device.type == "cpu":
        return generator
    if generator.device.type == "cuda":
        key = (generator.initial_seed(), generator.get_offset())
        return torch.Generator().manual_seed(hash(key) % 2**63)
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def _host_permutation(length: int, generator: Numbers) -> list[int]:
    """A random order as Python integers, the same for all images of a batch."""
    whole = cast(torch.Generator, getattr(generator, "generator", generator))
    return torch.randperm(length, generator=_host_generator(whole)).tolist()


def _host_choices(options: int, rounds: tuple[int, int], generator: Numbers) -> Tensor:
    """(rounds, B) int64 on the CPU, uniform in 0 up to, without, `options`."""
    if isinstance(generator, torch.Generator):
        return torch.randint(options, rounds, generator=_host_generator(generator))
    whole = _host_choices(options, (rounds[0], generator.total), generator.generator)
    return whole[:, generator.rows.cpu()]


# ------------------------------------------------------------------------------ crop and flip


def _interpolation_matrix(
    start: Tensor, length: Tensor, size_in: int, size_out: int, flip: Tensor | None = None
) -> Tensor:
    """Weights that resample the span [start, start + length) of a line to `size_out` pixels.

    The antialiased bilinear filter of `F.interpolate(..., antialias=True)`: a triangle whose half
    width is one pixel of the coarser of the two lines, cut at the ends of the span.

    Args:
        start, length: (B,) floating point, px.
        flip: (B,) bool, reverses the order of the output.

    Returns:
        (B, size_out, size_in), rows sum to 1.
    """
    position = torch.arange(size_out, dtype=start.dtype, device=start.device) + 0.5
    if flip is not None:
        position = torch.where(flip[:, None], size_out - position, position)  # (B, size_out)
    step = (length / size_out)[:, None]  # (B, 1)
    pixel = torch.arange(size_in, dtype=start.dtype, device=start.device) + 0.5 - start[:, None]
    distance = (pixel[:, None, :] - (position * step)[:, :, None]).abs_()  # (B, out, in)
    weights = (1 - distance / step.clamp(min=1)[:, :, None]).clamp_(min=0)
    # Any pixel that the span touches takes part, so that a fractional span is never empty.
    touched = (pixel > -0.5) & (pixel < length[:, None] + 0.5)
    weights *= touched[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one linear map per sample to the rows and one to the columns of each channel.

    Args:
        rows: (B, h, H).
        columns: (B, w, W).

    Returns:
        (B, C, h, w).
    """
    batch, channels, height, width = images.shape
    # The channels share a matrix: the width product takes them as one tall (C * H, W) image.
    tall = images.reshape(batch, channels * height, width) @ columns.to(images.dtype).mT
    return rows.to(images.dtype)[:, None] @ tall.view(batch, channels, height, columns.shape[1])


def resized_crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    size: int,
    flip: Tensor | None = None,
) -> Tensor:
    """Cut one box out of each image and resize it, as two batched matrix products.

    Equals torchvision's `F.resized_crop(..., antialias=True)` (bilinear) on each sample.

    Args:
        images: (B, C, H, W) floating point.
        top, left, height, width: (B,) integer or floating point, px; the box lies in the image.
        size: side of the square output, px.
        flip: (B,) bool, samples to mirror horizontally, at no cost.

    Returns:
        (B, C, size, size).
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    top, left, height, width = (box.to(dtype) for box in (top, left, height, width))
    rows = _interpolation_matrix(top, height, images.shape[2], size)
    columns = _interpolation_matrix(left, width, images.shape[3], size, flip)
    return _resample(images, rows, columns)


def sample_crop_boxes(
    batch: int,
    image_height: int,
    image_width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Numbers,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes distributed like torchvision's `RandomResizedCrop.get_params`.

    Area uniform in `scale`, ratio log-uniform in `ratio`; the first of ten attempts that fits
    into the image counts, and if none does, the largest central box with an allowed ratio.

    Returns:
        top, left, height, width, each (B,) int64, px, on the generator's device.
    """
    attempts = (batch, 10)
    area = _rand(attempts, generator)
    area = (scale[0] + (scale[1] - scale[0]) * area) * (image_height * image_width)
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    aspect = _rand(attempts, generator)
    aspect = torch.exp(log_low + (log_high - log_low) * aspect)
    width = (area * aspect).sqrt().round()  # (B, 10)
    height = (area / aspect).sqrt().round()
    fits = (width > 0) & (width <= image_width) & (height > 0) & (height <= image_height)

    first = fits.int().argmax(dim=1, keepdim=True)  # the first true; 0 if none is
    found = fits.any(dim=1)
    fallback_height, fallback_width = _central_box(image_height, image_width, ratio)
    height = torch.where(found, height.gather(1, first)[:, 0], fallback_height)  # (B,)
    width = torch.where(found, width.gather(1, first)[:, 0], fallback_width)

    place = _rand((2, batch), generator, batch_dim=1)
    room = torch.stack([image_height - height, image_width - width])  # (2, B)
    # rand * (room + 1) can round up to room + 1, which is one pixel outside.
    corner = torch.where(found, (place * (room + 1)).floor().minimum(room), (room / 2).floor())
    return corner[0].long(), corner[1].long(), height.long(), width.long()


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box in an image whose width / height lies in `ratio`."""
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def flip_horizontal(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen samples (bool), left to right."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


# ------------------------------------------------------------------------------ colour


def _luma(images: Tensor) -> Tensor:
    """Grey value with torchvision's weights, (B, 1, H, W); a grey image is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, clamped to [0, 1]."""
    factor = _per_sample(factor, images)
    # Two products, not torch.lerp: with two broadcast inputs its CPU kernel is not vectorised.
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; a factor of 1 leaves an image as it is."""
    return (images * _per_sample(factor, images)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean grey; a factor of 1 is neutral."""
    # The mean of the grey image is the grey value of the mean colour: no grey image is needed.
    mean = _luma(images.mean(dim=(2, 3), keepdim=True))  # (B, 1, 1, 1)
    return _blend(images, mean, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image; a factor of 1 is neutral."""
    if images.shape[1] == 1:
        return images
    return _blend(images, _luma(images), factor)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue in HSV space, as torchvision's `F.adjust_hue`.

    HSV to RGB needs no six-way case: with hue h in [0, 6) and chroma = max - min,
        red   = min + chroma * clip(|h - 3| - 1)
        green = max - chroma * clip(|h - 2| - 1)
        blue  = max - chroma * clip(|h - 4| - 1),  clip to [0, 1].

    Args:
        factor: (B,), turns of the colour circle, -0.5 to 0.5.

    Returns:
        Equal to torchvision's to 1e-5; grey images come back as they are.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)  # (B, H, W) each
    highest = torch.maximum(red, green).maximum(blue)
    lowest = torch.minimum(red, green).minimum(blue)
    chroma = highest - lowest

    # Hue needs no cases either. In sixths of a turn from red, towards green positive, it is
    #     +-(1 + (green + blue - red - min) / chroma), with the sign of green - blue;
    # the textbook's three cases by largest channel agree. torch.where on such conditions takes
    # 2.2 ms where a product takes 0.08 (512 images of 32 px, one AVX512 core, torch 2.13). Where
    # chroma is 0 the hue has no effect, so any value will do.
    hue = (green + blue).sub_(red).sub_(lowest)
    hue = hue.div_(chroma.clamp(min=torch.finfo(images.dtype).eps)).add_(1)
    hue = hue.copysign_(green - blue).div_(6).add_(1 + factor.to(images.dtype).view(-1, 1, 1))
    hue = hue.frac_().mul_(6)  # [0, 6); the 1 added above keeps frac's argument positive

    def weight(center: int) -> Tensor:
        return (hue - center).abs_().sub_(1).clamp_(0, 1)

    planes = (
        torch.addcmul(lowest, chroma, weight(3)),
        torch.addcmul(highest, chroma, weight(2), value=-1),
        torch.addcmul(highest, chroma, weight(4), value=-1),
    )
    return torch.stack(planes, dim=1).clamp_(0, 1)


def color_jitter(
    images: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    probability: float,
    generator: Numbers,
) -> Tensor:
    """Random brightness, contrast, saturation and hue, like torchvision's `ColorJitter`.

    Factors are drawn per sample, uniform in [max(0, 1 - x), 1 + x] and [-hue, hue]; the order of
    the four is drawn once per call; samples not chosen (with `probability`) stay bit for bit.
    """
    batch = len(images)
    operations = (
        (adjust_brightness, brightness, max(0.0, 1 - brightness), 1 + brightness),
        (adjust_contrast, contrast, max(0.0, 1 - contrast), 1 + contrast),
        (adjust_saturation, saturation, max(0.0, 1 - saturation), 1 + saturation),
        (adjust_hue, hue, -hue, hue),
    )
    chosen = _bernoulli(batch, probability, generator)
    jittered = images
    for index in _host_permutation(len(operations), generator):
        operation, strength, low, high = operations[index]
        if strength > 0:
            jittered = operation(jittered, _uniform(batch, low, high, generator))
    return torch.where(chosen.view(-1, 1, 1, 1), jittered, images)


def to_grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """Drop the colours of the chosen samples (bool)."""
    return torch.where(chosen.view(-1, 1, 1, 1), _luma(images), images)


# ------------------------------------------------------------------------------ blur


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur, reflecting at the borders, as torchvision's `F.gaussian_blur`.

    Args:
        sigma: (B,) > 0, px.
        kernel_size: odd, px, at most 2 * side - 1.
    """
    radius = kernel_size // 2
    if kernel_size % 2 == 0 or radius >= min(images.shape[2:]):
        raise ValueError(
            f"kernel_size is {kernel_size}, expected an odd number below twice the image's side"
        )
    dtype = torch.promote_types(images.dtype, torch.float32)
    offset = torch.arange(-radius, radius + 1, dtype=dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma.to(dtype)[:, None]) ** 2)  # (B, K)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)

    def blur_matrix(side: int) -> Tensor:  # (B, side, side)
        pixel = torch.arange(side, device=images.device)
        source = (pixel[:, None] + torch.arange(-radius, radius + 1, device=images.device)).abs()
        source = (side - 1) - (side - 1 - source).abs()  # (side, K), reflected at both ends
        taps = F.one_hot(source, side).to(dtype).transpose(0, 1)  # (K, side, side)
        return (kernel @ taps.reshape(kernel_size, -1)).view(-1, side, side)

    return _resample(images, blur_matrix(images.shape[2]), blur_matrix(images.shape[3]))


# ------------------------------------------------------------------------------ geometry


def affine(
    images: Tensor,
    angle_degrees: Tensor,
    translate_x: Tensor,
    translate_y: Tensor,
    scale: Tensor,
    shear_x: Tensor,
    shear_y: Tensor,
) -> Tensor:
    """Rotate, scale, shear (about the image's center), then shift, as torchvision's `F.affine`.

    Bilinear; equals it to 1e-4 where the source lies inside the image. Outside all is black, and
    along the border that is mixed in by the covered fraction of a pixel.

    Args:
        angle_degrees, shear_x, shear_y: (B,), degrees, clockwise.
        translate_x, translate_y: (B,), px, right and down.
        scale: (B,) > 0.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    height, width = images.shape[2:]
    angle, shear_x, shear_y = (
        torch.deg2rad(degrees.to(dtype)) for degrees in (angle_degrees, shear_x, shear_y)
    )
    # Forward map of directions without scale, [[a, b], [c, d]] = rotation * shear y * shear x; its
    # determinant is 1, so the way back from output to source is [[d, -b], [-c, a]] / scale.
    a = torch.cos(angle - shear_y) / torch.cos(shear_y)
    b = -a * torch.tan(shear_x) - torch.sin(angle)
    c = torch.sin(angle - shear_y) / torch.cos(shear_y)
    d = -c * torch.tan(shear_x) + torch.cos(angle)
    a, b, c, d = ((term / scale.to(dtype)).view(-1, 1, 1) for term in (a, b, c, d))

    # Pixel centers relative to the image's center. Broadcast sums, not a matrix product: TF32
    # would blur the coordinates by some hundredths of a pixel.
    x = torch.arange(width, dtype=dtype, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=dtype, device=images.device) - (height - 1) / 2
    x = x - translate_x.to(dtype).view(-1, 1, 1)  # (B, 1, W)
    y = y.view(-1, 1) - translate_y.to(dtype).view(-1, 1, 1)  # (B, H, 1)
    grid = torch.stack([(d * x - b * y) * (2 / width), (a * y - c * x) * (2 / height)], dim=3)

    moved = F.grid_sample(
        images.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.to(images.dtype)


# ------------------------------------------------------------------------------ SCAN's strong view

# The operations of the strong view with the ranges that their strength is uniform in, as in the
# authors' code (data/augment.py, commit 952ec31), where Pillow carries them out. They have nothing
# but names in common with those of torchvision's RandAugment, whose ranges are three to four times
# as wide. Here they work on grey levels: whole numbers 0 to 255 in floating point, equal to
# Pillow's result value by value (tests/test_strong_view.py).
STRONG_OPERATIONS = {
    "identity": (0.0, 1.0),
    "rotate": (-30.0, 30.0),  # degrees, counter-clockwise
    "shear_x": (-0.1, 0.1),  # px to the left for each px down, about the top left corner
    "shear_y": (-0.1, 0.1),  # px up for each px to the right
    "translate_x": (-0.1, 0.1),  # to the left, fraction of the width
    "translate_y": (-0.1, 0.1),  # up, fraction of the height
    "autocontrast": (0.0, 1.0),  # it, equalize and identity have no strength
    "equalize": (0.0, 1.0),
    "solarize": (0.0, 256.0),  # grey level from which on pixels are inverted
    "posterize": (4.0, 8.0),  # bits that are kept, rounded down: 4 to 7
    "color": (0.05, 0.95),  # factors of Pillow's enhancements: 1 is the image itself, so that
    "contrast": (0.05, 0.95),  # colours only fade, contrast and brightness only fall, and
    "brightness": (0.05, 0.95),  # images only blur
    "sharpness": (0.05, 0.95),
}
_OPERATION = {name: index for index, name in enumerate(STRONG_OPERATIONS)}
_LAST_GEOMETRIC = _OPERATION["translate_y"]


def _levels_of(images: Tensor) -> Tensor:
    """Images in [0, 1] as grey levels."""
    return (images * 255).round_()


def _gray_levels(levels: Tensor) -> Tensor:
    """Pillow's conversion to "L", (B, 1, H, W); a grey image is its own. Exact in float32."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536).floor_()


def _blend_levels(degenerate: Tensor, levels: Tensor, factor: Tensor) -> Tensor:
    """Pillow's `Image.blend`: from `degenerate` towards `levels` by a factor (B,) in [0, 1]."""
    return ((levels - degenerate) * _per_sample(factor, levels)).add_(degenerate).floor_()


def _exact(device: torch.device) -> torch.dtype:
    """float64, as Python computes; MPS has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def autocontrast(levels: Tensor) -> Tensor:
    """Stretch each channel to the full range; a constant channel stays."""
    lowest = levels.amin(dim=(2, 3), keepdim=True).to(_exact(levels.device))
    spread = levels.amax(dim=(2, 3), keepdim=True) - lowest  # (B, C, 1, 1)
    # Rounded as in Pillow's table, whose entries are cut off: not (level - lowest) * scale, and not
    # 255 / spread, which torch computes by a reciprocal.
    scale = torch.full_like(spread, 255) / spread.clamp(min=1)
    stretched = (levels * scale - lowest * scale).clamp_(0, 255).trunc_().to(levels.dtype)
    return torch.where(spread > 0, stretched, levels)


def equalize(levels: Tensor) -> Tensor:
    """Flatten each channel's histogram, by Pillow's integer rule.

    A channel with too few distinct pixels to rank (step 0) stays as it is.
    """
    pixels = levels.long().flatten(2)  # (B, C, H * W)
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=levels.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    # The highest level present does not count: it maps to 255 whatever its share.
    at_highest = counts.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - at_highest) // 255  # (B, C, 1)
    below = counts.cumsum(dim=2) - counts  # pixels darker than each level
    table = (below + step // 2) // step.clamp(min=1)
    equalized = table.clamp_(0, 255).gather(2, pixels).view_as(levels).to(levels.dtype)
    return torch.where((step > 0)[..., None], equalized, levels)


def solarize(levels: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels at or above a grey level."""
    return torch.where(levels >= _per_sample(threshold, levels), 255 - levels, levels)


def posterize(levels: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each grey level; their number is rounded down."""
    step = torch.exp2(8 - _per_sample(bits, levels).floor())
    return (levels / step).floor_() * step


def fade(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blend_levels(_gray_levels(levels), levels, factor)


def lower_contrast(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image's mean, a whole level."""
    gray = _gray_levels(levels).to(_exact(levels.device))
    mean = gray.mean(dim=(1, 2, 3), keepdim=True).add_(0.5).floor_().to(levels.dtype)
    return _blend_levels(mean, levels, factor)


def darken(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return (levels * _per_sample(factor, levels)).floor_()


def soften(levels: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image, which a factor of 0 gives.

    The smoothing kernel is 3 x 3, 5 in the middle and 1 around, over 13; the outermost pixels stay.
    """
    inner = levels[:, :, 1:-1, 1:-1]
    # The box sum as sums of shifted images: 6 to 10 ms, with F.avg_pool2d 19 (as in adjust_hue).
    rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = ((box + inner * 4) / 13).round_()
    softened = levels.clone()
    softened[:, :, 1:-1, 1:-1] = _blend_levels(smooth, inner, factor)
    return softened


def move(levels: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Each sample's own of rotate, shear_x, shear_y, translate_x and translate_y.

    The nearest pixel, as Pillow's `Image.transform` finds it in 16.16 fixed point; black outside.

    Args:
        operation: (B,) int64, index into STRONG_OPERATIONS.
        strength: (B,), in the units of STRONG_OPERATIONS.
    """
    height, width = levels.shape[2:]
    strength = strength.to(_exact(levels.device))

    def strength_of(name: str) -> Tensor:
        return torch.where(operation == _OPERATION[name], strength, 0)

    # Source of the output's point (x, y): (a x + b y + c, d x + e y + f).
    angle = -torch.deg2rad(strength_of("rotate"))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    a, b, d, e = cosine, sine + strength_of("shear_x"), strength_of("shear_y") - sine, cosine
    center_x, center_y = width / 2, height / 2
    c = center_x - cosine * center_x - sine * center_y + strength_of("translate_x") * width
    f = center_y - cosine * center_y + sine * center_x + strength_of("translate_y") * height

    def fixed(number: Tensor) -> Tensor:
        return (number * 65536 + 0.5).floor_().long().view(-1, 1, 1)

    x = torch.arange(width, device=levels.device)
    y = torch.arange(height, device=levels.device)[:, None]
    source_x = (fixed(a) * x + fixed(b) * y + fixed(c + (a + b) / 2)) >> 16  # (B, H, W)
    source_y = (fixed(d) * x + fixed(e) * y + fixed(f + (d + e) / 2)) >> 16
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    pixel = source_y.clamp_(0, height - 1) * width + source_x.clamp_(0, width - 1)
    pixel = pixel.flatten(1)[:, None].expand(-1, levels.shape[1], -1)  # (B, C, H * W)
    moved = levels.flatten(2).gather(2, pixel).view_as(levels)
    return moved.masked_fill_(~inside[:, None], 0)


# The groups that a batch is sorted into: nothing for identity, one call to `move` for the geometric
# operations, and one function each, (levels, strength) -> levels, for the others, in their order.
_SINGLE_OPERATIONS = (
    lambda levels, strength: autocontrast(levels),
    lambda levels, strength: equalize(levels),
    solarize,
    posterize,
    fade,
    lower_contrast,
    darken,
    soften,
)
_GROUPS = 2 + len(_SINGLE_OPERATIONS)


def _operation_groups(operation: Tensor) -> Tensor:
    """Group of each operation: 0 identity, 1 the geometric ones, 2 onwards the single ones."""
    group = (operation - _LAST_GEOMETRIC + 1).clamp(min=1)
    return torch.where(operation == _OPERATION["identity"], 0, group)


def _group_sizes(operation: Tensor) -> list[list[int]]:
    """How many samples of each round, (rounds, B) int64, fall into each group.

    The split sizes must be Python integers: where `operation` is not on the CPU, this waits.
    """
    return F.one_hot(_operation_groups(operation), _GROUPS).sum(dim=1).tolist()


def strong_operation(
    levels: Tensor, operation: Tensor, strength: Tensor, group_sizes: list[int] | None = None
) -> Tensor:
    """Apply to each sample its own operation: sort the batch by operation, apply, sort back.

    Args:
        operation: (B,) int64, index into STRONG_OPERATIONS.
        strength: (B,), in the units of STRONG_OPERATIONS.
        group_sizes: as from `_group_sizes`, if known already.
    """
    if group_sizes is None:
        (group_sizes,) = _group_sizes(operation[None])
    order = _operation_groups(operation).argsort(stable=True)
    pieces = list(levels[order].split(group_sizes))
    strengths = strength[order].split(group_sizes)
    if group_sizes[1]:
        pieces[1] = move(pieces[1], operation[order].split(group_sizes)[1], strengths[1])
    for group, single_operation in enumerate(_SINGLE_OPERATIONS, start=2):
        if group_sizes[group]:
            pieces[group] = single_operation(pieces[group], strengths[group])
    return torch.cat(pieces)[order.argsort()]


def strong_operations(images: Tensor, count: int, generator: Numbers) -> Tensor:
    """Operations in a row, each sample's own, with replacement, and each with its own strength.

    Args:
        count: 4 in the paper.
    """
    rounds = (count, len(images))
    # Which operation a sample gets decides how the batch is split, which the host must know.
    operation = _host_choices(len(STRONG_OPERATIONS), rounds, generator)
    sizes_of_groups = _group_sizes(operation)
    operation = operation.to(images.device, non_blocking=True)
    fraction = _rand(rounds, generator, batch_dim=1)
    low, high = _constants(list(STRONG_OPERATIONS.values()), fraction).unbind(dim=1)
    strength = low[operation] + fraction * (high - low)[operation]
    levels = _levels_of(images)
    for index, sizes in enumerate(sizes_of_groups):
        levels = strong_operation(levels, operation[index], strength[index], sizes)
    return levels / 255


# ------------------------------------------------------------------------------ cutout


def erase_squares(images: Tensor, center_y: Tensor, center_x: Tensor, half: Tensor) -> Tensor:
    """Set one square per sample to 0, clipped at the borders.

    Args:
        center_y, center_x, half: (B,) integer, px; the square covers center - half up to,
            without, center + half.
    """
    row = torch.arange(images.shape[2], device=images.device) - center_y[:, None]  # (B, H)
    column = torch.arange(images.shape[3], device=images.device) - center_x[:, None]  # (B, W)
    in_rows = (row >= -half[:, None]) & (row < half[:, None])
    in_columns = (column >= -half[:, None]) & (column < half[:, None])
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (B, 1, H, W)
    return images.masked_fill(inside, 0)


def cutout(images: Tensor, largest: int, generator: Numbers) -> Tensor:
    """Cutout (DeVries & Taylor 2017, arXiv:1708.04552) with a square of random size.

    As SCAN's authors do it: a length uniform in 1 to `largest`, of which the square's sides have
    twice the half, rounded down (a length of 1 erases nothing), centered anywhere in the image.

    Args:
        largest: px.
    """
    batch, _, height, width = images.shape

    half = _integers(batch, 1, largest + 1, generator) // 2
    center_y, center_x = (_integers(batch, 0, side, generator) for side in (height, width))
    return erase_squares(images, center_y, center_x, half)


# ------------------------------------------------------------------------------ whole views


def to_float(images_uint8: Tensor) -> Tensor:
    """(B, C, H, W) uint8 to float32 in [0, 1]."""
    if images_uint8.dtype != torch.uint8:
        raise TypeError(f"images are {images_uint8.dtype}, expected torch.uint8")
    return images_uint8.to(torch.float32).div_(255)


def normalize(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel.

    Args:
        mean, std: C numbers or (C,).
    """
    mean, std = (_constants(value, images).view(-1, 1, 1) for value in (mean, std))
    return (images - mean).div_(std)


def _random_crop_and_flip(
    images: Tensor, augmentation: Augmentation, generator: Numbers, size: int
) -> Tensor:
    """The crop resized to (size, size), mirrored with the flip's probability."""
    batch, _, height, width = images.shape
    flip = _bernoulli(batch, augmentation.flip, generator) if augmentation.flip > 0 else None
    if augmentation.crop_scale != (1.0, 1.0):
        box = sample_crop_boxes(
            batch, height, width, augmentation.crop_scale, augmentation.crop_ratio, generator
        )
        return resized_crop(images, *box, size, flip)
    if (height, width) == (size, size):
        return images if flip is None else flip_horizontal(images, flip)
    zero = torch.zeros(batch, device=images.device)
    return resized_crop(images, zero, zero, zero + height, zero + width, size, flip)


def _random_affine(images: Tensor, augmentation: Augmentation, generator: Numbers) -> Tensor:
    """Rotation, shift, zoom and horizontal shear about the center, drawn per sample."""
    batch, _, height, width = images.shape

    def both_ways(largest: float) -> Tensor:
        return _uniform(batch, -largest, largest, generator)

    return affine(
        images,
        angle_degrees=both_ways(augmentation.rotate),
        translate_x=both_ways(augmentation.translate * width),
        translate_y=both_ways(augmentation.translate * height),
        scale=1 + both_ways(augmentation.zoom),
        shear_x=both_ways(augmentation.shear),
        shear_y=torch.zeros(batch, device=images.device),
    )


def _random_blur(images: Tensor, probability: float, generator: Numbers) -> Tensor:
    """Blur with sigma uniform in 0.1 to 2 px; kernel about a tenth of the side, odd, at least 3."""
    batch, _, height, width = images.shape
    kernel_size = max(3, 2 * (min(height, width) // 20) + 1)
    chosen = _bernoulli(batch, probability, generator)
    blurred = gaussian_blur(images, _uniform(batch, 0.1, 2.0, generator), kernel_size)
    return torch.where(chosen.view(-1, 1, 1, 1), blurred, images)


@torch.no_grad()
def augment(
    images_uint8: Tensor, augmentation: Augmentation, generator: Numbers, size: int
) -> Tensor:
    """A random view of each image up to the normalisation; `random_view` is the whole.

    Order: crop and flip, affine, colour jitter, grayscale, blur, SCAN's strong operations. A part
    with neutral values costs nothing and draws nothing.

    Args:
        images_uint8: (B, C, H, W) uint8.
        generator: on the images' device.
        size: side of the view, px.

    Returns:
        (B, C, size, size) float32 in [0, 1].
    """
    a = augmentation
    colors = (a.brightness, a.contrast, a.saturation, a.hue)
    # Under autocast the matrix products of crop and blur would round the images to half precision.
    with torch.autocast(images_uint8.device.type, enabled=False):
        images = to_float(images_uint8)
        images = _random_crop_and_flip(images, a, generator, size)
        if max(a.rotate, a.translate, a.zoom, a.shear) > 0:
            images = _random_affine(images, a, generator)
        if max(colors) > 0 and a.jitter_probability > 0:
            images = color_jitter(images, *colors, a.jitter_probability, generator)
        if a.grayscale > 0:
            images = to_grayscale(images, _bernoulli(len(images), a.grayscale, generator))
        if a.blur > 0:
            images = _random_blur(images, a.blur, generator)
        images = images.clamp(0, 1)  # interpolation weights may sum to 1 + 1e-7
        if a.strong_ops > 0:
            images = strong_operations(images, a.strong_ops, generator)
        return images


@torch.no_grad()
def random_view(
    images_uint8: Tensor,
    augmentation: Augmentation,
    generator: Numbers,
    statistics: Statistics,
    size: int | None = None,
) -> Tensor:
    """One random view of each image, as a network sees it: augmented, normalised, then cutout.

    Cutout comes last, as in the authors' code: what it erases has the mean colour. The same
    generator state gives the same bits again.

    Args:
        images_uint8: (B, C, S, S) uint8.
        generator: on the images' device.
        statistics: mean and standard deviation of the pixels.
        size: side of the view, px; None for the image's.

    Returns:
        (B, C, size, size) float32.
    """
    size = size or images_uint8.shape[-1]
    views = normalize(augment(images_uint8, augmentation, generator, size), *statistics)
    if augmentation.cutout > 0:
        views = cutout(views, max(1, round(augmentation.cutout * size)), generator)
    return views
