"""Device decisions and seeds."""

import copy

import pytest
import torch

from src_py.errors import UserError
from src_py.hardware import choose_hardware, mix_seed


def test_cpu_is_always_there():
    hardware = choose_hardware("cpu")
    assert hardware.device.type == "cpu"
    assert "cpu" in str(hardware)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_said():
    with pytest.raises(UserError, match="--device cuda"):
        choose_hardware("cuda")
    assert choose_hardware("auto").device.type != "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_auto_takes_cuda():
    hardware = choose_hardware("auto")
    assert hardware.device.type == "cuda"
    assert hardware.generator(0, 1).device.type == "cuda"


def test_seeds_differ_where_their_keys_do():
    keys = [(seed, stage, epoch) for seed in range(8) for stage in range(4) for epoch in range(100)]
    assert len({mix_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= mix_seed(*key) < 2**63 for key in keys)
    assert mix_seed(1, 2) != mix_seed(2, 1)


def test_autocast_follows_the_precision():
    hardware = choose_hardware("cpu")
    with hardware.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (hardware.precision or torch.float32)


def test_compiling_changes_neither_outputs_nor_names():
    plain = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    compiled = copy.deepcopy(plain)
    choose_hardware("cpu").place(compiled, compiled=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    inputs = torch.randn(4, 3)
    torch.testing.assert_close(compiled(inputs), plain(inputs))
