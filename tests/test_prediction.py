"""Files in, rows out: order, folders, and files that cannot be read."""

from pathlib import Path

import pytest
import torch

from src_py.backbones import BackboneSpec, ResNet18
from src_py.clusters.names import ClusterNames
from src_py.images.image_set import DataSettings
from src_py.models import ClusterHeads, ClusteringModel
from src_py.output.prediction import Classifier, classify_files, list_files
from src_py.run.errors import UserError
from src_py.run.hardware import choose_hardware
from tests.conftest import write_image

SETTINGS = DataSettings("folder", None, 16, 3, (0.5,) * 3, (0.25,) * 3)
PLAIN = ClusterNames(3, {}, ())


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True))
    return ClusteringModel(backbone, ClusterHeads(32, clusters=3, heads=1))


def test_files_keep_the_order_they_were_named_in(tmp_path):
    for name in ("z/2.png", "z/1.png", "a.png"):
        write_image(tmp_path / name, 0, 0)
    (tmp_path / "z" / "notes.txt").write_text("no image")
    found = list_files([tmp_path / "z", tmp_path / "a.png"], tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "z/1.png",
        "z/2.png",
        "a.png",
    ]


def test_missing_paths_and_empty_folders_are_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list_files([tmp_path / "absent"], tmp_path / "out")
    with pytest.raises(UserError, match="no image file"):
        list_files([tmp_path], tmp_path / "out")


def test_results_inside_a_folder_are_not_images_of_it(tmp_path, monkeypatch):
    for name in ("1.png", "out/cat/1.png", "outer/2.png"):
        write_image(tmp_path / name, 0, 0)
    monkeypatch.chdir(tmp_path)
    for root, out in ((tmp_path, "out"), (Path("."), tmp_path / "out"), (Path("."), Path("out"))):
        found = list_files([root], Path(out))
        assert [path.name for path in found] == ["1.png", "2.png"]
    named = list_files([Path("out"), Path("out/cat/1.png")], Path("out"))
    assert named == [Path("out/cat/1.png")] * 2


def classify(paths, model, batch_size=100, labels=PLAIN, temperature=1.0):
    hardware = choose_hardware("cpu")
    classifier = Classifier(model, SETTINGS, temperature, hardware, batch_size)
    return classify_files(paths, classifier, labels)


@pytest.fixture
def paths(tmp_path):
    """Nine images, of which 5.png cannot be read."""
    for number in range(9):
        write_image(tmp_path / f"{number}.png", number % 4, number, size=20)
    (tmp_path / "5.png").write_bytes(b"")
    return list_files([tmp_path], tmp_path / "out")


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_predictions_do_not_depend_on_the_batch(paths, model, batch_size):
    predictions, skipped = classify(paths, model, batch_size)
    assert [p.path for p in predictions] == [path for path in paths if path.name != "5.png"]
    assert [path for path, _ in skipped] == [str(paths[5])]
    alone, _ = classify(paths, model)
    assert [p.cluster for p in predictions] == [p.cluster for p in alone]


def test_names_and_merged_clusters(paths, model):
    plain, _ = classify(paths, model)
    assert all(p.name == f"cluster_{p.cluster}" for p in plain)
    labels = PLAIN.with_merge((0, 2)).with_name(0, "cat")
    merged, _ = classify(paths, model, labels=labels)
    for before, after in zip(plain, merged, strict=True):
        assert (after.cluster, after.name) in ((0, "cat"), (1, "cluster_1"))
        assert after.confidence >= before.confidence - 1e-6
    (everything,), _ = classify(paths[:1], model, labels=PLAIN.with_merge((0, 1, 2)))
    assert everything.confidence == pytest.approx(1)


def test_temperature_changes_the_confidence_alone(paths, model):
    plain, _ = classify(paths, model)
    cool, _ = classify(paths, model, temperature=10.0)
    assert [p.cluster for p in cool] == [p.cluster for p in plain]
    assert all(c.confidence < p.confidence for c, p in zip(cool, plain, strict=True))


def test_a_block_of_unreadable_files_is_skipped(tmp_path, model):
    for number in range(4):
        (tmp_path / f"{number}.png").write_text("no")
    write_image(tmp_path / "9.png", 0, 0)
    predictions, skipped = classify(list_files([tmp_path], tmp_path / "out"), model, batch_size=2)
    assert len(predictions) == 1 and len(skipped) == 4
