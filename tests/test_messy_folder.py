"""Folders as people have them, from the first command on: read, reported, trained, or refused."""

import csv
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.config_simclr import SimCLRConfig
from configs.presets import PRESETS
from src_py.backbones import new_spec
from src_py.datasets import load_images
from src_py.images import disk_space
from src_py.images.disk_space import NETWORKS_ON_DISK, bytes_written, require_disk_space
from src_py.images.files import read_square
from src_py.images.folders import read_folder
from src_py.images.run_images import require_enough_images, settle_images
from src_py.models import ContrastiveModel
from src_py.run.checkpoints import load_checkpoint
from src_py.run.errors import UserError
from src_py.run.files import RunFiles
from src_py.run.hardware import Hardware
from tests.messy import MessyFolder, make_messy_folder

Usage = namedtuple("Usage", "total used free")
QUICK = ("--width", "4", "--epochs", "1", "--batch-size", "64", "--device", "cpu")


@pytest.fixture
def messy(tmp_path) -> MessyFolder:
    return make_messy_folder(tmp_path / "my photos", images=14)


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Sets how many bytes are free, in an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def set_free(count: int) -> None:
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: Usage(0, 0, count))

    return set_free


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_every_row_holds_the_image_of_its_name(messy, tmp_path):
    root = tmp_path / "my photos"
    decoded = load_images("folder", root, "train", 16, 3)
    assert decoded.names == messy.readable
    assert [name for name, _ in decoded.skipped] == messy.unreadable
    for name, image in zip(decoded.names, decoded.images.numpy(), strict=True):
        np.testing.assert_array_equal(image, read_square(root / name, 16, 3).transpose(2, 0, 1))
    index = read_folder(root, "train", 16, 3, keep_pixels=False)
    assert (index.names, index.skipped) == (decoded.names, decoded.skipped)
    np.testing.assert_array_equal(index.facts, decoded.facts)


def test_a_messy_folder_of_forty_images_is_reported_and_trained_on(run_script, messy, tmp_path):
    """Both ways of loading it: the same report, the same tables, the same weights."""
    assert 40 <= len(messy.readable) < 45
    root = tmp_path / "my photos"
    root.chmod(0o555)
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*"))
    told = {}
    for loading in ("resident", "streamed"):
        arguments = ("--data", "my photos", "--run", loading, "--loading", loading, *QUICK)
        done = run_script("simclr.py", *arguments)
        assert done.stderr == ""
        told[loading] = [
            line.replace(loading, "RUN")
            for line in done.stdout.splitlines()
            if line.startswith("images:") and "split" not in line
        ]
        assert read_rows(tmp_path / "ckp" / loading / "duplicates.csv") == [
            {"path": name, "duplicate_of": original, "kind": kind}
            for name, original, kind in sorted(
                [(*item, "exact") for item in messy.exact.items()]
                + [(*item, "near") for item in messy.near.items()]
            )
        ]
        skipped = read_rows(tmp_path / "ckp" / loading / "skipped.csv")
        assert [row["path"] for row in skipped] == messy.unreadable + messy.left_out
        assert all(row["reason"] for row in skipped)
    report = "\n".join(told["resident"])
    assert told["resident"] == told["streamed"]
    for part in (
        f"images: {len(messy.readable)} of 32 x 32 px, colour",
        "smallest 1 x 1 px",
        "largest 6000 x 4000 px, most elongated 300 : 1",
        "2 palette",
        "1 16-bit grey",
        "1 CMYK",
        "2 exact and 2 near duplicates of other images, listed in ckp/RUN/duplicates.csv",
        "images: not read: 2 (a link that leads nowhere), 1 (.psd files are not read), 1 (not a "
        f"regular file), {len(messy.unreadable)} unreadable files skipped, listed in ckp/RUN/",
        "images: 1 files are no pictures, by extension: 1 .txt",
    ):
        assert part in report
    assert sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*")) == before
    first, second = (
        load_checkpoint(tmp_path / "ckp" / run / "pretext.pt")["weights"]
        for run in ("resident", "streamed")
    )
    assert all(np.array_equal(first[key], second[key]) for key in first)


def settle(folder: Path, **options) -> None:
    """What simclr.py does before it trains, in this process and the current folder."""
    config = SimCLRConfig(run="mine", preset="folder", data=folder, width=64, **options)
    settle_images(config, PRESETS["folder"], Hardware(torch.device("cpu"), None))


def test_a_clean_folder_leaves_no_table_of_an_earlier_start(photo_folder, free, capsys):
    free(10**12)
    (photo_folder / "broken.png").touch()
    shutil.copy(photo_folder / "00.png", photo_folder / "copy.png")
    settle(photo_folder)
    told = capsys.readouterr().out
    assert "1 exact and 0 near" in told and "1 unreadable files skipped" in told
    for name in ("broken.png", "copy.png"):
        (photo_folder / name).unlink()
    settle(photo_folder)
    told = capsys.readouterr().out
    assert "images: 0 exact and 0 near duplicates of other images\n" in told
    assert "unreadable" not in told
    for name in ("duplicates.csv", "skipped.csv"):
        assert read_rows(Path("ckp", "mine", name)) == []


def test_the_report_is_told_again_from_the_cache(photo_folder, free, capsys):
    free(10**12)
    for loading in ("resident", "streamed"):
        told = []
        for _ in range(2):
            settle(photo_folder, loading=loading)
            told.append(capsys.readouterr().out)
        assert told[0] == told[1] and "as found: 40 RGB" in told[0]


def test_no_image_is_said_before_anything_is_written(tmp_path, free):
    free(10**12)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no image")
    for options in ({}, {"image_size": 16}):
        with pytest.raises(UserError, match="no image file in"):
            settle(tmp_path / "texts", **options)
    assert not Path("ckp").exists()


def test_two_images_for_each_cluster_are_enough():
    require_enough_images(20, 10)
    with pytest.raises(UserError, match=r"--clusters 10: needs at least 20 images, there are 19"):
        require_enough_images(19, 10)


# --- the disk ------------------------------------------------------------------------------------


def test_room_on_the_disk_is_asked_for_before_the_folders_exist(free):
    free(5_000_000_000)
    require_disk_space(RunFiles("mine"), 5_000_000_000)
    with pytest.raises(UserError, match=r"run 'mine' writes up to 6,000 MB.* 5,000 MB are free"):
        require_disk_space(RunFiles("mine"), 6_000_000_000)


def test_what_a_run_has_written_needs_no_room_again(free, tmp_path):
    (tmp_path / "ckp" / "mine").mkdir(parents=True)
    (tmp_path / "ckp" / "mine" / "images-train.npy").write_bytes(bytes(1000))
    free(500)
    require_disk_space(RunFiles("mine"), 1500)
    with pytest.raises(UserError, match="free some space"):
        require_disk_space(RunFiles("mine"), 1501)
    with pytest.raises(UserError, match="free some space"):
        require_disk_space(RunFiles("other"), 1500)


def test_the_estimate_counts_the_weights():
    for backbone, width, features in (
        ("resnet18", 16, 128),
        ("resnet18", 64, 512),
        ("resnet50", 64, 2048),
    ):
        model = ContrastiveModel(new_spec(backbone, width, 3, 32), 128)
        weights = sum(4 * weight.numel() for weight in model.parameters())
        networks = bytes_written(0, width, backbone) / NETWORKS_ON_DISK
        assert weights == pytest.approx(networks, rel=0.1)
        rows = bytes_written(1000, width, backbone) - bytes_written(0, width, backbone)
        # Features in float32, two views in half of it, components twice, fifty neighbors.
        assert rows == 1000 * (2 * features * 4 + 2 * 64 * 4 + 50 * (8 + 4))


def test_a_full_disk_ends_the_first_stage_before_decoding(photo_folder, free):
    free(0)
    for loading, size in (("streamed", "495"), ("resident", "975")):  # + 40 x 3 x 2000 x 2000 bytes
        with pytest.raises(UserError, match=f"writes up to {size} MB there, and 0 MB are free"):
            settle(photo_folder, loading=loading, image_size=2000)
    assert not Path("ckp").exists()


# --- images that are all alike -------------------------------------------------------------------


@pytest.mark.parametrize("colour", [(0, 0, 0), (10, 200, 90)])
def test_images_that_all_look_the_same_end_in_one_line(run_script, tmp_path, colour):
    (tmp_path / "same").mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "same" / f"{number}.png")
    run_script("simclr.py", "--data", "same", "--run", "mine", *QUICK)
    mining = ("--run", "mine", "--device", "cpu")
    done = run_script("extract_features.py", *mining, status=2)
    assert "all 40 images look the same to the network" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "ckp/mine/features.npy").exists()
