"""Tar files as sources of images: what is read from them is what lay in the folder."""

import contextlib
import csv
import gzip
import io
import os
import shutil
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.config_shards import ShardsConfig
from configs.config_simclr import SimCLRConfig
from src_py.images import shards, tars
from src_py.images.finding import find_images, survey
from src_py.images.folders import read_folder
from src_py.images.loaders import StreamedImages, shuffled_batches
from src_py.images.splits import split_folder
from src_py.output.served_images import ServedImages
from src_py.run.addresses import as_text, located, short_name
from src_py.run.checkpoints import load_checkpoint
from src_py.run.distributed import World
from src_py.run.errors import UserError
from src_py.run.options import parse
from src_py.scoring.class_labels import load_labels
from tests.conftest import PROJECT, TINY, write_image
from tests.script_process import HAS_COPIES, Copy

CPU = torch.device("cpu")
ODD_NAMES = (
    "a.v1.png", "a.v2.png", "a.png", "a_v1.png", "b.jpg", "b.png", "c.d/e.PNG", "no extension",
    "é \n.png", "x" * 120 + ".png", "2021.05.06", "=1.png",
)  # fmt: skip


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tars, "_indexes", {})
    monkeypatch.setattr(tars, "_folders", {})


def write_shards(root, out, images_per_shard=10_000):
    config = ShardsConfig(folder=Path(root), out=Path(out), images_per_shard=images_per_shard)
    shards.main(config)
    return sorted(Path(out).rglob("*.tar"))


def read(root, split="train"):
    return read_folder(Path(root).absolute(), split, 16, 3)


def png(kind=0, number=0):
    write_image(Path("one.png"), kind, number)
    return Path("one.png").read_bytes()


def write_tar(path, *members):
    """
    Args:
        members: (name, content), or a TarInfo without content.
    """
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            entry = tarfile.TarInfo(member[0])
            entry.size = len(member[1])
            tar.addfile(entry, io.BytesIO(member[1]))
    return Path(path)


def entry_of(name, kind, **facts):
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for key, value in facts.items():
        setattr(entry, key, value)
    return entry


def refusal(act):
    """What the person is told, which is one line."""
    with pytest.raises(UserError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def predictions(out):
    with Path(out, "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def odd_folder(tmp_path):
    for number, name in enumerate(ODD_NAMES):
        write_image(tmp_path / "odd/new.png", number % 4, number)
        (tmp_path / "odd" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "odd/new.png").rename(tmp_path / "odd" / name)
    return tmp_path / "odd"


# --- what is read --------------------------------------------------------------------------------


def test_one_shard_is_the_folder_that_it_was_written_from(odd_folder):
    (shard,) = write_shards(odd_folder, "out")
    there, here = read(odd_folder), read(shard)
    assert sorted(here.names) == sorted(ODD_NAMES) and here.names == there.names
    assert torch.equal(here.images, there.images)
    assert np.array_equal(here.facts, there.facts)
    assert here.listing == there.listing and here.key != there.key
    (odd_folder / "a.png").unlink()
    assert read(odd_folder).listing != here.listing


def test_several_shards_are_read_in_the_order_of_the_folder(odd_folder):
    paths = write_shards(odd_folder, "out", 5)
    assert [path.name for path in paths] == [f"odd-00000{number}.tar" for number in range(3)]
    there = read(odd_folder)
    for root in ("out", "out/odd-{000000..000002}.tar", "out/odd-00000{0,1,2}.tar"):
        here = read(root)
        names = [name.split("/", 1) for name in here.names]
        assert [name for _, name in names] == there.names
        assert [shard for shard, _ in names] == [f"odd-00000{row // 5}.tar" for row in range(12)]
        assert torch.equal(here.images, there.images)


def test_a_folder_with_images_of_its_own_is_read_as_ever(photo_folder):
    write_tar(photo_folder / "more.tar", ("x.png", png()))
    found = survey(photo_folder)
    assert len(found.images) == 40 and found.others == Counter({".tar": 1})


def test_splits_and_classes_are_those_of_the_folder(class_tree):
    paths = write_shards(class_tree, "out", 30)
    places = [path.relative_to("out").as_posix() for path in paths]
    assert places == ["test/test-000000.tar", "train/train-000000.tar", "train/train-000001.tar"]
    with tarfile.open("one.tar", "w") as tar:
        tar.add(class_tree, ".")
    for split in ("train", "test"):
        there = read(class_tree, split)
        labels, classes = load_labels("folder", class_tree, split, there.names)
        for root in ("out", "one.tar"):
            here = read(root, split)
            assert torch.equal(here.images, there.images)
            told = load_labels("folder", Path(root).absolute(), split, here.names)
            assert told[1] == classes and np.array_equal(told[0], labels)
    assert split_folder(Path("one.tar"), "test") == Path("one.tar/test")
    several = read("out/train/train-{000000..000001}.tar")
    root = Path("out/train/train-{000000..000001}.tar").absolute()
    assert load_labels("folder", root, "train", several.names) is None
    told = load_labels("folder", root, "train", several.names, folder_labels=True)
    assert told[1] == list("abcd")


def test_what_is_not_read_is_told(tmp_path):
    huge = entry_of("huge.png", tarfile.REGTYPE)
    hostile = [
        ("/etc/x.png", png()),
        ("../x.png", png()),
        ("a/../../x.png", png()),
        ("a.png", png(0, 1)),
        ("./a.png", png(0, 2)),
        entry_of("link.png", tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry_of("hard.png", tarfile.LNKTYPE, linkname="a.png"),
        entry_of("fifo.png", tarfile.FIFOTYPE),
        entry_of("disk.png", tarfile.BLKTYPE),
        entry_of("folder.png", tarfile.DIRTYPE),
        ("._a.png", b"hidden"),
        ("broken.png", b"no image"),
        ("empty.png", b""),
        ("a.cls", b"3"),
        ("raw.nef", b"raw"),
        ("b", png(0, 3)),
        huge,
    ]
    write_tar("hostile.tar", *hostile)
    found = survey(Path("hostile.tar"))
    assert [path.name for path in found.images] == [
        "a.png",
        "b",
        "broken.png",
        "empty.png",
        "huge.png",
    ]
    assert found.others == Counter({".cls": 1})
    reasons = {path.as_posix().removeprefix("hostile.tar/"): why for path, why in found.left_out}
    assert {name: why.split(":")[0] for name, why in reasons.items()} == {
        "etc/x.png": "its path leads out of the shard",
        "../x.png": "its path leads out of the shard",
        "a/../../x.png": "its path leads out of the shard",
        "a.png": "a second file of this name",
        "link.png": "a link in a shard",
        "hard.png": "a link in a shard",
        "fifo.png": "not a regular file",
        "disk.png": "not a regular file",
        "raw.nef": ".nef files are not read",
    }
    loaded = read("hostile.tar")
    assert loaded.names == ["a.png", "b"]
    assert loaded.skipped == [
        ("broken.png", "not an image, or of a kind that Pillow cannot read"),
        ("empty.png", "empty file"),
        ("huge.png", "empty file"),
    ]
    Path("expected").mkdir()
    Path("expected/a.png").write_bytes(png(0, 1))
    assert torch.equal(loaded.images[:1], read("expected").images)


def test_what_is_too_large_or_sparse_is_not_read(monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_FILE", 100)
    monkeypatch.setattr(shards, "LARGEST_FILE", 100)
    write_tar("large.tar", ("small.png", b"x"), ("large.png", b"x" * 101))
    assert [path.name for path in survey(Path("large.tar")).images] == ["small.png"]
    sparse = entry_of("sparse.png", tarfile.REGTYPE)
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    sparse.pax_headers |= {"GNU.sparse.name": "sparse.png", "GNU.sparse.realsize": "99"}
    with tarfile.open("sparse.tar", "w") as tar:
        sparse.size = 512
        tar.addfile(sparse, io.BytesIO(b"1\n0\n1\n".ljust(512, b"\0")))
    ((_, reason),) = survey(Path("sparse.tar")).left_out
    assert reason == "a sparse file in a shard"
    write_image(Path("photos/large.png"), 0, 0)
    Path("photos/small.png").write_bytes(b"x")
    write_shards("photos", "out")
    assert Path("out/left_out.csv").read_text().split("\n")[1].startswith("large.png,more than")


def damaged_tars():
    whole = write_tar("whole.tar", ("a.png", b"x" * 2000), ("b.png", b"x" * 2000)).read_bytes()
    second = 512 + 2048
    negative = bytearray(whole)
    negative[second + 124 : second + 136] = b"\xff" * 12
    garbage = whole[:second] + b"garbage!" * 64 + whole[second + 512 :]
    return {
        "cut": whole[: second + 1000],
        "cut header": whole[: second + 100],
        "cut between files": whole[:second],
        "two in one": whole + whole,
        "garbage": garbage,
        "negative": bytes(negative),
        "text": b"no tar file at all" * 100,
        "empty": b"",
        "gzip": gzip.compress(whole),
    }


DAMAGES = ["cut", "cut header", "cut between files", "two in one", "garbage", "negative", "text"]


@pytest.mark.parametrize("damage", [*DAMAGES, "empty", "gzip"])
def test_a_damaged_shard_is_refused_in_one_line(damage):
    Path("x.tar").write_bytes(damaged_tars()[damage])
    told = refusal(lambda: read("x.tar"))
    assert "x.tar is no tar file, damaged, or compressed" in told or "cannot be read" in told


def test_wrong_places_are_refused_in_one_line(monkeypatch):
    assert "does not exist" in refusal(lambda: read("gone.tar"))
    Path("photos.tar.gz").write_bytes(b"")
    assert "or a .tar file" in refusal(lambda: read("photos.tar.gz"))
    write_tar("a-0.tar", ("a.png", png()))
    assert "a-1.tar cannot be read (it is not there" in refusal(lambda: read("a-{0..1}.tar"))
    assert "names more than" in refusal(lambda: read("a-{0..999999999}.tar"))
    assert "ends in .tar" in refusal(lambda: survey(Path("memory://somewhere")))
    assert "nowhere://x.tar cannot be read" in refusal(lambda: survey(Path("nowhere://x.tar")))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    told = refusal(lambda: survey(Path("s3://bucket/x.tar")))
    assert told == "s3://bucket/x.tar: addresses need a package: pip install fsspec"


def test_a_shard_that_goes_away_is_no_damaged_image():
    write_tar("x.tar", *((f"{n:02d}.png", png(n % 4, n)) for n in range(8)))
    paths = find_images(Path("x.tar").absolute())
    streamed = StreamedImages(paths, 16, 3, CPU)
    Path("x.tar").unlink()
    told = refusal(lambda: list(streamed.batches([torch.arange(8)])))
    assert "x.tar/00.png was readable when" in told and "it is not there" in told
    assert "x.tar cannot be read (it is not there" in refusal(lambda: read("x.tar"))


def test_where_files_lie_is_read_once(monkeypatch):
    write_tar("x.tar", *((f"{n}.png", png(0, n)) for n in range(3)))
    before = read("x.tar")
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_indexes", {})
        patch.setattr(tarfile, "open", None)
        assert read("x.tar").names == before.names
    (kept,) = Path("ckp/.shards").iterdir()
    kept.write_text("{}")
    tars._indexes.clear()
    assert read("x.tar").names == before.names
    write_tar("x.tar", *((f"{n}.png", png(1, n)) for n in range(3)))
    os.utime("x.tar", ns=(0, 0))
    after = read("x.tar")
    assert after.key != before.key and not torch.equal(after.images, before.images)


# --- addresses -----------------------------------------------------------------------------------


def test_a_folder_whose_name_begins_like_a_home_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(Path("~nobody's photos")) == tmp_path / "~nobody's photos"
    assert located(Path("~")) == Path.home()


def test_a_link_to_itself_is_a_place_that_is_not_there(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert not located(tmp_path / "loop").exists()


@pytest.fixture
def remote(odd_folder):
    """Shards in fsspec's file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in write_shards(odd_folder, "out", 5):
        memory.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    yield memory
    memory.rm("/bucket", recursive=True)


def test_an_address_is_read_through_fsspec(remote, odd_folder):
    tars._remote_version.cache_clear()
    there = read(odd_folder)
    root = Path("memory://bucket/odd-{000000..000002}.tar")
    here = read_folder(root, "train", 16, 3)
    assert torch.equal(here.images, there.images)
    assert here.names == [f"odd-00000{row // 5}.tar/{name}" for row, name in enumerate(there.names)]
    assert as_text(root / here.names[0]) == f"memory://bucket/{here.names[0]}"
    one = read_folder(Path("memory://bucket/odd-000001.tar"), "train", 16, 3)
    assert one.names == there.names[5:10] and torch.equal(one.images, there.images[5:10])
    streamed = StreamedImages([root / name for name in here.names], 16, 3, CPU)
    ((_, pixels),) = streamed.batches([torch.tensor([11, 0, 6])])
    assert torch.equal(pixels, there.images[[11, 0, 6]])


def test_an_address_that_fails_is_asked_again(remote, monkeypatch):
    tars._remote_version.cache_clear()
    monkeypatch.setattr(tars, "PAUSES", (0.0, 0.0))
    real, failures = type(remote).cat_file, iter(["once", "twice"])

    def cat_file(self, *arguments, **options):
        if next(failures, None):
            raise ConnectionError("reset")
        return real(self, *arguments, **options)

    monkeypatch.setattr(type(remote), "cat_file", cat_file)
    address = Path("memory://bucket/odd-000000.tar")
    assert read_folder(address, "train", 16, 3).images.shape[0] == 5
    failures = iter(["again"] * 99)
    told = refusal(lambda: read_folder(address, "train", 16, 3))
    assert told == "memory://bucket/odd-000000.tar cannot be read (reset)"


@pytest.mark.parametrize(
    ("typed", "text", "name"),
    [
        ("s3://bucket/a/photos.tar", "s3://bucket/a/photos.tar", "photos"),
        ("gs://b/photos-{000..099}.tar", "gs://b/photos-{000..099}.tar", "photos"),
        ("file:///tmp/photos.tar", "file:///tmp/photos.tar", "photos"),
        ("photos-{000..099}.tar/photos-003.tar/x.png", "photos-003.tar/x.png", "x.png"),
        ("{0..9}.tar", "{0..9}.tar", "{0..9}"),
        ("photos", "photos", "photos"),
    ],
)
def test_places_are_named_as_a_person_names_them(typed, text, name):
    assert as_text(Path(typed)) == text
    assert short_name(Path(typed)) == name


def test_an_address_is_taken_as_it_is(monkeypatch, remote):
    tars._remote_version.cache_clear()
    address = "memory://bucket/odd-{000000..000002}.tar"
    monkeypatch.setattr(sys, "argv", ["simclr.py", "--data", address])
    config, _ = parse(SimCLRConfig, "simclr", None)
    assert config.run == "odd" and as_text(config.data) == address


# --- training ------------------------------------------------------------------------------------


def test_two_processes_see_each_image_once_an_epoch(photo_folder):
    write_shards(photo_folder, "out", 15)
    paths, there = find_images(Path("out")), read(photo_folder)
    order = shuffled_batches(40, 16, torch.Generator().manual_seed(0))
    seen, pixels = [], []
    for rank in range(2):
        world = World(rank, 2)
        streamed = StreamedImages(paths, 16, 3, CPU, world=world)
        for indices, images in streamed.batches(order):
            seen.append(world.own(indices))
            pixels.append(images)
    rows = torch.cat(seen)
    assert rows.sort().values.tolist() == list(range(40))
    assert torch.equal(torch.cat(pixels), there.images[rows])


@pytest.mark.skipif(not HAS_COPIES, reason="needs a fork server")
def test_shards_train_the_folders_weights_also_after_an_interruption(
    run_script, photo_folder, tmp_path
):
    write_shards(photo_folder, "out", 15)
    options = ("--width", "4", *TINY, "--epochs", "4", "--checkpoint-seconds", "0")
    run_script("simclr.py", "--data", photo_folder, "--run", "folder", *options)
    shards_run = ("--data", "out", "--run", "shards", "--loading", "streamed", *options)
    first = Copy([str(PROJECT / "simclr.py"), *shards_run], tmp_path)
    while not Path("ckp/shards/simclr.partial.pt").exists():
        assert first.process.is_alive()
        time.sleep(0.01)
    first.process.kill()
    first.process.join()
    assert "continuing after epoch" in run_script("simclr.py", *shards_run).stdout
    one, two = (load_checkpoint(Path(f"ckp/{run}/pretext.pt")) for run in ("folder", "shards"))
    assert all(torch.equal(two["weights"][name], one["weights"][name]) for name in one["weights"])


def test_a_run_predicts_and_shows_images_in_shards(run_script, finished_run, base_run, tmp_path):
    (shard,) = write_shards(base_run / "photos", "out")
    run_script("predict.py", "--run", "mine", base_run / "photos", "--out", "there")
    run_script("predict.py", "--run", "mine", shard, "--out", "here", "--review", "3")
    there, here = predictions("there"), predictions("here")
    assert [row["path"] for row in here] == [f"{shard}/{n:02d}.png" for n in range(40)]
    assert [row | {"path": ""} for row in here] == [row | {"path": ""} for row in there]
    assert "data:image/jpeg" in Path("here/review.html").read_text()
    told = run_script("predict.py", "--run", "mine", shard, "--sort", "copy", status=2).stderr
    assert (
        told
        == "predict.py: --sort copy: images in shards are no files: unpack the shards (tar -xf)\n"
    )
    moved = run_script("extract_features.py", "--run", "mine", "--data", shard, "--neighbors", "5")
    assert "its images are in" in moved.stdout  # the same names and sizes
    names = [f"{n:02d}.png" for n in range(40)]
    served = ServedImages(names, shard, None)
    original, kind = served.original(3)
    assert kind == "image/png"
    assert original.open("rb").read() == (base_run / "photos/03.png").read_bytes()
    assert served.thumbnail(3).startswith(b"\xff\xd8")


# --- the writer ----------------------------------------------------------------------------------


def test_webdataset_reads_each_image_as_a_sample(odd_folder):
    wds = pytest.importorskip("webdataset")
    paths = write_shards(odd_folder, "out", 5)
    samples = list(wds.WebDataset([str(path) for path in paths], shardshuffle=False))
    contents = [
        [value for key, value in sample.items() if not key.startswith("__")] for sample in samples
    ]
    expected = [path.read_bytes() for path in find_images(odd_folder)]
    assert contents == [[content] for content in expected]
    assert len({sample["__key__"] for sample in samples[:5]}) == 5


def test_a_writer_that_was_killed_goes_on_and_nothing_is_overwritten(photo_folder, capsys):
    paths = write_shards(photo_folder, "out", 15)
    before = {path: path.read_bytes() for path in paths}
    paths[1].unlink()
    shutil.copy(paths[0], f"out/.{paths[1].stem}.999999999.tar")
    times = paths[0].stat().st_mtime_ns
    capsys.readouterr()
    assert write_shards(photo_folder, "out", 15) == paths
    assert "40 images in 3 shards, 1 of them written now" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in paths} == before
    assert paths[0].stat().st_mtime_ns == times
    told = refusal(lambda: write_shards(photo_folder, "out", 10))
    assert "photos-000003.tar" not in told and "choose another folder" in told
    told = refusal(lambda: write_shards(photo_folder, "out", 20))
    assert "photos-000002.tar: is another shard" in told
    assert {path: path.read_bytes() for path in paths} == before
    assert "folder of images itself" in refusal(lambda: write_shards("photos", "photos"))
    assert "in shards already" in refusal(lambda: write_shards("out", "other"))
    assert "does not exist" in refusal(lambda: write_shards("gone", "other"))
    Path("nothing").mkdir()
    assert "no image file" in refusal(lambda: write_shards("nothing", "other"))
    assert not Path("other").exists()


def test_a_full_disk_is_told_before_anything_is_written(photo_folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    assert "0 MB are free" in refusal(lambda: write_shards(photo_folder, "out"))
    assert not Path("out").exists()


def test_half_a_shard_has_no_name(photo_folder, monkeypatch):
    monkeypatch.setattr(
        tarfile.TarFile, "addfile", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with contextlib.suppress(OSError):
        write_shards(photo_folder, "out")
    assert list(Path("out").iterdir()) == []
