"""What a run keeps: damage, foreign files, kills and full disks are noticed; nothing is lost."""

import contextlib
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_scan import ScanConfig
from configs.config_simclr import SimCLRConfig
from src_py.backbones import BackboneSpec, CompactSpec, ResNet18
from src_py.images.loaders import _without_shortage
from src_py.images.run_images import load_settings, open_mined, read_rows
from src_py.models import ContrastiveModel
from src_py.run import arrays, claim, records
from src_py.run.checkpoints import load_checkpoint, save_checkpoint
from src_py.run.errors import UserError
from src_py.run.files import (
    RunFiles,
    read_record,
    sha256,
    write_atomically,
    write_record,
)
from src_py.run.hardware import choose_hardware
from src_py.run.options import parse
from src_py.run.stored_models import contrastive_content, load_clustering, load_contrastive
from src_py.run.writing import quick_digest, write_array
from tests.conftest import PROJECT, write_image
from tests.made_runs import write_data, write_stage

MINED = "extract_features"
READERS = {
    "pretext.pt": lambda files: files.made(files.output("simclr"), "simclr"),
    "features.npy": arrays.load_features,
    "neighbors.npy": arrays.load_neighbors,
    "views.npy": arrays.load_views,
    "rows.csv": read_rows,
    "scan.pt": lambda files: files.made(files.output("scan"), "scan"),
    "data.json": lambda files: files.settled(),
    "simclr.json": lambda files: files.record("simclr"),
    "extract_features.json": lambda files: files.record(MINED),
    "scan.json": lambda files: files.record("scan"),
}


def make(run, folder, seed=0, **scan):
    """The first three stages on frozen random weights."""
    options = {"run": run, "device": "cpu", "preset": "folder"}
    shown = {"data": folder, "init": "weights.pth"}
    torch.manual_seed(seed)
    torch.save(ResNet18(BackboneSpec(4, 3, small_stem=True)).state_dict(), "weights.pth")
    main_of("simclr")(SimCLRConfig(**options, **shown))
    main_of(MINED)(ExtractFeaturesConfig(**options, neighbors=5, components=8))
    few = {"clusters": 4, "head_epochs": 2, "candidate_heads": 2} | scan
    main_of("scan")(ScanConfig(**options, **few))


def main_of(script):
    return importlib.import_module(script).main


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Two runs on the same 40 images."""
    folder = tmp_path_factory.mktemp("kept")
    for number in range(40):
        write_image(folder / "photos" / f"{number:02d}.png", number % 4, number)
    with contextlib.chdir(folder):
        make("mine", folder / "photos")
        make("other", folder / "photos", seed=1)
    return folder


@pytest.fixture
def files(made_once, tmp_path, monkeypatch):
    """A copy of them, with the times of the images kept."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    settled = files.settled()
    settled["settings"]["root"] = str(tmp_path / "photos")
    write_record(files.data, settled)
    return files


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)


def refusal(act):
    """What the person is told, which is one line."""
    with pytest.raises(UserError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- damage and foreign files --------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_noticed(files, name, monkeypatch):
    monkeypatch.setattr("src_py.run.files.RECORD_PAUSES", (0.0,))
    path = files.checkpoints / name
    before = READERS[name](files)
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 12):
        flip(path, int(place), int(place) % 8)
        try:
            after = READERS[name](files)
        except UserError as error:
            assert name in str(error) and "python " in str(error) and "\n" not in str(error)
        else:  # of a record, the E of 1E-05 may pass, as it says the same
            assert name.endswith(".json") and after == before
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["pretext.pt", "features.npy", "neighbors.npy", "rows.csv"])
def test_a_file_of_another_run_on_the_same_images_is_refused(files, name):
    other = RunFiles("other").checkpoints / name
    if name == "rows.csv":
        other.write_text(other.read_text().replace("00.png", "99.png"))
    shutil.copy(other, files.checkpoints / name)
    told = refusal(lambda: files.inputs("scan") and read_rows(files))
    assert name in told and "of another run" in told


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000],
)
@pytest.mark.parametrize("name", ["data.json", "simclr.json", "scan.json"])
def test_a_foreign_record_is_one_line(files, name, content):
    (files.checkpoints / name).write_bytes(content)
    assert name in refusal(lambda: READERS[name](files))


@pytest.mark.parametrize("name", ["data.json", "selflabel.json"])
def test_a_record_that_is_a_link_which_leads_nowhere_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.symlink_to("nowhere")
    with pytest.raises(UserError, match=rf"{name} is damaged \(not a file\); mend it"):
        read_record(path, records.BEGUN, "mend it")


def test_a_record_of_another_stage_is_refused(files):
    for name in ("scan.json", "data.json"):
        shutil.copy(files.config("simclr"), files.checkpoints / name)
        refusal(lambda name=name: READERS[name](files) and files.inputs("selflabel"))


def test_a_run_without_checksums_is_told_to_begin_again(files):
    content = json.loads(files.data.read_text())
    del content["checksum"]
    files.data.write_text(json.dumps(content))
    assert "earlier version" in refusal(files.settled)


def test_an_array_is_not_read_before_its_header_is_believed(tmp_path):
    path = tmp_path / "features.npy"
    np.save(path, np.zeros((4, 3), np.float32))
    whole = path.read_bytes()
    for shape in ("(100000000000000, 3)", "(4, 300)", "(-4, 3)", "(4,)", "(4, 3.0)"):
        header = whole.replace(b"(4, 3), ", shape.encode() + b", ")
        path.write_bytes(header.replace(b" " * (len(header) - len(whole)) + b"\n", b"\n", 1))
        assert "features.npy is damaged" in refusal(lambda: arrays.load_array(path, "f", 2))
    for content in (b"", whole[:50], whole[:-1], whole + b"x", b"\x93NUMPY\x09\x00" + whole[8:]):
        path.write_bytes(content)
        refusal(lambda: arrays.load_array(path, "f", 2))
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    refusal(lambda: arrays.load_array(path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clusters", 10**9), ("heads", -1), ("components", 10**12), ("clusters", "4"),
        ("data", {}), ("temperature", None), ("weights", {}), ("weights", []), ("backbone", 3),
    ],
)  # fmt: skip
def test_a_checkpoint_that_asks_for_another_network_is_one_line(files, tmp_path, name, value):
    content = load_checkpoint(files.output("scan"))
    save_checkpoint(tmp_path / "scan.pt", content | {name: value})
    assert "scan.pt" in refusal(lambda: load_clustering(tmp_path / "scan.pt"))


@pytest.mark.parametrize(
    "change", [{"width": 10**9}, {"blocks": (2, 2, 2, 10**5)}, {"channels": -1}, {"depth": 1}]
)
def test_a_changed_size_of_the_network_is_one_line(files, tmp_path, change):
    content = load_checkpoint(files.output("simclr"))
    content["backbone"] |= change
    save_checkpoint(tmp_path / "pretext.pt", content)
    assert "pretext.pt" in refusal(lambda: load_contrastive(tmp_path / "pretext.pt"))


def test_a_changed_number_of_compact_blocks_is_one_line(tmp_path):
    content = contrastive_content(ContrastiveModel(CompactSpec(4, 3)))
    save_checkpoint(tmp_path / "pretext.pt", content)
    assert load_contrastive(tmp_path / "pretext.pt").backbone.spec == CompactSpec(4, 3)
    content["backbone"]["blocks"] = 10**5
    save_checkpoint(tmp_path / "pretext.pt", content)
    assert "100000 blocks" in refusal(lambda: load_contrastive(tmp_path / "pretext.pt"))


def test_images_that_were_exchanged_after_the_mining_are_noticed(files, tmp_path, capsys):
    hardware, settings = choose_hardware("cpu"), load_settings(files)
    expected = open_mined(files, settings, hardware).loader.images
    first, second = (tmp_path / "photos" / name for name in ("00.png", "01.png"))
    between = tmp_path / "between.png"
    for source, target in ((first, between), (second, first), (between, second)):
        source.rename(target)
    assert "other pixels" in refusal(lambda: open_mined(files, settings, hardware))
    for source, target in ((first, between), (second, first), (between, second)):
        source.rename(target)
    for path in (tmp_path / "photos").iterdir():  # a copy has other times, and the same pixels
        os.utime(path, (0, 0))
    assert torch.equal(open_mined(files, settings, hardware).loader.images, expected)
    for part in (".npy", "-facts.npy", "-names.npy", ".json"):
        name = f"images-train{part}"
        flip(files.checkpoints / name, -100, bit=1)
        capsys.readouterr()
        assert torch.equal(open_mined(files, settings, hardware).loader.images, expected)
        assert "decoded again" in capsys.readouterr().out


# --- nothing that stood is lost before the new stands --------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL."""


def kill_at(monkeypatch, name, call):
    """Lets the call number `call` of os.replace or Path.unlink be the last thing that is not
    done."""
    calls = iter(range(10**6))
    target = {"replace": os, "unlink": Path}[name]
    real = getattr(target, name)

    def killed(*arguments, **options):
        if next(calls) == call:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(target, name, killed)


def contents(files, names):
    return {name: (files.checkpoints / name).read_bytes() for name in names}


@pytest.mark.parametrize("call", range(7))
def test_a_switch_that_is_killed_is_ended(tmp_path, monkeypatch, call):
    """Anywhere: what is found then is all old, or all new."""
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    write_data(files)
    scan, record = files.output("scan"), files.config("scan")
    scan.write_bytes(b"old")
    write_stage(files, "scan")
    labels = files.checkpoints / "labels.json"
    labels.write_text("old names")
    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        kill_at(patched, "replace", call)
        claim.new(scan).write_bytes(b"new")
        outputs = {scan.name: sha256(claim.new(scan))}
        write_record(claim.new(record), files.record("scan") | {"outputs": outputs})
        moves = [(claim.new(path).name, path.name) for path in (scan, record)]
        claim.switch(files, [("labels.json", "labels.old.json"), *moves])
    claim.settle(files)
    told = files.made(scan, "scan").read_bytes()
    assert told == (b"old" if labels.exists() else b"new")
    assert labels.exists() or (files.checkpoints / "labels.old.json").read_text() == "old names"


def test_what_waits_for_a_switch_that_cannot_be_ended_is_not_cleared(files, monkeypatch):
    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        kill_at(patched, "replace", 1)  # the first is of the plan itself
        claim.new(files.output("scan")).write_bytes(b"new")
        claim.switch(files, [(claim.new(files.output("scan")).name, files.output("scan").name)])
    with monkeypatch.context() as patched, pytest.raises(UserError, match="cannot be put"):
        patched.setattr(claim, "_complete", lambda _: os.stat("nowhere"))  # as Windows refuses
        claim.claim(files)
    claim.release()
    claim.claim(files)
    assert files.output("scan").read_bytes() == b"new"


def test_a_restart_that_is_killed_leaves_a_run_that_goes_on(files, tmp_path):
    """Other images and other sizes: until the new network stands, all is about the old one."""
    for number in range(40):
        write_image(tmp_path / "others" / f"{number:02d}.png", number % 4, number + 50, size=20)
    before = contents(files, READERS)
    script = "import torch, sys; sys.argv[0] = 'simclr.py'; import src_py.run.stage_files as kept\n"
    script += "import os; kept.switch = lambda *_: os._exit(9)\n"
    script += "import runpy; runpy.run_path(sys.argv.pop(), run_name='__main__')\n"
    arguments = ["--run", "mine", "--data", "others", "--init", "weights.pth", "--restart"]
    command = [sys.executable, "-c", script, *arguments, str(PROJECT / "simclr.py")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PROJECT)})
    assert done.returncode == 9
    assert contents(files, READERS) == before
    assert files.settled("simclr")["settings"]["root"] == str(tmp_path / "others")
    options = {"run": "mine", "device": "cpu", "preset": "folder"}
    main_of(MINED)(ExtractFeaturesConfig(**options, neighbors=5, components=8))
    assert len(files.inputs("scan")) == 4  # with the views
    assert files.settled()["settings"]["root"] == str(tmp_path / "photos")


# --- a moved folder ------------------------------------------------------------------------------


def configured(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    return parse(ScanConfig, script, None)[0]


def test_a_moved_folder_is_recognised_and_remembered(files, tmp_path, monkeypatch):
    (tmp_path / "photos").rename(tmp_path / "moved")
    arguments = ("--run", "mine", "--data", "moved")
    config = configured(monkeypatch, "scan", *arguments)
    assert config.data == tmp_path / "moved"
    assert files.settled()["settings"]["root"] == str(tmp_path / "photos")  # nothing is written yet
    main_of("scan")(config)
    assert files.settled()["settings"]["root"] == str(tmp_path / "moved")
    assert configured(monkeypatch, "scan", "--run", "mine").data == tmp_path / "moved"


def test_another_folder_is_refused_with_what_differs(files, tmp_path, monkeypatch):
    shutil.copytree(tmp_path / "photos", tmp_path / "less")
    (tmp_path / "less" / "07.png").unlink()
    arguments = ("--run", "mine", "--data", "less")
    told = refusal(lambda: configured(monkeypatch, "scan", *arguments))
    assert "was begun with the images in" in told and "39 image files are not those 40" in told


# --- one at a time, full disks, no permission ----------------------------------------------------


def held_by_another(files):
    """A process that has claimed a run, and says so."""
    script = (
        "import sys, time; from src_py.run.claim import claim; from src_py.run.files import "
        "RunFiles; claim(RunFiles('mine')); print('claimed', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "claimed\n"
    return process


def test_a_second_stage_of_a_run_is_refused_until_the_first_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    write_data(files)
    first = held_by_another(files)
    try:
        assert "another stage of it is at work" in refusal(lambda: claim.claim(files))
        claim.claim(RunFiles("other"), begins_run=True)
    finally:
        first.kill()
        first.wait()
    half = files.checkpoints / f".scan.{first.pid}.pt"
    mine = files.checkpoints / f".labels.{os.getpid()}.json"
    for path in (half, mine, claim.new(files.output("scan"))):
        path.write_bytes(b"half")
    claim.claim(files)
    assert mine.exists() and not half.exists() and not claim.new(files.output("scan")).exists()


def test_a_first_stage_that_fails_early_leaves_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim.release()
    claim.claim(RunFiles("mine"), begins_run=True)
    claim.claim(RunFiles("absent"))  # which is left to those who look for its files
    assert Path("ckp", "mine").exists() and not Path("ckp", "absent").exists()
    claim.release()
    assert not Path("ckp", "mine").exists() and not Path("logs", "mine").exists()


def test_what_is_said_of_clusters_waits_for_a_switch(files, monkeypatch):
    """And is not lost by two commands at once."""
    monkeypatch.setattr(claim, "LONGEST_SWITCH", 0.05)
    with claim.editing(files), pytest.raises(OSError), claim.editing(files):
        pass
    with claim.editing(files):
        pass


@pytest.mark.parametrize("write", ["checkpoint", "array", "record"])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, write):
    path = tmp_path / {"checkpoint": "scan.pt", "array": "features.npy", "record": "a.json"}[write]
    path.write_bytes(b"old")
    resource = pytest.importorskip("resource")  # not on Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writers = {
        "checkpoint": lambda: save_checkpoint(path, {"weights": torch.zeros(10**5)}),
        "array": lambda: write_array(path, np.zeros(10**5)),
        "record": lambda: write_record(path, {"text": "x" * 10**5}),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=path.name) as error:
            writers[write]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value) and path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    write_data(files)
    Path("logs").write_text("a file in its place")
    assert "cannot write in" in refusal(lambda: claim.claim(files))
    Path("logs").unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    files.output("simclr").write_bytes(b"x" * 1000)
    assert "free some space" in refusal(lambda: claim.claim(files))


def test_an_error_without_a_name_gets_that_of_the_file(tmp_path):
    def write(_):
        raise OSError("1000 requested and 5 written")

    with pytest.raises(OSError, match=r"1000 requested.*scan\.pt") as error:
        write_atomically(tmp_path / "scan.pt", write)
    assert error.value.errno == errno.EIO


def test_quick_digests_tell_every_single_bit():
    array = np.random.default_rng(0).integers(0, 256, (3, 5000), np.uint8)
    told = quick_digest(array)
    for place in range(0, array.size, 97):
        array.flat[place] ^= 1 << place % 8
        assert quick_digest(array) != told
        array.flat[place] ^= 1 << place % 8
    assert quick_digest(array) == told


def test_records_know_their_own_shape():
    sealed = records.sealed({"moves": [["a", "b"]], "removed": []})
    text = json.dumps(sealed).encode()
    assert records.opened(text, records.SWITCH) == {"moves": [["a", "b"]], "removed": []}
    for wrong in ({"moves": [["a", 1]], "removed": []}, {"moves": []}, {"x": 1}):
        with pytest.raises(records.Damaged):
            records.opened(json.dumps(records.sealed(wrong)).encode(), records.SWITCH)


def test_a_checkpoint_that_torch_cannot_write_tells_why(tmp_path, monkeypatch):
    """Whatever torch makes of a write that fails in the middle of it."""
    path = tmp_path / "scan.pt"
    real, calls = Path.open, iter(range(100))

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            if next(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

        def flush(self):
            self.file.flush()

    monkeypatch.setattr(Path, "open", lambda self, mode: Full(real(self, mode)))
    with pytest.raises(OSError, match=r"No space left on device.*scan\.pt"):
        save_checkpoint(path, {"weights": torch.zeros(1000)})
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_cannot_be_kept_is_told(run_script, files):
    shutil.rmtree(files.logs)
    files.logs.write_text("a file in its place")
    told = run_script("evaluate.py", "--run", "mine", "--device", "cpu").stdout
    assert "4 clusters" in told and "not kept: " in told and "evaluation.json" in told


def test_shared_memory_that_is_too_small_is_one_line():
    def failing():
        yield torch.zeros(1)
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space")

    batches = _without_shortage(failing())
    assert next(batches) == 0
    assert "--shm-size" in refusal(lambda: next(batches))
