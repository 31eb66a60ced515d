"""When memory does not suffice for a batch, it is cut into parts, and training goes on."""

from collections.abc import Callable

import torch
from torch import Tensor

from src_py.errors import UserError
from src_py.session import TrainingSession

SMALLEST_PART = 2  # images: batch statistics need more than one

LossOf = Callable[..., Tensor]


class BatchParts:
    """Takes training steps; doubles the number of parts of a batch when memory runs out.

    Attributes:
        count: parts of each batch, for the rest of the stage.
    """

    def __init__(self, session: TrainingSession, accumulate: bool = False) -> None:
        """
        Args:
            accumulate: add up the gradients of the parts and take one step, which is right where
                the loss is a mean over the images. A loss that compares the images of a batch
                takes a step for each part instead: the batch is then really smaller.
        """
        self.count = 1
        self._session = session
        self._accumulate = accumulate

    def state_dict(self) -> dict[str, int]:
        """So that a resumed stage cuts alike from its first step on."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]

    def descend(self, optimizer: torch.optim.Optimizer, loss_of: LossOf, *batch: Tensor) -> None:
        """One step down the gradient of `loss_of(*batch)`, or of its parts.

        Args:
            loss_of: called with the tensors of a part; again with smaller ones if memory runs out.
            batch: tensors of one length.

        Raises:
            UserError: when not even the smallest part fits.
        """
        while not self._try(optimizer, loss_of, batch):
            # Outside the except clause, whose traceback would keep the failed step's memory.
            optimizer.zero_grad(set_to_none=True)
            free_cached_memory()
            self._halve(len(batch[0]))

    def _try(
        self, optimizer: torch.optim.Optimizer, loss_of: LossOf, batch: tuple[Tensor, ...]
    ) -> bool:
        parts = list(zip(*(tensor.tensor_split(self.count) for tensor in batch), strict=True))
        try:
            if not self._accumulate:
                for part in parts:
                    descend(optimizer, loss_of(*part))
                return True
            optimizer.zero_grad(set_to_none=True)
            for part in parts:
                (loss_of(*part) * (len(part[0]) / len(batch[0]))).backward()
            take_step(optimizer)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False

    def _halve(self, images: int) -> None:
        self.count *= 2
        if images // self.count < SMALLEST_PART:
            raise UserError(
                f"{self._session.stage}: the memory does not suffice for two images: "
                f"lower --image-size or --width of simclr.py, or close other programs"
            )
        how = "one step for all parts" if self._accumulate else "a step for each part"
        self._session.say(
            f"{self._session.stage}: out of memory; batches are cut into {self.count} parts from "
            f"here on, {how} (--batch-size {-(-images // self.count)} would fit at once)"
        )


def free_cached_memory() -> None:
    """Gives what torch keeps for later back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch means this, on any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory")
    )


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient of `loss`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    take_step(optimizer)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """A step, unless `optimizer.found_inf` is set and not 0.

    A fused optimizer looks at it on the device, without the host having to ask; MPS does not.
    """
    skip = getattr(optimizer, "found_inf", None)
    if skip is None or skip.device.type != "mps" or not bool(skip):
        optimizer.step()
