"""Nothing in a folder is passed over unsaid: images under any name, other pictures, other files."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from src_py.images.finding import find_images, survey
from src_py.images.kinds import extension_of, starts_like_an_image
from src_py.images.report import count_left_out
from src_py.images.splits import folder_files, split_folder, what_is_left_out
from src_py.scoring.class_labels import load_labels
from tests.conftest import TINY, write_image
from tests.messy import picture

RARER = {
    "jp2": "JPEG2000", "j2k": "JPEG2000", "jpx": "JPEG2000", "jpc": "JPEG2000", "ppm": "PPM",
    "pgm": "PPM", "pbm": "PPM", "pnm": "PPM", "pfm": "PPM", "mpo": "MPO", "apng": "PNG",
    "tga": "TGA", "ico": "ICO", "JPG": "JPEG",
}  # fmt: skip


def save(path: Path, form: str | None = None, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    modes = {".pgm": "L", ".pbm": "1", ".pfm": "F"}
    image = picture(number, 32, 32)
    if path.suffix in modes:
        image = image.convert("L").convert(modes[path.suffix])
    image.save(path, form)
    return path


def test_every_kind_that_is_safe_to_read_is_an_image_by_its_extension(tmp_path):
    paths = [save(tmp_path / f"x.{extension}", form) for extension, form in RARER.items()]
    assert find_images(tmp_path) == sorted(paths)
    assert survey(tmp_path).left_out == [] and not survey(tmp_path).others


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF",
                                  "JPEG2000", "PPM", "ICO", "MPO"])  # fmt: skip
def test_an_image_without_an_extension_is_known_by_its_first_bytes(tmp_path, form):
    save(tmp_path / "IMG 1", form)
    save(tmp_path / "2021.05.17", form, 1)
    assert starts_like_an_image(tmp_path / "IMG 1")
    assert [path.name for path in find_images(tmp_path)] == ["2021.05.17", "IMG 1"]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4", b"BM is no bitmap", b"\0" * 64])
def test_other_files_without_an_extension_are_none(tmp_path, content):
    (tmp_path / "LICENSE").write_bytes(content)
    assert survey(tmp_path) == ([], [], Counter({"": 1}))


def test_what_an_extension_is():
    names = {"a.JPG": ".jpg", "a.tar.gz": ".gz", "a.2021": "", "Dr. No": "", "a": "", ".a": ""}
    assert {name: extension_of(name) for name in names} == names


def test_other_pictures_links_and_pipes_are_listed_and_texts_counted(tmp_path):
    save(tmp_path / "photo.png")
    for name in ("a.psd", "b.CR2", "c.svg", "d.mp4"):
        (tmp_path / name).touch()
    for name in ("1.txt", "2.TXT", "3.csv", "Thumbs.db", ".hidden.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    found = survey(tmp_path)
    listed = {path.name: reason for path, reason in found.left_out}
    assert set(listed) == {"a.psd", "b.CR2", "c.svg", "d.mp4", "gone.jpg", "pipe.png"}
    assert found.others == {".txt": 2, ".csv": 1}
    assert "convert it" in listed["b.CR2"] and listed["pipe.png"] == "not a regular file"


def test_a_folder_that_cannot_be_opened_is_listed(tmp_path, monkeypatch):
    save(tmp_path / "open/x.png")
    save(tmp_path / "closed/y.png")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    reason = "the folder cannot be opened (Permission denied)"
    assert survey(tmp_path).left_out == [(tmp_path / "closed", reason)]


def test_one_line_counts_by_kind_and_reason():
    left_out = [("a", "outside of train/ and test/")] * 40 + [("b", ".psd files are not read: x")]
    unreadable = [("c", "empty file"), ("d", "damaged: x"), ("e", "damaged: y")]
    lines = count_left_out(unreadable, left_out, Counter({".txt": 2, "": 1}), Path("skipped.csv"))
    assert lines == [
        "not read: 40 (outside of train/ and test/), 1 (.psd files are not read), 3 unreadable "
        "files skipped, listed in skipped.csv: 2 damaged, 1 empty file",
        "3 files are no pictures, by extension: 2 .txt, 1 without one",
    ]
    assert count_left_out([], [], Counter(), Path("skipped.csv")) == []


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"),
     ("Training", "Validation"), ("train", "valid")],
)  # fmt: skip
def test_splits_are_known_in_any_case_and_by_longer_names(tmp_path, train, test):
    save(tmp_path / train / "cat/1.png")
    save(tmp_path / test / "cat/2.png")
    assert split_folder(tmp_path, "train") == tmp_path / train
    assert split_folder(tmp_path, "test") == tmp_path / test
    assert what_is_left_out(tmp_path) == ([], Counter())
    names = [f"{train}/cat/1.png"]
    labels, classes = load_labels("folder", tmp_path, "train", names)
    assert (labels.tolist(), classes) == ([0], ["cat"])


def test_what_lies_beside_the_splits_is_listed(tmp_path):
    for name in ("train/1.png", "test/2.png", "val/3.png", "car/4.png", "5.png"):
        save(tmp_path / name)
    assert folder_files(tmp_path, "train") == [tmp_path / "train/1.png"]
    listed, _ = what_is_left_out(tmp_path)
    outside = "outside of train/ and test/"
    assert listed == [("5.png", outside), ("car/4.png", outside), ("val/3.png", outside)]


def test_a_train_folder_among_others_is_a_kind_of_its_own(tmp_path):
    save(tmp_path / "Train/1.png")
    save(tmp_path / "car/2.png")
    assert split_folder(tmp_path, "train") == tmp_path
    assert what_is_left_out(tmp_path) == ([], Counter())


# --- a run ---------------------------------------------------------------------------------------


def skipped(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_a_divided_folder_tells_what_it_leaves_out(run_script, class_tree):
    save(class_tree / "car/1.png")
    (class_tree / "train" / "notes.txt").touch()
    first = ("--data", class_tree, "--run", "mine", "--width", "4", *TINY)
    told = run_script("simclr.py", *first).stdout
    assert "images: divided: trained on train/, test/ is kept for scores" in told
    assert "images: not read: 1 (outside of train/ and test/), listed in ckp/mine/skipped" in told
    assert "images: 1 files are no pictures, by extension: 1 .txt" in told
    assert list(skipped(class_tree.parent / "ckp/mine/skipped.csv")) == ["car/1.png"]


def test_an_image_that_has_become_unreadable_is_said_by_the_next_stage(
    run_script, photo_folder, tmp_path
):
    first = ("--data", photo_folder, "--run", "mine", "--width", "4", *TINY)
    run_script("simclr.py", *first)
    (photo_folder / "03.png").write_bytes(b"")
    (photo_folder / "05.png").unlink()
    mining = ("--run", "mine", "--neighbors", "5", "--device", "cpu")
    for _ in range(2):  # the first reads the folder again, the second what the first has kept
        told = run_script("extract_features.py", *mining).stdout
        assert "images: 2 of the train split that were read before cannot be any more" in told
        assert skipped(tmp_path / "ckp/mine/skipped.csv") == {
            "03.png": "empty file",
            "05.png": "gone",
        }
    write_image(photo_folder / "03.png", kind=3, number=3)
    assert "1 of the train split" in run_script("extract_features.py", *mining).stdout


def test_predict_lists_what_it_does_not_open(run_script, photo_folder, tmp_path):
    run_script("simclr.py", "--data", photo_folder, "--run", "mine", "--width", "4", *TINY)
    run_script("extract_features.py", "--run", "mine", "--neighbors", "5", "--device", "cpu")
    run_script("scan.py", "--run", "mine", "--clusters", "2", *TINY)
    new = tmp_path / "new"
    save(new / "one", "JPEG")
    Image.new("RGB", (9, 9)).save(new / "two.tga")
    (new / "three.psd").touch()
    (new / "four.jpg").touch()
    told = run_script("predict.py", "--run", "mine", "--device", "cpu", new, "--out", "out")
    assert "predictions.csv: 2 images" in told.stdout and "2 files not read" in told.stdout
    assert set(skipped(tmp_path / "out/skipped.csv")) == {
        str(new / "three.psd"),
        str(new / "four.jpg"),
    }
