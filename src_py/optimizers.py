"""Muon, a step down the gradient, the pretext's learning rate, moving averages of weights."""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from configs.base_config import TrainingConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.run.distributed import ALONE, World
from src_py.run.hardware import Hardware
from src_py.run.schedule import Schedule
from src_py.run.training_stage import TrainingStage

Batch = TypeVar("Batch")
Model = TypeVar("Model", bound=nn.Module)

PAPER_VIEWS = 2 * 512  # of a step, that SimCLR's learning rate is stated for
MOMENTUM = 0.9  # of SGD, where a classifier is trained with it
FINE_TUNE_FACTOR = 0.1  # of the learning rate, where the weights are good already

# Of the polynomial whose repetition brings every singular value near 1, from Jordan et al.
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MUON_REPETITIONS = 5
MUON_MOMENTUM = 0.95  # of matrices
# A matrix' step, as a share of the learning rate that SGD takes its own with: one rate then suits
# both, and the vectors of a network that Muon trains.
MUON_SHARE = 0.3


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly: singular vectors stay, values become .7 to 1.2.

    Five repetitions of X <- a X + b (X X') X + c (X X')^2 X, from the matrix at norm 1.

    Args:
        matrix: (rows, columns) float32.
    """
    a, b, c = MUON_COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(MUON_REPETITIONS):
        squared = x @ x.T
        factor = torch.addmm(squared, squared, squared, beta=b, alpha=c)
        x = torch.addmm(x, factor, x, beta=a)
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) for matrices and
    convolutions, SGD with momentum for vectors: biases and batch norms.

    With g the gradient and m <- momentum m + g, a vector's step is -lr m. A matrix' is
    -lr MUON_SHARE sqrt(max(1, rows / columns)) orthogonalize(g + MUON_MOMENTUM m), and its m has
    MUON_MOMENTUM too; a convolution's rows are its output channels. The weight decay shrinks
    matrices apart from their gradient.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(weights, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Takes no closure."""
        for group in self.param_groups:
            learnt = [weight for weight in group["params"] if weight.grad is not None]
            if vectors := [weight for weight in learnt if weight.ndim < 2]:
                self._change_vectors(vectors, group)
            if matrices := [weight for weight in learnt if weight.ndim >= 2]:
                self._change_matrices(matrices, group)

    # All weights in one operation where there is one: on a GPU a step of small ones is as long as
    # the operations are many.

    def _change_vectors(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        decayed = torch._foreach_add(_gradients(weights), weights, alpha=group["weight_decay"])
        moments = self._moments(weights, list(decayed), group["momentum"])
        torch._foreach_add_(weights, moments, alpha=-group["lr"])

    def _change_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = _gradients(weights)
        moments = self._moments(weights, gradients, MUON_MOMENTUM)
        ahead = torch._foreach_add(gradients, moments, alpha=MUON_MOMENTUM)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, gradient in zip(weights, ahead, strict=True):
            rows, columns = len(weight), weight[0].numel()
            direction = orthogonalize(gradient.reshape(rows, columns)).view_as(weight)
            size = MUON_SHARE * max(1.0, rows / columns) ** 0.5
            weight.sub_(direction, alpha=group["lr"] * size)

    def _moments(
        self, weights: list[Tensor], gradients: list[Tensor], momentum: float
    ) -> list[Tensor]:
        for weight in weights:
            if "moments" not in self.state[weight]:
                self.state[weight]["moments"] = torch.zeros_like(weight)
        moments = [self.state[weight]["moments"] for weight in weights]
        torch._foreach_mul_(moments, momentum)
        torch._foreach_add_(moments, gradients)
        return moments


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def pretext_optimizer(model: nn.Module, config: SimCLRConfig) -> torch.optim.Optimizer:
    """SGD in one fused kernel for all weights, as SimCLR trains, or Muon."""
    options = (config.learning_rate, config.momentum)
    if config.optimizer == "muon":
        return Muon(model.parameters(), *options, config.weight_decay)
    return torch.optim.SGD(
        model.parameters(), *options, weight_decay=config.weight_decay, fused=True
    )


def adam(model: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    """Adam in one fused kernel for all weights, as SCAN and the self-labelling train on CIFAR."""
    return torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def classifier_optimizer(
    model: nn.Module, config: ScanConfig | SelfLabelConfig
) -> torch.optim.Optimizer:
    """What `config.optimizer` names, for the weights that are not frozen."""
    if config.optimizer == "adam":
        return adam(model, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(
        weights,
        lr=config.learning_rate,
        momentum=MOMENTUM,
        weight_decay=config.weight_decay,
        fused=True,
    )
    for weight in weights:  # else torch would begin with whatever a skipped first step has left
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def scale_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Makes the learning rate `factor` times as large."""
    for group in optimizer.param_groups:
        group["lr"] *= factor


def descend(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    skipped: Tensor | None = None,
    world: World = ALONE,
) -> None:
    """One step down the gradient of `loss`.

    Args:
        skipped: float32, 0-dim: where it is 1, weights and moments stay as they are.
        world: whose processes have each a part of the gradient.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    world.sum_gradients(p for group in optimizer.param_groups for p in group["params"])
    if skipped is not None:
        if skipped.device.type == "mps" and bool(skipped):
            return
        # A fused optimizer looks at it on the device, without the host having to ask.
        optimizer.__dict__["found_inf"] = skipped
    optimizer.step()


class PretextRate:
    """The learning rate: linear warm-up to a peak in proportion to the views of a step, then half a
    cosine to zero."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: SimCLRConfig, schedule: Schedule
    ) -> None:
        self.optimizer = optimizer
        images = min(schedule.batch_size, schedule.images_per_epoch)
        views = config.views_of_image * images
        self.peak = config.learning_rate * views / PAPER_VIEWS
        if config.fine_tune:
            self.peak *= FINE_TUNE_FACTOR
        self.epochs, self.steps_per_epoch = schedule.epochs, schedule.steps_per_epoch
        self.warmup = schedule.warmup_epochs / schedule.epochs

    def for_each(
        self, batches: Iterable[Batch], epoch: int, session: TrainingStage
    ) -> Iterator[Batch]:
        """The batches of an epoch, each with the optimizer at its rate."""
        for number, batch in enumerate(batches):
            self.set(epoch + number / self.steps_per_epoch, session.time_used)
            yield batch

    def set(self, epochs: float, time_used: float) -> None:
        """
        Args:
            epochs: that have been trained, also parts of one.
            time_used: of what the stage may take, a fraction. The clock is ahead of the epochs and
                decides, unless the machine has become much faster than they were planned for, so
                that the rate is down when the time is up.
        """
        progress = max(epochs / self.epochs, time_used)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * warmup_cosine(progress, self.warmup)


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor on the peak learning rate.

    Args:
        progress: of the whole training, 0 to 1.
        warmup: share of it that rises linearly from 0.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def moving_average(model: Model, ema_decay: float, hardware: Hardware, compiled: bool) -> Model:
    """A copy of the model for `update_average`; the model itself where there is no EMA."""
    return hardware.place(copy.deepcopy(model), compiled) if ema_decay else model


@torch.no_grad()
def update_average(
    average: nn.Module, model: nn.Module, decay: float, buffers: bool = True
) -> None:
    """average <- decay x average + (1 - decay) x model.

    Args:
        buffers: whether the batch statistics are copied.
    """
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    if buffers:
        for mean, current in zip(average.buffers(), model.buffers(), strict=True):
            mean.copy_(current)
