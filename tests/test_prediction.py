"""Files in, rows out: order, folders, and files that cannot be read."""

import pytest
import torch

from src_py.datasets import DataSettings
from src_py.errors import UserError
from src_py.hardware import choose_hardware
from src_py.models import BackboneSpec, ClusterHeads, ClusteringModel, ResNet18
from src_py.prediction import classify_files, list_files
from tests.conftest import write_image

SETTINGS = DataSettings("folder", None, 16, 3, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True))
    return ClusteringModel(backbone, ClusterHeads(32, clusters=3, heads=1))


def test_files_keep_the_order_they_were_named_in(tmp_path):
    for name in ("z/2.png", "z/1.png", "a.png"):
        write_image(tmp_path / name, 0, 0)
    (tmp_path / "z" / "notes.txt").write_text("no image")
    found = list_files([tmp_path / "z", tmp_path / "a.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "z/1.png",
        "z/2.png",
        "a.png",
    ]


def test_missing_paths_and_empty_folders_are_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list_files([tmp_path / "absent"])
    with pytest.raises(UserError, match="no image file"):
        list_files([tmp_path])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_rows_do_not_depend_on_the_batch(tmp_path, model, batch_size):
    for number in range(9):
        write_image(tmp_path / f"{number}.png", number % 4, number, size=20)
    (tmp_path / "5.png").write_bytes(b"")
    paths = list_files([tmp_path])
    hardware = choose_hardware("cpu")
    rows, skipped = classify_files(paths, model, SETTINGS, hardware, batch_size)
    assert [path for path, *_ in rows] == [str(p) for p in paths if p.name != "5.png"]
    assert [path for path, _ in skipped] == [str(tmp_path / "5.png")]
    alone, _ = classify_files(paths, model, SETTINGS, hardware, 100)
    assert [row[1] for row in rows] == [row[1] for row in alone]


def test_a_block_of_unreadable_files_is_skipped(tmp_path, model):
    for number in range(4):
        (tmp_path / f"{number}.png").write_text("no")
    write_image(tmp_path / "9.png", 0, 0)
    rows, skipped = classify_files(
        list_files([tmp_path]), model, SETTINGS, choose_hardware("cpu"), batch_size=2
    )
    assert len(rows) == 1 and len(skipped) == 4
