"""Mean and standard deviation of pixels, exactly: from how often each value occurs."""

import torch


def measure_mean_std(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the scale [0, 1], of uint8 (N, C, H, W).

    Exact in float64, through a histogram of each channel: no float copy of the images is made.
    A constant channel gets a deviation of 1e-3, which is safe to divide by.

    Raises:
        ValueError: when there are no pixels.
    """
    if images.numel() == 0:
        raise ValueError(f"cannot measure images of shape {tuple(images.shape)}: no pixels")
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in images.split(1024):
        counts += histogram(chunk)
    return mean_std_of_histogram(counts)


def histogram(images: torch.Tensor) -> torch.Tensor:
    """Pixels of each value, by channel: (N, C, H, W) uint8 -> (C, 256) int64."""
    channels = images.unbind(1)
    return torch.stack([torch.bincount(pixels.flatten(), minlength=256) for pixels in channels])


def mean_std_of_histogram(counts: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]).square()).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1e-3).tolist())
