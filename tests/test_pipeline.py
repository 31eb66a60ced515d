"""The scripts as a person runs them, on tiny sets."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from src_py.run.checkpoints import load_checkpoint
from tests.conftest import TINY, write_image

PRETEXT = ("--width", "4", *TINY)
SCAN = ("--head-epochs", "2", "--candidate-heads", "3", "--heads", "2", *TINY)


def four_stages(run_script, first, run, clusters=4):
    run_script("simclr.py", *first, "--run", run, *PRETEXT)
    run_script("extract_features.py", "--run", run, "--neighbors", "5", "--device", "cpu")
    run_script("scan.py", "--run", run, "--clusters", clusters, *SCAN)
    run_script("selflabel.py", "--run", run, "--threshold", "0.3", *TINY)


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_photos_becomes_predictions(run_script, photo_folder, tmp_path):
    (photo_folder / "broken.jpg").write_text("not an image")
    first = run_script("simclr.py", "--data", photo_folder, "--run", "mine", *PRETEXT)
    assert "40 of 16 x 16 px" in first.stdout
    assert "1 unreadable files skipped" in first.stdout
    assert first.stderr == ""  # quiet when the output is not a terminal
    four_stages(run_script, ["--data", photo_folder], "mine", clusters=3)

    checkpoints, logs = tmp_path / "ckp" / "mine", tmp_path / "logs" / "mine"
    assert np.load(checkpoints / "features.npy").shape == (40, 32)
    neighbors = np.load(checkpoints / "neighbors.npy")
    assert neighbors.shape == (40, 5) and neighbors.dtype.kind == "i"
    assert not (neighbors == np.arange(40)[:, None]).any()
    for stage in ("simclr", "scan", "selflabel"):
        assert [row["epoch"] for row in read_csv(logs / f"{stage}.csv")] == ["1", "2"]
    assert load_checkpoint(checkpoints / "selflabel.pt")["clusters"] == 3

    run_script("predict.py", "--run", "mine", photo_folder, "--out", "out", "--gallery")
    assert "00.png" in (tmp_path / "out" / "gallery.html").read_text(encoding="utf-8")
    run_script("predict.py", "--run", "mine", "--gallery", "--out", "trained")
    assert (tmp_path / "trained" / "gallery.html").exists()
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert list(rows[0]) == ["path", "cluster", "name", "confidence"]
    assert [row["path"] for row in rows] == [str(photo_folder / f"{n:02d}.png") for n in range(40)]
    assert all(int(row["cluster"]) in range(3) for row in rows)
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in rows)
    (skipped,) = read_csv(tmp_path / "out" / "skipped.csv")
    assert skipped["path"] == str(photo_folder / "broken.jpg") and skipped["reason"]

    told = run_script("evaluate.py", "--run", "mine").stdout
    assert "no labels" in told and "clusters alive" in told
    evaluation = json.loads((logs / "evaluation.json").read_text())
    assert evaluation["clusters"] == 3 and "mapping" not in evaluation
    Image.open(logs / "contact_sheet.png").verify()


def test_a_class_tree_is_scored_on_both_splits(run_script, class_tree, tmp_path):
    four_stages(run_script, ["--data", class_tree], "tree")
    table = run_script("evaluate.py", "--run", "tree", "--pixels").stdout
    evaluation = json.loads((tmp_path / "logs" / "tree" / "evaluation.json").read_text())
    assert evaluation["clusters"] == 4 and evaluation["mapping"] == "hungarian"
    for split in ("train", "test"):
        for row in ("kmeans", "kmeans_pixels", "scan", "selflabel"):
            scores = evaluation[split][row]
            assert {"acc", "nmi", "ari"} <= scores.keys()
            assert 0 <= scores["acc"] <= 1
            assert row in table
    assert (tmp_path / "logs" / "tree" / "confusion.png").exists()

    run_script("label.py", "--run", "tree", "--name", "0=cat")
    again = run_script("scan.py", "--run", "tree", "--clusters", "6", "--restart", *SCAN)
    assert "scan.pt written" in again.stdout and "labels.old.json now" in again.stdout
    run_script("evaluate.py", "--run", "tree")
    evaluation = json.loads((tmp_path / "logs" / "tree" / "evaluation.json").read_text())
    assert evaluation["clusters"] == 6 and evaluation["mapping"] == "majority"
    run_script("label.py", "--run", "tree", "--merge", "0,1")
    told = run_script("label.py", "--run", "tree", "--merge-to", "4").stdout
    assert len(told.split("name\n")[1].splitlines()) == 5  # four groups, and what was written
    assert run_script("label.py", "--run", "tree", "--merge-to", "4").stdout == told
    said = run_script("label.py", "--run", "tree", "--merge-to", "5", status=2).stderr
    assert "there are 4 clusters" in said
    assert "merged clusters count as one" in run_script("evaluate.py", "--run", "tree").stdout
    evaluation = json.loads((tmp_path / "logs" / "tree" / "evaluation.json").read_text())
    assert evaluation["clusters"] == 4 and evaluation["mapping"] == "hungarian"
    # The old selflabel.pt is of another classifier: it is neither scored nor used.
    assert set(evaluation["test"]) == {"kmeans", "scan"}
    told = run_script("predict.py", "--run", "tree", class_tree / "test", "--out", "out").stdout
    assert "scan.pt" in told and "selflabel.py has not been run" in told

    run_script("simclr.py", "--run", "tree", "--restart", *PRETEXT)
    told = run_script("scan.py", "--run", "tree", status=2).stderr
    assert "python extract_features.py --run tree" in told


def test_training_with_and_without_labels_gives_the_same_weights(run_script, tmp_path):
    """The tree's class folders against the same files without them, in the same order."""
    for number in range(40):
        kind = number // 10
        name = f"{'abcd'[kind]}{number:02d}.png"
        write_image(tmp_path / "labelled" / "train" / "abcd"[kind] / name, kind, number)
        write_image(tmp_path / "labelled" / "test" / "abcd"[kind] / name, kind, number + 100)
        write_image(tmp_path / "plain" / name, kind, number)
    for run in ("labelled", "plain"):
        four_stages(run_script, ["--data", tmp_path / run], run)
    for name in ("pretext.pt", "scan.pt", "selflabel.pt"):
        first, second = (
            load_checkpoint(tmp_path / "ckp" / run / name)["weights"]
            for run in ("labelled", "plain")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_streamed_and_resident_images_give_the_same_weights(run_script, photo_folder, tmp_path):
    (photo_folder / "broken.jpg").write_text("not an image")
    for loading in ("resident", "streamed"):
        first = ["--data", photo_folder, "--run", loading, "--loading", loading]
        told = run_script("simclr.py", *first, *PRETEXT).stdout
        assert f"train split {loading}" in told and "1 unreadable files skipped" in told
        mining = ["--run", loading, "--loading", loading]
        # Neighbors of the projections; the heads are still trained on the backbone's features.
        run_script("extract_features.py", *mining, "--neighbors", "5", "--features", "projection")
        run_script("scan.py", *mining, *SCAN)  # 16 a batch: several batches an epoch
    for name in ("pretext.pt", "scan.pt"):
        resident, streamed = (
            load_checkpoint(tmp_path / "ckp" / run / name)["weights"]
            for run in ("resident", "streamed")
        )
        assert all(torch.equal(resident[key], streamed[key]) for key in resident), name
    assert not (tmp_path / "ckp" / "streamed" / "images-train.npy").exists()


def test_digits_train_without_their_labels(run_script, tmp_path):
    """scikit-learn's digits with every label replaced by nonsense: not one weight differs."""
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "sitecustomize.py").write_text(
        "import sklearn.datasets as d\n"
        "load = d.load_digits\n"
        "def without_labels(**options):\n"
        "    bunch = load(**options)\n"
        "    bunch.target = bunch.target_names = None\n"
        "    return bunch\n"
        "d.load_digits = without_labels\n"
    )
    few = ("--width", "4", "--epochs", "1", "--device", "cpu")
    run_script("simclr.py", "--run", "with", *few)
    run_script("simclr.py", "--run", "without", *few, environment=poison)
    first, second = (
        load_checkpoint(tmp_path / "ckp" / run / "pretext.pt")["weights"]
        for run in ("with", "without")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("script", ["extract_features", "scan", "selflabel", "evaluate", "predict"])
def test_a_run_that_does_not_exist_names_the_first_command(run_script, script):
    arguments = ["."] if script == "predict" else []
    told = run_script(f"{script}.py", "--run", "nothing_here", *arguments, status=2)
    (line,) = told.stderr.strip().splitlines()
    assert "nothing_here" in line
    assert "python simclr.py --run nothing_here" in line


def test_every_missing_stage_is_named(run_script, finished_run, tmp_path):
    run = tmp_path / "ckp" / "mine"
    for missing, script, command in (
        ("scan.pt", "selflabel.py", "scan.py"),
        ("neighbors.npy", "scan.py", "extract_features.py"),
        ("pretext.pt", "extract_features.py", "simclr.py"),
    ):
        shutil.move(run / missing, run / f"{missing}.away")
        told = run_script(script, "--run", "mine", status=2)
        (line,) = told.stderr.strip().splitlines()
        assert missing in line and f"python {command} --run mine" in line


def test_images_that_changed_since_the_mining_are_noticed(run_script, photo_folder):
    run_script("simclr.py", "--data", photo_folder, "--run", "mine", *PRETEXT)
    run_script("extract_features.py", "--run", "mine", "--neighbors", "5")
    write_image(photo_folder / "new.png", 0, 99)
    told = run_script("scan.py", "--run", "mine", *SCAN, status=2)
    (line,) = told.stderr.strip().splitlines()
    assert "40 then, 41 now" in line and "python extract_features.py --run mine" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "absent"], ["absent", "does not exist"]),
        (["--data", "empty"], ["no image file", "empty"]),
        (["--data", "few"], ["few", "3 readable images", "32"]),
        (["--preset", "folder"], ["--data"]),
        (["--epoch", "2"], ["--epochs"]),
        (["--tensorboard"], ["tensorboard"]),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run_script, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    for number in range(3):
        write_image(tmp_path / "few" / f"{number}.png", 0, number)
    told = run_script("simclr.py", *arguments, status=2)
    (line,) = told.stderr.strip().splitlines()
    assert all(word in line for word in words), line
    assert not list(tmp_path.glob("ckp/*/*.pt"))


def test_predict_refuses_what_it_cannot_classify(run_script, finished_run, tmp_path):
    assert "no image" in run_script("predict.py", status=2).stderr
    told = run_script("predict.py", "--run", "mine", tmp_path / "absent.png", status=2).stderr
    assert "absent.png does not exist" in told
    (tmp_path / "text.png").write_text("no")
    assert not (tmp_path / "out").exists()
    told = run_script("predict.py", "--run", "mine", tmp_path / "text.png", status=2).stderr
    assert "text.png: none of the 1 files can be read (the first" in told
    assert "not an image" in told and told.endswith("all are listed in out/skipped.csv\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["skipped.csv"]


def test_a_folder_without_a_readable_image_is_told_in_one_line(run_script, tmp_path):
    (tmp_path / "broken").mkdir()
    for name in ("1.png", "2.jpg"):
        (tmp_path / "broken" / name).write_bytes(b"")
    told = run_script("simclr.py", "--data", "broken", "--run", "mine", status=2).stderr
    assert told == (
        f"simclr.py: {tmp_path / 'broken'}: none of the 2 files can be read (the first, 1.png: "
        "empty file); all are listed in ckp/mine/skipped.csv\n"
    )
    rows = read_csv(tmp_path / "ckp" / "mine" / "skipped.csv")
    assert [row["path"] for row in rows] == ["1.png", "2.jpg"]


def test_a_first_stage_that_fails_leaves_the_run_as_it_was(run_script, photo_folder, tmp_path):
    run = ("--data", photo_folder, "--run", "mine", "--width", "4", *TINY)
    run_script("simclr.py", *run)
    before = (tmp_path / "ckp" / "mine" / "data.json").read_bytes()
    again = ("--restart", "--image-size", "8", "--use-unlabelled")
    assert "no unlabelled part" in run_script("simclr.py", *run, *again, status=2).stderr
    assert (tmp_path / "ckp" / "mine" / "data.json").read_bytes() == before
    assert "finished already" in run_script("simclr.py", *run).stdout


def test_a_folder_seen_as_stl10_needs_no_unlabelled_part(run_script, photo_folder):
    run = ("--preset", "stl10", "--data", photo_folder, "--run", "mine", "--image-size", "16")
    told = run_script("simclr.py", *run, "--width", "4", *TINY).stdout
    assert "no unlabelled part is known" in told


def test_what_evaluate_leaves_out_is_told(run_script, photo_folder, tmp_path):
    run_script("simclr.py", "--data", photo_folder, "--run", "mine", "--width", "4", *TINY)
    run_script("extract_features.py", "--run", "mine", "--neighbors", "5", "--device", "cpu")
    told = run_script("evaluate.py", "--run", "mine", "--device", "cpu").stdout
    assert "no classifier yet" in told and "None" not in told
    few = ("--clusters", "4", "--head-epochs", "1", "--candidate-heads", "2", "--heads", "1")
    run_script("scan.py", "--run", "mine", *few, *TINY)
    run_script("extract_features.py", "--run", "mine", "--neighbors", "4", "--device", "cpu")
    told = run_script("evaluate.py", "--run", "mine", "--device", "cpu").stdout
    assert "ckp/mine/scan.pt was made from other files" in told
    assert "python scan.py --run mine" in told
    (tmp_path / "ckp" / "mine" / "rows.csv").unlink()
    (line,) = run_script("predict.py", "--run", "mine", "--gallery", status=2).stderr.splitlines()
    assert "run first: python extract_features.py --run mine" in line
