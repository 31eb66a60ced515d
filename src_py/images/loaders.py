"""Batches of images by index: from a set that lives on the device, or from files when needed.

Both loaders yield the same bytes in the same order and layout, so that training ends with the same
weights whichever is chosen; the choice is one of memory and speed.
"""

import copy
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src_py.images import files
from src_py.images.files import read_square
from src_py.images.memory import ByteBudget, decoding_limit, machine_memory
from src_py.images.opening import UnreadableImage
from src_py.images.ranges import Ranges, stored_range
from src_py.run.addresses import as_text
from src_py.run.cores import available_cores
from src_py.run.distributed import ALONE, World
from src_py.run.errors import UserError

Loading = Literal["auto", "resident", "streamed"]
MEMORY_SHARE = 0.5  # of the device's memory that decoded images may take


class ImageLoader(Protocol):
    """What the training loops ask of a set of images."""

    world: World  # whose processes have each a part of a batch
    waited: float  # s, in all, for images that were still being decoded
    image_size: int  # side, px

    def __len__(self) -> int: ...

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (indices (B,), images (B, C, S, S) uint8), both on the device.

        Indices may be (k, B): the images are then (kB, C, S, S). Of several processes, each has its
        part of the B images; the indices are those of the whole batch.
        """
        ...


class ResidentImages:
    """A decoded set kept on the device, so that a batch is one index operation."""

    def __init__(self, images: Tensor, device: torch.device, world: World = ALONE) -> None:
        """
        Args:
            images: (N, C, S, S) uint8.
        """
        self.images = images.to(device)
        self.image_size = images.shape[-1]
        self.world = world
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in index_batches:
            indices = indices.to(self.images.device)
            yield indices, self.images[self.world.own(indices)].contiguous()


class StreamedImages:
    """Image files that worker processes decode and crop to uint8 just before they are needed."""

    def __init__(
        self,
        paths: Sequence[Path],
        image_size: int,
        channels: int,
        device: torch.device,
        ranges: Ranges | None = None,
        world: World = ALONE,
    ) -> None:
        """
        Args:
            ranges: of numbers of more than 8 bits (DataSettings).
        """
        self.world = world
        self.waited = 0.0
        self.image_size = image_size
        self.files = _SquareFiles(paths, image_size, channels, ranges or {})
        self.device = device
        self.workers = available_cores()

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, index_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        index_batches = [indices.cpu() for indices in index_batches]
        on_cuda = self.device.type == "cuda"
        decoded = DataLoader(
            self.files,
            batch_sampler=(self.world.own(indices).tolist() for indices in index_batches),
            num_workers=self.workers,
            collate_fn=self._stack_or_say_why_not,
            pin_memory=on_cuda,
            worker_init_fn=_ShareOfMemory(self.workers),
        )
        arriving = self._awaited(_without_shortage(decoded))
        for indices, images in zip(index_batches, arriving, strict=True):
            if isinstance(images, str):
                raise UserError(images)
            images = images.to(self.device, non_blocking=on_cuda)  # (B, S, S, C)
            yield indices.to(self.device), images.permute(0, 3, 1, 2).contiguous()

    def _awaited(self, arriving: Iterator[Tensor | str]) -> Iterator[Tensor | str]:
        """The same batches; how long they were waited for is counted, but for the first, for which
        the workers have to be started."""
        for number in count():
            started = time.monotonic()
            batch = next(arriving, None)
            if batch is None:
                return
            if number:
                self.waited += time.monotonic() - started
            yield batch

    def _stack_or_say_why_not(self, images: list[Tensor | str]) -> Tensor | str:
        """A batch (B, S, S, C), or what is wrong: an exception would lose its form on the way from
        a worker."""
        wrong = next((image for image in images if isinstance(image, str)), None)
        if wrong or images:
            return wrong or torch.stack([image for image in images if isinstance(image, Tensor)])
        shape = (0, self.files.image_size, self.files.image_size, self.files.channels)
        return torch.empty(shape, dtype=torch.uint8)


def _without_shortage(decoded: Iterable[Tensor | str]) -> Iterator[Tensor | str]:
    """What the workers send; they do so through shared memory.

    Raises:
        UserError: when that is too small.
    """
    try:
        yield from decoded
    except (RuntimeError, OSError) as error:
        said = str(error).casefold()
        if not any(words in said for words in ("shared memory", "shm", "bus error")):
            raise
        raise UserError(
            "the shared memory (/dev/shm) is too small for the batches that are decoded ahead: "
            "give it more (docker run --shm-size 2g), lower --batch-size, or choose --loading "
            "resident"
        ) from None


class _ShareOfMemory:
    """Gives each worker its part of the memory for decoding; larger images wait for one another."""

    def __init__(self, workers: int) -> None:
        self.limit = decoding_limit() // workers
        self.alone = multiprocessing.Lock()

    def __call__(self, worker: int) -> None:
        files.budget = ByteBudget(self.limit, self.alone)


class _SquareFiles(Dataset[Tensor | str]):
    """Files as uint8 (S, S, C), or why one cannot be read."""

    def __init__(
        self, paths: Sequence[Path], image_size: int, channels: int, ranges: Ranges
    ) -> None:
        self.paths = paths
        self.image_size = image_size
        self.channels = channels
        self.ranges = ranges

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        path = self.paths[index]
        try:
            choose = stored_range(self.ranges)
            return torch.from_numpy(read_square(path, self.image_size, self.channels, choose))
        except (UnreadableImage, UserError) as error:
            return f"{as_text(path)} was readable when the run was begun and is no more ({error})"


Images = TypeVar("Images", bound="ImageLoader")


def unshared(images: Images) -> Images:
    """The same images, of whose batches this process has all, whatever others there are."""
    images = copy.copy(images)
    images.world = ALONE
    return images


def choose_loading(wanted: Loading, set_bytes: int, device: torch.device) -> tuple[str, str]:
    """'resident' or 'streamed', and why in a few words.

    Args:
        wanted: 'auto' keeps the set resident when it takes at most half of the device's memory.
        set_bytes: size of the decoded set.
    """
    memory = device_memory(device)
    sizes = f"{set_bytes / 2**30:.2f} GiB decoded, {memory / 2**30:.1f} GiB of memory"
    if wanted != "auto":
        return wanted, f"as --loading says; {sizes}"
    if set_bytes <= MEMORY_SHARE * memory:
        return "resident", sizes
    return "streamed", f"{sizes}, of which images may take {MEMORY_SHARE:.0%}"


def device_memory(device: torch.device) -> int:
    """Bytes: what is free on a CUDA device, else the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine_memory()


def shuffled_batches(
    size: int, batch_size: int, generator: torch.Generator, count: int | None = None
) -> list[Tensor]:
    """One epoch in random order: every index once, or `count` of them, in batches of nearly equal
    size.

    Equal sizes mean that no batch is dropped or too small for batch statistics, whatever `size` is.
    """
    order = torch.randperm(size, generator=generator, device=generator.device)[:count]
    return list(order.tensor_split(number_of_batches(len(order), batch_size)))


def ordered_batches(size: int, batch_size: int, first: int = 0) -> list[Tensor]:
    """Every index from the first on, once, in order."""
    return list(torch.arange(first, size).split(batch_size)) if first < size else []


def number_of_batches(size: int, batch_size: int) -> int:
    return -(-size // batch_size)
