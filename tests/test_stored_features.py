"""Features of frozen weights: the space that heads see them in, and stages that need no network."""

import csv
import importlib

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.backbones import BackboneSpec, ResNet18
from src_py.clusters.corrections import Corrections
from src_py.clusters.names import ClusterNames
from src_py.feature_space import FeatureSpace, condition, fitted_space, gathered
from src_py.images.seen import rows_by_pixels
from src_py.models import ClusterHeads
from src_py.output.prediction import SeenImages, classify_files, open_classifier
from src_py.run import writing
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, load_json
from src_py.run.hardware import choose_hardware
from src_py.stored_features import StoredFeatures
from tests.conftest import write_image
from tests.made_runs import write_data, write_stage

CPU = torch.device("cpu")


def random_features(rows=50, dim=12):
    random = torch.Generator().manual_seed(0)
    scale = torch.linspace(3, 0.1, dim)
    return torch.randn(rows, dim, generator=random) * scale + 5


# --- the space -----------------------------------------------------------------------------------


def test_conditioned_features_are_scikit_learns_principal_components_at_length_one():
    features = random_features()
    found = condition(features, 4)
    expected = PCA(4).fit_transform(features.double().numpy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign((expected * found.numpy()).sum(axis=0))  # of a component, either is right
    np.testing.assert_allclose(found.numpy(), expected * signs, atol=1e-5)


def test_without_components_features_stay_as_they_are():
    features = random_features()
    assert torch.equal(condition(features, 0), features)
    torch.testing.assert_close(FeatureSpace(12, normalized=True)(features), F.normalize(features))


@pytest.mark.parametrize(("rows", "kept"), [(50, 12), (5, 4)])
def test_no_more_components_than_the_features_have(rows, kept):
    space = fitted_space(random_features(rows), 64)
    assert space.dim == kept and space(random_features(rows)).shape == (rows, kept)


def test_heads_that_learned_in_a_space_read_features_as_they_are():
    features = random_features()
    space = fitted_space(features, 4)
    heads = ClusterHeads(4, clusters=3, heads=2)
    expected = heads(space(features))
    behind = heads.behind(space)
    torch.testing.assert_close(behind(features), expected)
    torch.testing.assert_close(behind.keep([1])(features), expected[1:])
    torch.testing.assert_close(behind.grow([2])(features)[..., -1], expected[..., 2])


# --- what is made of all images ------------------------------------------------------------------


def test_blocks_become_one_tensor_in_a_file_that_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LARGEST_IN_MEMORY", 100)
    blocks = torch.randn(2, 50, 3).split(16, dim=1)
    for scratch in (None, tmp_path):
        assert torch.equal(gathered(iter(blocks), 50, 1, scratch), torch.cat(blocks, dim=1))
    array = writing.scratch_array((50, 3), tmp_path)
    assert isinstance(array, np.memmap) and list(tmp_path.iterdir()) == []


def test_where_the_disk_is_full_large_arrays_are_in_memory(tmp_path, monkeypatch):
    def full(file, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "LARGEST_IN_MEMORY", 100)
    monkeypatch.setattr(writing, "_take_room", full)
    array = writing.scratch_array((50, 3), tmp_path, np.int64)
    assert type(array) is np.ndarray and array.shape == (50, 3) and array.dtype == np.int64


# --- what is stored ------------------------------------------------------------------------------


def stored_views(images=6, views=3, dim=2):
    """View v of image i is (i, v)."""
    grid = torch.meshgrid(torch.arange(images), torch.arange(views), indexing="ij")
    return StoredFeatures(torch.zeros(images, dim), torch.stack(grid, dim=2).half())


def test_a_view_of_the_asked_image_is_drawn_each_as_often_as_the_others():
    rows = torch.arange(6).repeat(500)
    drawn = stored_views().draw(rows, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 0].long(), rows)
    counts = drawn[:, 1].long().bincount()
    assert len(counts) == 3 and counts.min() > 900


def test_without_views_the_plain_features_are_drawn():
    stored = StoredFeatures(random_features())
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(stored.draw(torch.tensor([4, 1]), generator), stored.plain[[4, 1]])
    assert torch.equal(generator.get_state(), before)


def test_a_space_is_applied_to_views_as_to_images():
    features = random_features()
    stored = StoredFeatures(features, torch.stack([features, features], dim=1).half())
    seen = stored.seen_in(fitted_space(features, 4))
    for view in seen.views.unbind(dim=1):
        torch.testing.assert_close(view, seen.plain, atol=5e-3, rtol=0)


@pytest.mark.parametrize("views", [np.zeros((5, 2)), np.zeros((4, 2, 3)), np.zeros((5, 2, 4))])
def test_views_of_other_features_are_refused(tmp_path, monkeypatch, views):
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    write_data(files)
    np.save(files.features, np.zeros((5, 3), np.float32))
    write_stage(files, "extract_features")
    with pytest.raises(UserError, match="views"):
        StoredFeatures.load(files, CPU, frozen=True)
    np.save(files.views, views)
    write_stage(files, "extract_features")
    with pytest.raises(UserError, match="again: python extract_features"):
        StoredFeatures.load(files, CPU, frozen=True)


# --- a whole run ---------------------------------------------------------------------------------

RUN = {"run": "photos", "device": "cpu"}
SCAN = {"clusters": 4, "head_epochs": 30, "candidate_heads": 8, "prototypes": True}


def main_of(script):
    return importlib.import_module(script).main


@pytest.fixture
def mined(tmp_path, monkeypatch):
    """A run of 80 images on frozen weights, whose network refuses to be run again."""
    monkeypatch.chdir(tmp_path)
    for number in range(80):
        write_image(tmp_path / "photos" / f"{number:02d}.png", kind=number % 4, number=number)
    torch.manual_seed(0)
    torch.save(ResNet18(BackboneSpec(8, 3, small_stem=True)).state_dict(), "weights.pth")
    shown = {"data": tmp_path / "photos", "preset": "folder", "init": "weights.pth"}
    main_of("simclr")(SimCLRConfig(**RUN, **shown))
    main_of("extract_features")(ExtractFeaturesConfig(**RUN, neighbors=5, components=8))

    def refuse(self, images):
        raise AssertionError("frozen weights run twice")

    monkeypatch.setattr(ResNet18, "forward", refuse)
    return RunFiles("photos")


def accuracy(files, stage):
    """By the best matching of clusters and kinds."""
    from src_py.run.stored_models import load_clustering
    from src_py.scoring.metrics import score

    heads = load_clustering(files.output(stage))[0].heads
    logits = heads(torch.from_numpy(np.load(files.features)))[0]
    clusters = logits.argmax(dim=1).numpy()
    return score(clusters, np.arange(80) % 4, logits.shape[1], 4)["acc"]


def test_after_the_mining_frozen_weights_are_not_run_again(mined):
    features, views = np.load(mined.features), np.load(mined.views)
    assert views.shape == (80, 2, features.shape[1]) and views.dtype == np.float16
    assert not np.allclose(views[:, 0], features, atol=1e-2)  # they are other views
    main_of("scan")(ScanConfig(**RUN, **SCAN, components=8))
    main_of("selflabel")(SelfLabelConfig(**RUN, epochs=5, reliable_share=0.5, ema_decay=0.9))
    assert accuracy(mined, "scan") > 0.4  # .25 is chance; the weights are random
    assert accuracy(mined, "selflabel") > accuracy(mined, "scan") - 0.05
    kept = load_json(mined.config("selflabel"))
    assert kept["kept"] in ("scan", "selflabel") and set(kept["information"]) == {
        "scan",
        "selflabel",
    }
    with mined.log("selflabel").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_images_that_frozen_weights_have_seen_are_not_shown_again(mined, tmp_path, monkeypatch):
    main_of("scan")(ScanConfig(**RUN, **SCAN, components=8))
    photos = sorted((tmp_path / "photos").iterdir())
    classifier = open_classifier(mined.output("scan"), choose_hardware("cpu"))
    names = ClusterNames(4, {}, ())
    seen = SeenImages.of_run(mined, classifier, rows_by_pixels(mined))
    known, _ = classify_files(photos, classifier, names, seen=seen)  # the network refuses to run
    monkeypatch.undo()
    asked, _ = classify_files(photos, classifier, names)
    assert [p.cluster for p in known] == [p.cluster for p in asked]
    assert [p.confidence for p in known] == pytest.approx([p.confidence for p in asked], abs=1e-4)
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "new.png", kind=0, number=999)
    (new,), _ = classify_files([tmp_path / "new.png"], classifier, names, seen=seen)
    (alone,), _ = classify_files([tmp_path / "new.png"], classifier, names)
    assert new == alone
    mined.features.write_bytes(b"damaged")
    assert SeenImages.of_run(mined, classifier, rows_by_pixels(mined)).rows == {}


def test_the_published_recipe_trains_its_heads_on_stored_features_too(mined):
    main_of("scan")(ScanConfig(**RUN, recipe="paper", clusters=4, epochs=3))
    assert accuracy(mined, "scan") >= 0.25


def test_what_a_person_says_is_learned_whatever_the_evidence(mined):
    main_of("scan")(ScanConfig(**RUN, **SCAN, components=8))
    with mined.rows.open() as file:
        names = [row["path"] for row in csv.DictReader(file)]
    of_kind = [name for number, name in enumerate(names) if number % 4 == 1]
    Corrections(5, dict.fromkeys(of_kind[:10], 4)).write(mined.corrections)  # a new cluster
    main_of("selflabel")(SelfLabelConfig(**RUN, epochs=100, ema_decay=0.9))
    record = load_json(mined.config("selflabel"))
    assert record["corrected"] and record["kept"] == "selflabel"
    from src_py.run.stored_models import load_clustering

    heads = load_clustering(mined.output("selflabel"))[0].heads
    found = heads(torch.from_numpy(np.load(mined.features)))[0].argmax(dim=1)
    told = torch.tensor([name in of_kind[:10] for name in names])
    alike = torch.tensor([name in of_kind[10:] for name in names])
    assert (found[told] == 4).float().mean() > 0.7
    others = ~told & ~alike
    taken = (found[alike] == 4).float().mean()
    assert taken > 0.25 and taken > 2 * (found[others] == 4).float().mean()  # what looks like them


def test_heads_end_with_their_minutes(mined, capsys):
    main_of("scan")(ScanConfig(**RUN, **SCAN, components=8))
    main_of("selflabel")(SelfLabelConfig(**RUN, epochs=1000, minutes=0.01))
    assert "the time is up in epoch 1" in capsys.readouterr().out


def test_other_views_make_what_was_learned_from_them_stale(mined, tmp_path, monkeypatch):
    """Though features and neighbors of the plain images are the same."""
    main_of("scan")(ScanConfig(**RUN, **SCAN, components=8))
    before = mined.features.read_bytes()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    main_of("extract_features")(ExtractFeaturesConfig(**RUN, neighbors=5, components=8, views=3))
    assert mined.features.read_bytes() == before
    assert mined.is_stale("scan")
