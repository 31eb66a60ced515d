"""The one place that decides how to compute: device, precision, memory format."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from src_py.run.cores import IdleCoreThreads, available_cores
from src_py.run.distributed import ALONE, World, meet
from src_py.run.errors import UserError
from src_py.run.launch import Launch, launched_as

Module = TypeVar("Module", bound=nn.Module)
Batch = tuple[Tensor, Tensor]  # rows (B,) or (k, B) int64, images (B, C, S, S) uint8: its part
Batches = Iterable[Batch]

FLOATS_IN_A_VECTOR = 8  # of AVX2, float32
# Of images: with fewer a GPU waits to be told what comes next. A strong view is 800 operations, and
# SCAN took an H200 15 ms a step of 128 images of 32 px. Chosen by that; no other was measured.
ENOUGH_PIXELS = 2**20


@dataclass(frozen=True)
class Hardware:
    """What a stage computes with.

    Attributes:
        device: where the model, the images and the random numbers live.
        precision: the autocast type, or None for float32.
        world: the processes that share the work.
        threads: of one process on a CPU; None where their number is set.
    """

    device: torch.device
    precision: torch.dtype | None
    world: World = ALONE
    threads: IdleCoreThreads | None = None

    def place(self, module: Module, compiled: bool = False) -> Module:
        """Moves a module to the device, as all processes have it. channels_last is what cuDNN and
        oneDNN convolve fastest.

        Args:
            compiled: also fuse what stands between the convolutions, with torch.compile. The
                names in its state_dict stay the same.
        """
        layout = torch.contiguous_format if self._is_too_thin(module) else torch.channels_last
        # memory_format is documented, but missing from the overloads that torch declares.
        module.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.world.join(module)
        if compiled:
            module.compile()
        return module

    def _is_too_thin(self, module: nn.Module) -> bool:
        """Whether a convolution has fewer channels than a vector of the processor has numbers.

        oneDNN's gradient of those, channels last, writes outside its memory on processors that have
        AVX2 but not AVX-512 (torch 2.13).
        """
        convolutions = (m for m in module.modules() if isinstance(m, nn.Conv2d))
        thin = any(each.out_channels < FLOATS_IN_A_VECTOR for each in convolutions)
        return self.device.type == "cpu" and thin

    def autocast(self) -> AbstractContextManager:
        """The context that the forward pass runs in; weights and losses stay float32."""
        return torch.autocast(
            self.device.type,
            dtype=self.precision or torch.bfloat16,
            enabled=self.precision is not None,
        )

    def together(self, batches: Batches) -> Iterator[list[Batch]]:
        """Consecutive batches whose views are to be made at once: a strong view is hundreds of
        operations, which take a GPU as long for a few small images as for a thousand.

        On a CPU each batch is by itself: its caches hold no more.
        """
        group: list[Batch] = []
        for rows, images in batches:
            group.append((rows, images))
            # Counted for whole batches: all processes must come to the same groups.
            if sum(each.numel() for each, _ in group) >= self.images_at_once(images.shape[-1]):
                yield group
                group = []
        if group:
            yield group

    def images_at_once(self, image_size: int) -> int:
        """How many images it takes to keep the devices of all processes busy; one does on a CPU."""
        if self.device.type == "cpu":
            return 1
        return self.world.size * max(1, ENOUGH_PIXELS // image_size**2)

    def generator(self, *key: int) -> torch.Generator:
        """A random generator on the device whose stream depends on `key` alone."""
        return torch.Generator(self.device).manual_seed(mix_seed(*key))

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        precision = "bfloat16" if self.precision is torch.bfloat16 else "float32"
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        return f"{name}{threads}, {precision}{processes}"


def choose_hardware(device: str, precision: Literal["auto", "float32"] = "auto") -> Hardware:
    """Resolves 'auto', 'cpu', 'cuda' or 'mps' into what this machine has.

    Args:
        precision: 'auto' for bfloat16 where that is faster; 'float32' for all of its digits.

    Raises:
        UserError: when the device asked for is not there.
    """
    launch = launched_as()
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and launch.size == 1,
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, here in available.items() if here)
    if not available[device]:
        raise UserError(
            f"--device {device}: torch {torch.__version__} sees no such device here; "
            f"use --device auto"
        )
    # TF32 costs convolutions nothing in accuracy and makes what stays float32 several times faster.
    torch.set_float32_matmul_precision("high" if precision == "auto" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "auto"
    threads = None
    if launch.size > 1:
        _take_its_share(device, launch)
    elif device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        threads = IdleCoreThreads()
        if told := threads.first_look():
            print(told, flush=True)
    world = meet(launch.rank, launch.size, device)
    autocast = _choose_precision(device) if precision == "auto" else None
    return Hardware(torch.device(device), autocast, world, threads)


def _take_its_share(device: str, launch: Launch) -> None:
    """Of the machine's devices, and of its cores, of which torchrun gives every process one."""
    torch.set_num_threads(available_cores())
    if device == "cpu":
        return
    there = torch.cuda.device_count()
    if launch.local_rank >= there:
        raise UserError(
            f"{launch.local_size} processes on a machine with {there} GPUs: start as many as there "
            f"are GPUs, or add --device cpu"
        )
    torch.cuda.set_device(launch.local_rank)


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def _choose_precision(device: str) -> torch.dtype | None:
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.bfloat16 if device == "cpu" and _cpu_gains_by_bfloat16() else None


def _cpu_gains_by_bfloat16() -> bool:
    """Whether the processor computes bfloat16 faster than float32.

    With AMX it does. With AVX-512's instructions alone an AMD processor does, which has them at
    twice the rate of float32's; an Intel one has them at the same rate, and then converting makes
    it slower: by a quarter for ResNet-18 of width 16 at 16 and 32 px (one Xeon thread, torch 2.13).
    Without any instructions of its own bfloat16 is emulated.
    """
    if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        return True
    has_avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return has_avx512() and "AuthenticAMD" in _processor_description()


def _processor_description() -> str:
    """What Linux says of the processor; empty on other systems, which say it in other ways."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def mix_seed(*key: int) -> int:
    """One 63-bit seed from several integers, so that streams of random numbers do not meet."""
    seed = 0
    for part in key:
        # The multiplier and the shifts are those of the splitmix64 generator's finaliser.
        seed = (seed + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        seed ^= seed >> 31
    return seed >> 1
