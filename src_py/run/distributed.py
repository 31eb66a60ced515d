"""Several processes that do the work of one: torchrun starts them, each has a part of every batch.

    torchrun --nproc_per_node 2 -- simclr.py

They draw the same order, the same pairs and, of the random numbers of a batch, those of their own
images. A network sees its part; its batch statistics are those of the whole batch. What it gives is
gathered, so that every process computes the loss of the whole batch, and gradients are summed. All
else (heads on stored features, choices) every process computes for itself, alike; the first one
alone writes and tells.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

Module = TypeVar("Module", bound=nn.Module)
Fact = TypeVar("Fact")

TINY = 1e-12  # added to a variance
LONGEST_WAIT = timedelta(hours=6)  # for a process that decodes images, or searches neighbors


@dataclass(frozen=True)
class World:
    """The processes that work together, and which of them this one is.

    Attributes:
        rank: 0 for the first.
        size: how many there are; with 1, nothing is exchanged.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, total: int) -> slice:
        """This process's images of a batch of `total`; sizes of parts differ by one at most."""
        sizes = self._sizes(total)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def own(self, rows: Tensor) -> Tensor:
        """This process's part of the rows of a batch: (B,) -> (b,), (k, B) -> (kb,)."""
        return rows[..., self.part(rows.shape[-1])].flatten()

    def whole(self, part: Tensor, total: int, dim: int = 0) -> Tensor:
        """What all processes have of a batch of `total`, in order; with a gradient for each part.

        Half precision becomes float32. Every process must use the result alike, as for one loss:
        the gradient that reaches a part is that of this process's own use.
        """
        if self.size == 1:
            return part
        return _Gathered.apply(_widened(part), self, total, dim % part.dim())

    def numbers(
        self, generator: torch.Generator, *totals: int, copies: int = 1
    ) -> "torch.Generator | PartOfBatch":
        """The random numbers of this process's images of a batch, or of several in a row.

        Args:
            totals: images of each whole batch.
            copies: all of them are seen so many times, one after the other.
        """
        if self.size == 1:
            return generator
        batches = torch.arange(sum(totals), device=generator.device).split(totals)
        part = torch.cat([batch[self.part(len(batch))] for batch in batches])
        rows = torch.cat([part + copy * sum(totals) for copy in range(copies)])
        return PartOfBatch(generator, rows, copies * sum(totals))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Of all processes, in the place of this one's."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        for gradient, summed in zip(
            gradients, together.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))

    def join(self, module: Module) -> Module:
        """The module with the first process's weights, and with the batch statistics of whole
        batches. Names in its state_dict stay the same."""
        if self.size == 1:
            return module
        for each in module.modules():
            if isinstance(each, _BatchNorm) and not isinstance(each, _SharedStatistics):
                each.__class__ = _shared(type(each))
        for tensor in module.state_dict().values():
            held = tensor.contiguous()
            dist.broadcast(held, src=0)
            tensor.copy_(held)
        return module

    def gathered(self, own: list[Fact]) -> list[Fact]:
        """The lists of all processes, as one."""
        if self.size == 1:
            return own
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, own)
        return [each for part in told for each in part]

    def slowest(self, seconds: float | None) -> float | None:
        """The most that a process takes; None where one has failed, which says None."""
        told = self.gathered([seconds])
        known = [each for each in told if each is not None]
        return max(known) if len(known) == len(told) else None

    def of_the_first(self, fact: Fact) -> Fact:
        """What the first process says, where clocks or disks may tell them otherwise."""
        if self.size == 1:
            return fact
        told = [fact]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def one_after_the_first(self) -> Iterator[None]:
        """What the first process does in here it has done before the others begin."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def _sizes(self, total: int) -> list[int]:
        each, more = divmod(total, self.size)
        return [each + (rank < more) for rank in range(self.size)]


ALONE = World()


def leave() -> None:
    """Ends with the others: one that went before them would cut off what they have yet to read."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def apart(part: Any) -> Any:
    """A module, or anything else, that no longer asks other processes for batch statistics."""
    for each in part.modules() if isinstance(part, nn.Module) else ():
        if isinstance(each, _SharedStatistics):
            _, each.__class__ = type(each).__bases__
    return part


def meet(rank: int, size: int, device: str) -> World:
    """The world of `size` processes, of which this one is number `rank`, once all are there."""
    if size > 1 and not dist.is_initialized():
        # What is no tensor of the device is exchanged without it.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    return World(rank, size)


@dataclass(frozen=True)
class PartOfBatch:
    """A generator for some images of a batch: each gets the numbers it would get in the whole one.

    Attributes:
        rows: (b,) int64, their places in the batch, on the generator's device.
        total: size of the whole batch.
    """

    generator: torch.Generator
    rows: Tensor
    total: int


def _widened(tensor: Tensor) -> Tensor:
    """Half precision as float32, others as they are."""
    return tensor.float() if tensor.itemsize == 2 else tensor


class _Gathered(torch.autograd.Function):
    """World.whole: forwards the parts of all, backwards this process's part of the gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World, total: int, dim: int) -> Tensor:
        ctx.dim, ctx.part = dim, world.part(total)
        sizes = world._sizes(total)
        rows = part.movedim(dim, 0)
        padded = rows.new_zeros((sizes[0], *rows.shape[1:]))  # collectives take equal sizes
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        whole = torch.cat([each[:size] for each, size in zip(parts, sizes, strict=True)])
        return whole.movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        part = ctx.part
        return gradient.narrow(ctx.dim, part.start, part.stop - part.start), None, None, None


class _NormalizedTogether(torch.autograd.Function):
    """Batch normalisation by the statistics of all processes' images (Ioffe & Szegedy, 2015)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # torch's kernels for one process are many times as fast on a CPU as sums of our own: what
        # they give for this process's images is put together.
        channels = x.shape[1]
        own = x.numel() // channels
        mean, spread = _statistics(x) if own else x.new_zeros((2, channels), dtype=torch.double)
        told = torch.cat([mean * own, (spread + mean.square()) * own, mean.new_full((1,), own)])
        dist.all_reduce(told)
        count = told[-1]
        mean, squares = (told[:-1] / count).chunk(2)
        variance = (squares - mean.square()).clamp_(min=0).to(weight.dtype)
        mean, count = mean.to(weight.dtype), count.to(weight.dtype)
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        for_x, for_weight, for_bias = gradient, torch.zeros_like(mean), torch.zeros_like(mean)
        if x.numel():  # torch's kernel does not take less; as if the statistics were constants
            given = (weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
            for_x, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, x, *given
            )
        sums = torch.cat([for_weight, for_bias])
        dist.all_reduce(sums)
        of_weight, of_bias = (sums / count).chunk(2)
        scale = torch.rsqrt(variance + ctx.eps)
        shape = [1, -1] + [1] * (x.dim() - 2)
        # What the statistics pass on, in float32: of half precision, x - mean keeps few digits.
        passed = (_widened(x) - mean.view(shape)).mul_((scale * of_weight).view(shape))
        passed.add_(of_bias.view(shape)).mul_((weight * scale).view(shape))
        return (for_x - passed).to(x.dtype), for_weight, for_bias, None


def _statistics(x: Tensor) -> Tensor:
    """Mean and variance of each channel, (2, C) float64: squares of large means need its digits."""
    wide = _widened(x)
    _, mean, scale = torch.native_batch_norm(wide, None, None, None, None, True, 0.0, TINY)
    return torch.stack([mean.double(), scale.double().pow(-2) - TINY])


class _SharedStatistics(_BatchNorm):
    """In training, with the statistics of all processes' images."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance, count = _NormalizedTogether.apply(x, self.weight, self.bias, self.eps)
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None, "the backbones' layers keep a moving average"
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        for part in ("drop", "act"):  # timm's batch norms end in an activation of their own
            y = getattr(self, part)(y) if hasattr(self, part) else y
        return y


def _shared(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """A kind of batch norm whose statistics are those of all processes' images."""
    return type(f"Shared{kind.__name__}", (_SharedStatistics, kind), {})
