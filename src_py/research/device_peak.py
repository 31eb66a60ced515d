"""What a device can compute at most, measured, and how much of it a step reaches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from src_py.research.benchmarking import Arm, Step, measure, steady
from src_py.run.hardware import Hardware

CHANNELS = (64, 128, 256, 512)  # of the convolutions
MAP_SIDE = 8  # px, of the maps that are convolved
# Large enough to keep all units of a processor busy, small enough for a fraction of a second each.
CPU_SIDES, CPU_BATCH = (512, 1024, 1536), 32
GPU_SIDES, GPU_BATCH = (2048, 4096, 8192), 1024
ROUNDS = 3
SECONDS = 0.1  # of one operation in one round


@dataclass(frozen=True)
class Peak:
    """The most that dense operations have reached on a device.

    Attributes:
        teraflops: 10¹² floating-point operations a second, by the operation's name.
    """

    teraflops: dict[str, float]

    @property
    def operation(self) -> str:
        """The name of the fastest."""
        return max(self.teraflops, key=self.teraflops.__getitem__)

    def reached(self, images_per_second: float, flops_per_image: float) -> dict[str, float]:
        """What an arm computes in a second, and its share of the peak."""
        teraflops = images_per_second * flops_per_image / 1e12
        share = teraflops / self.teraflops[self.operation]
        return {"teraflops": _rounded(teraflops), "share_of_peak": _rounded(share)}

    def as_dict(self) -> dict:
        measured = {name: _rounded(value) for name, value in self.teraflops.items()}
        return {"operation": self.operation, "teraflops": measured}

    def __str__(self) -> str:
        return f"{self.teraflops[self.operation]:.3g} TFLOP/s, by {self.operation}"


def flops_per_image(step: Step) -> float:
    """Floating-point operations of a step, forward and backward, for each of its images.

    Torch's own counter counts matrix products and convolutions, a multiplication and an addition as
    two. What stands between them, and views of images, is not counted.
    """
    with FlopCounterMode(display=False) as counter:
        images = step()
    return counter.get_total_flops() / images


def measure_peak(hardware: Hardware) -> Peak:
    """With the device, the precision and the threads that the stages compute with."""
    operations = dict(_dense_operations(hardware))
    arms: dict[str, Arm] = {
        name: partial(steady, operation) for name, operation in operations.items()
    }
    found = measure(arms, ROUNDS, SECONDS, hardware.device)
    return Peak(
        {
            name: max(found[name].rates) * flops_per_image(operation) / 1e12
            for name, operation in operations.items()
        }
    )


def _dense_operations(hardware: Hardware) -> Iterator[tuple[str, Step]]:
    """Each does its work once, and counts as one image."""
    device, precision = hardware.device, hardware.precision or torch.float32
    on_cpu = device.type == "cpu"
    for side in CPU_SIDES if on_cpu else GPU_SIDES:
        matrix = torch.randn(side, side, device=device, dtype=precision)
        yield f"a product of {side} x {side} matrices", partial(_multiply, matrix)
    batch = CPU_BATCH if on_cpu else GPU_BATCH
    for channels in CHANNELS:
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        maps = torch.randn(batch, channels, MAP_SIDE, MAP_SIDE)
        hardware.place(layer).to(precision)
        maps = maps.to(device, precision, memory_format=torch.channels_last)
        yield f"a 3x3 convolution of {channels} channels", partial(_convolve, layer, maps)


def _multiply(matrix: torch.Tensor) -> int:
    torch.mm(matrix, matrix)
    return 1


@torch.no_grad()
def _convolve(layer: torch.nn.Module, maps: torch.Tensor) -> int:
    layer(maps)
    return 1


def _rounded(value: float) -> float:
    """To four digits that tell something, as shares and speeds may be far below 1."""
    return float(f"{value:.4g}")
