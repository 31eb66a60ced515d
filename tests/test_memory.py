"""Running out of memory makes batches smaller and does not end the run."""

import pytest
import torch

from src_py.errors import UserError
from src_py.memory import BatchParts, is_out_of_memory


class Session:
    """What BatchParts asks of a TrainingSession."""

    stage = "scan"

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def model_and_optimizer(momentum=0.0):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)


def square_loss(model, fits=100):
    """A mean over images that needs memory for at most `fits` of them."""

    def loss_of(part):
        if len(part) > fits:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried too much")
        return model(part).square().mean()

    return loss_of


def test_accumulated_parts_take_the_step_of_the_whole_batch():
    batch = torch.randn(15, 3)
    weights = []
    for fits in (100, 4):
        model, optimizer = model_and_optimizer(momentum=0.9)
        parts = BatchParts(Session(), accumulate=True)
        for _ in range(3):
            parts.descend(optimizer, square_loss(model, fits), batch)
        weights.append(model.weight.detach().clone())
        assert parts.count == (1 if fits == 100 else 4)
    torch.testing.assert_close(*weights)


def test_it_is_said_once_and_remembered():
    session = Session()
    model, optimizer = model_and_optimizer()
    parts = BatchParts(session)
    for _ in range(2):
        parts.descend(optimizer, square_loss(model, fits=8), torch.randn(16, 3))
    (line,) = session.lines
    assert "cut into 2 parts" in line and "--batch-size 8" in line


def test_when_nothing_fits_it_is_one_line():
    model, optimizer = model_and_optimizer()
    with pytest.raises(UserError, match="--image-size"):
        BatchParts(Session()).descend(optimizer, square_loss(model, 0), torch.randn(16, 3))


def test_other_errors_are_not_swallowed():
    def loss_of(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        BatchParts(Session()).descend(model_and_optimizer()[1], loss_of, torch.randn(4, 3))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))


def test_several_tensors_are_cut_alike():
    seen = []
    model, optimizer = model_and_optimizer()
    parts = BatchParts(Session())
    parts.count = 2

    def loss_of(first, second):
        seen.append((first[:, 0].tolist(), second.tolist()))
        return model(first).mean()

    first = torch.arange(4.0)[:, None].expand(4, 3)
    parts.descend(optimizer, loss_of, first, torch.arange(4))
    assert seen == [([0, 1], [0, 1]), ([2, 3], [2, 3])]
