"""predict.py as a person runs it, with a network that has learned nothing."""

import contextlib
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.config_predict import PredictConfig
from src_py.backbones import BackboneSpec, ResNet18
from src_py.clusters.classifier import choose_classifier
from src_py.clusters.corrections import Corrections
from src_py.clusters.names import ClusterNames
from src_py.images.image_set import DataSettings
from src_py.models import ClusterHeads, ClusteringModel
from src_py.run.checkpoints import save_checkpoint
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, hashes, sha256, write_json
from src_py.run.options import parse
from src_py.run.stored_models import clustering_content
from tests.conftest import PROJECT, write_image
from tests.made_runs import write_data, write_stage

SETTINGS = DataSettings("folder", None, 16, 3, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def predict(run_script, tmp_path):
    """Runs predict.py on a run of three clusters and a folder of twelve images."""
    torch.manual_seed(0)
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True))
    model = ClusteringModel(backbone, ClusterHeads(32, clusters=3, heads=1))
    with contextlib.chdir(tmp_path):
        files = RunFiles("mine")
        write_data(files, {"root": str(tmp_path / "photos")})
        save_checkpoint(files.output("scan"), clustering_content(model, SETTINGS, 0.05))
        write_stage(files, "scan")
    for number in range(12):
        write_image(tmp_path / "photos" / f"{number:02d}.png", number % 4, number)
    return lambda *arguments, **status: run_script(
        "predict.py", "--run", "mine", "photos", "--device", "cpu", *arguments, **status
    )


@pytest.mark.parametrize(
    ("record", "used"),
    [
        ({}, "selflabel"),  # of an earlier version
        ({"kept": "selflabel", "information": {"scan": 1.0, "selflabel": 1.1}}, "selflabel"),
        ({"kept": "selflabel", "information": {"scan": 1.0, "selflabel": 1.0}}, "selflabel"),
        ({"kept": "selflabel", "information": {"scan": 1.0, "selflabel": 0.9}}, "scan"),
        # Then selflabel.pt is scan.py's classifier.
        ({"kept": "scan", "information": {"scan": 1.0, "selflabel": 0.9}}, "selflabel"),
    ],
)
def test_self_labelling_that_made_it_worse_is_not_used(monkeypatch, tmp_path, capsys, record, used):
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    write_data(files)
    for stage in ("scan", "selflabel"):
        files.output(stage).write_bytes(stage.encode())
    write_stage(files, "scan")
    write_stage(files, "selflabel", made_from=hashes([files.output("scan")]), **record)
    assert choose_classifier(files) == files.output(used)
    worse = "ckp/mine/selflabel.pt is worse than ckp/mine/scan.pt by evidence without labels"
    assert (worse in capsys.readouterr().out) == (used == "scan")


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_labels_sorting_review_and_hand_off(predict, tmp_path):
    predict("--out", "plain")
    plain = read_csv(tmp_path / "plain" / "predictions.csv")
    assert {row["name"] for row in plain} <= {"cluster_0", "cluster_1", "cluster_2"}

    labels = {"version": 1, "clusters": 3, "names": {"0": "a/b"}, "merge": [[0, 1, 2]]}
    write_json(tmp_path / "ckp" / "mine" / "labels.json", labels)
    options = ("--out", "out", "--sort", "copy", "--review", "2", "--hand-off")
    told = predict(*options).stdout
    out = tmp_path / "out"
    rows = read_csv(out / "predictions.csv")
    assert [row["path"] for row in rows] == [f"photos/{n:02d}.png" for n in range(12)]
    assert {(row["cluster"], row["name"], row["confidence"]) for row in rows} == {
        ("0", "a/b", "1.0000")
    }
    assert len(list((out / "a_b").iterdir())) == 12
    assert "copy of 12 images, 0 already there, 0 failed" in told
    assert len(read_csv(out / "review.csv")) == 2 and (out / "review.html").exists()
    assert len(json.loads((out / "label_studio.json").read_text())) == 12
    assert '"a/b"' in (out / "label_studio.xml").read_text()
    assert json.loads((out / "fiftyone.json").read_text())["classes"] == ["a/b"]

    assert "copy of 0 images, 12 already there" in predict(*options).stdout


def test_images_are_where_a_person_put_them(predict, tmp_path):
    run = tmp_path / "ckp" / "mine"
    given = {"00.png": 2, "03.png": 3, "gone.png": 0}
    Corrections(4, given).write(run / "corrections.csv")
    classifier = sha256(run / "scan.pt")[:12]
    ClusterNames(4, {3: "mine"}, ((1, 2),), classifier).write(run / "labels.json")
    options = ("--out", "out", "--sort", "copy", "--gallery")
    assert "\n2 of them as ckp/mine/corrections.csv says\n" in predict(*options).stdout
    rows = {Path(row["path"]).name: row for row in read_csv(tmp_path / "out" / "predictions.csv")}
    assert len(rows) == 12
    found = [(rows[name]["cluster"], rows[name]["name"]) for name in ("00.png", "03.png")]
    assert found == [("1", "cluster_1"), ("3", "mine")]  # 2 is one with 1
    assert rows["00.png"]["confidence"] == rows["03.png"]["confidence"] == "1.0000"
    assert [path.name for path in (tmp_path / "out" / "mine").iterdir()] == ["03.png"]
    page = (tmp_path / "out" / "gallery.html").read_text(encoding="utf-8")
    assert page.count('class="card"') == 4 and 'value="mine"' in page


def test_dry_run_then_move_of_images_whose_results_lie_beside_them(predict, tmp_path):
    (tmp_path / "photos" / "bad.png").write_text("no image")
    out = tmp_path / "photos" / "out"
    told = predict("--out", out, "--sort", "move", "--unsure", "0.99", "--dry-run").stdout
    assert told.count("would move: photos/") == 12
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "skipped.csv"]
    predict("--out", out, "--sort", "copy")
    assert len(list(out.rglob("*.png"))) == 12
    again = predict("--out", out, "--sort", "move", "--unsure", "0.99").stdout
    assert len(read_csv(out / "predictions.csv")) == 12  # not those that lie in out
    assert "0 failed" in again
    assert (tmp_path / "photos" / "bad.png").exists()


def test_nothing_placed_ends_with_status_2(predict, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("cluster_0", "cluster_1", "cluster_2"):
        (tmp_path / "out" / name).write_text("a file in the place of a folder")
    failed = predict("--out", "out", "--sort", "copy", status=2)
    assert failed.stdout.count("failed: photos/") == 12
    assert "none of the 12 images could be placed" in failed.stderr
    assert len(read_csv(tmp_path / "out" / "predictions.csv")) == 12


def test_a_wrong_labels_file_is_said_in_one_line(predict, tmp_path):
    write_json(tmp_path / "ckp" / "mine" / "labels.json", {"version": 1, "clusters": 7})
    failed = predict(status=2)
    assert failed.stderr.startswith("predict.py: ckp/mine/labels.json: made for 7 clusters")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dry-run"], ["--dry-run", "--sort"]),
        (["--unsure", "0.5"], ["--unsure", "--sort"]),
        (["--unsure", "1", "--sort", "copy"], ["--unsure 1"]),
        (["--review", "-1"], ["--review -1"]),
        (["--sort", "move", "--hand-off"], ["--hand-off", "--sort move"]),
        (["--sort", "shift"], ["--sort", "copy"]),
    ],
)
def test_wrong_options_end_in_one_line(monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
    with pytest.raises(UserError) as error:
        parse(PredictConfig, "predict", None)[0]
    assert all(word in str(error.value) for word in words), error.value


def test_predicting_loads_no_library_it_does_not_need():
    """Or a single image would take longer than three seconds."""
    code = (
        "import sys, src_py.clusters.classifier, src_py.output.prediction, "
        "src_py.output.hand_off, src_py.output.sorting; "
        "print({'sklearn', 'matplotlib', 'faiss', 'tensorboard', 'torchvision', 'scipy'}"
        " & sys.modules.keys() or '')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def killed_move(predict, tmp_path, *lines):
    """Ends the move of twelve images at the sixth.

    Args:
        lines: of the function that takes the place of os.link.
    """
    kill = tmp_path / "kill"
    kill.mkdir()
    body = "".join(f"    {line}\n" for line in lines)
    (kill / "sitecustomize.py").write_text(
        "import os\n"
        "real, calls = os.link, iter(range(99))\n"
        f"def link(*arguments):\n{body}"
        "os.link = link\n"
    )
    predict("--out", tmp_path / "out", "--sort", "move", status=9, environment=kill)


LINK, KILL = "real(*arguments)", "if next(calls) == 5: os._exit(9)"


def test_a_killed_move_keeps_all_predictions(predict, tmp_path):
    """Half of the images are in both places, and one is new when it is run again."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    killed_move(predict, tmp_path, LINK, KILL)
    rows = read_csv(out / "predictions.csv")
    assert len(rows) == 12 and len(list(photos.iterdir())) == 7
    write_image(photos / "new.png", 0, 77)
    predict("--out", out, "--sort", "move")
    again = read_csv(out / "predictions.csv")
    assert again[:12] == rows and again[12]["path"] == "photos/new.png"
    assert not list(photos.iterdir()) and len(list(out.rglob("*.png"))) == 13
    assert not list(out.glob(".*"))


def test_a_killed_move_of_all_images_is_done_when_it_is_run_again(predict, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    killed_move(predict, tmp_path, KILL, LINK)
    assert "predictions.csv holds all images" in predict("--out", out, "--sort", "move").stdout
    assert len(read_csv(out / "predictions.csv")) == 12 and not list(photos.iterdir())
    assert "no image file" in predict("--out", out, "--sort", "move", status=2).stderr


def test_an_unreadable_file_does_not_keep_a_killed_move_from_its_end(predict, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "zz.png").write_bytes(b"damaged")
    killed_move(predict, tmp_path, KILL, LINK)
    assert "predictions.csv holds all images" in predict("--out", out, "--sort", "move").stdout
    assert not (out / ".moves.json").exists() and [p.name for p in photos.iterdir()] == ["zz.png"]
    assert [row["path"] for row in read_csv(out / "skipped.csv")] == ["photos/zz.png"]


def test_only_a_move_ends_a_killed_move(predict, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    killed_move(predict, tmp_path, KILL, LINK)
    rows = read_csv(out / "predictions.csv")
    begun = (out / ".moves.json").read_bytes()
    for options in (("--sort", "move", "--dry-run"), ("--sort", "copy"), ()):
        told = predict("--out", out, *options).stdout
        assert "an earlier move has not ended, and is left so; --sort move" in told
        assert len(list(photos.iterdir())) == 7
        assert (out / ".moves.json").read_bytes() == begun
        assert len(read_csv(out / "predictions.csv")) == 7
    predict("--out", out, "--sort", "move")
    assert read_csv(out / "predictions.csv") == rows
    assert not list(photos.iterdir()) and len(list(out.rglob("*.png"))) == 12


def test_a_new_image_under_the_name_of_one_that_was_to_be_moved_is_classified(predict, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    killed_move(predict, tmp_path, KILL, LINK)
    rows = {row["path"]: row for row in read_csv(out / "predictions.csv")}
    other = (int(rows["photos/07.png"]["cluster"]) + 1) % 3
    write_image(photos / "07.png", 0, 77, size=24)
    new = (photos / "07.png").read_bytes()
    Corrections(3, {"07.png": other}).write(tmp_path / "ckp" / "mine" / "corrections.csv")
    assert "predictions.csv: 1 images" in predict("--out", out, "--sort", "move").stdout
    assert (out / f"cluster_{other}" / "07.png").read_bytes() == new
    again = {row["path"]: row for row in read_csv(out / "predictions.csv")}
    assert again.pop("photos/07.png")["name"] == f"cluster_{other}"
    assert again == {path: row for path, row in rows.items() if path != "photos/07.png"}


def test_a_move_of_which_one_image_fails_keeps_all_predictions(predict, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    given = {f"{number:02d}.png": min(number, 1) for number in range(12)}
    Corrections(3, given).write(tmp_path / "ckp" / "mine" / "corrections.csv")
    out.mkdir()
    (out / "cluster_0").write_text("a file in the place of a folder")
    failed = predict("--out", out, "--sort", "move", status=2)
    assert "not all of the 12 images could be placed, 1 failed" in failed.stderr
    rows = read_csv(out / "predictions.csv")
    (out / "cluster_0").unlink()
    predict("--out", out, "--sort", "move")
    assert read_csv(out / "predictions.csv") == rows and len(rows) == 12
    assert not list(photos.iterdir()) and len(list(out.rglob("*.png"))) == 12
    assert not list(out.glob(".*"))


def test_an_image_left_by_an_earlier_move_is_named(predict, run_script, tmp_path):
    """Where the call that is to end it does not name that image."""
    (tmp_path / "out").mkdir()
    for cluster in range(3):
        (tmp_path / "out" / f"cluster_{cluster}").write_text("a file in the place of a folder")
    predict("--out", "out", "--sort", "move", status=2)
    for number in range(11):
        (tmp_path / "photos" / f"{number:02d}.png").unlink()
    command = ("predict.py", "--run", "mine", "photos/00.png", "--device", "cpu", "--out", "out")
    failed = run_script(*command, "--sort", "move", status=2)
    assert "1 images of the earlier move could not be moved" in failed.stderr
    assert "photos/11.png: name them, too" in failed.stderr
    assert (tmp_path / "photos" / "11.png").exists()
