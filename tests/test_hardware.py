"""Device decisions and seeds."""

import copy

import pytest
import torch

from src_py.run import hardware as hardware_module
from src_py.run.errors import UserError
from src_py.run.hardware import Hardware, choose_hardware, mix_seed


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


def test_float32_that_is_asked_for_is_kept_everywhere():
    try:
        hardware = choose_hardware("cpu", "float32")
        with hardware.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == torch.float32 and str(hardware).endswith("float32")
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    finally:
        choose_hardware("cpu")
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32


def test_compiling_changes_neither_outputs_nor_names():
    plain = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    compiled = copy.deepcopy(plain)
    choose_hardware("cpu").place(compiled, compiled=True)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    inputs = torch.randn(4, 3)
    torch.testing.assert_close(compiled(inputs), plain(inputs))


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A processor with these instructions, as Linux tells of it; None: it tells nothing."""

    def be(amx, avx512_bf16, cpuinfo):
        for name, value in (
            ("_is_amx_tile_supported", amx),
            ("_is_avx512_bf16_supported", avx512_bf16),
        ):
            monkeypatch.setattr(torch.cpu, name, lambda value=value: value, raising=False)
        path = tmp_path / "cpuinfo"
        if cpuinfo is not None:
            path.write_bytes(cpuinfo)
        monkeypatch.setattr(hardware_module, "Path", lambda asked: path)

    return be


AMD = b"processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9B14\n"
INTEL = b"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon(R) \xae\n"


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "cpuinfo", "gains"),
    [
        (True, True, INTEL, True),
        (True, True, None, True),
        (False, True, AMD, True),
        (False, True, INTEL, False),  # converting costs more than it gains
        (False, False, AMD, False),  # emulated
        (False, False, INTEL, False),
        (False, True, None, False),  # not Linux
    ],
)
def test_a_cpu_computes_bfloat16_where_that_is_faster(processor, amx, avx512_bf16, cpuinfo, gains):
    processor(amx, avx512_bf16, cpuinfo)
    assert hardware_module._cpu_gains_by_bfloat16() == gains
    assert choose_hardware("cpu").precision == (torch.bfloat16 if gains else None)


def test_a_torch_that_cannot_tell_computes_float32(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not hardware_module._cpu_gains_by_bfloat16()


def batches_of(*sizes, image_size=32):
    """(k, B) rows and their images, which take no memory."""
    for size in sizes:
        images = torch.empty(2 * size, 3, image_size, image_size, dtype=torch.uint8, device="meta")
        yield torch.arange(2 * size).view(2, size), images


@pytest.mark.parametrize(
    ("device", "image_size", "expected"),
    [
        ("cuda", 32, [[400, 112], [513], [100]]),  # 1024 images are enough
        ("cuda", 224, [[400], [112], [513], [100]]),
        ("cpu", 32, [[400], [112], [513], [100]]),
    ],
)
def test_a_gpu_makes_views_of_several_small_batches_at_once(device, image_size, expected):
    batches = batches_of(400, 112, 513, 100, image_size=image_size)
    groups = Hardware(torch.device(device), None).together(batches)
    assert [[rows.shape[1] for rows, _ in group] for group in groups] == expected
