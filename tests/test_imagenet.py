"""ImageNet and its subsets: which classes are read, the published settings, heads on weights that
stay until the self-labelling."""

import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_shards import ShardsConfig
from configs.imagenet import class_folders, class_words
from configs.presets import PRESETS
from src_py.backbones import BackboneSpec, ResNet18, new_spec
from src_py.datasets import load_images
from src_py.images.shards import main as write_shards
from src_py.images.splits import describe_classes, folder_files
from src_py.losses import scan_loss
from src_py.models import ClusterHeads, ClusteringModel
from src_py.optimizers import classifier_optimizer, descend
from src_py.run.checkpoints import load_checkpoint
from src_py.run.files import load_json
from src_py.run.options import parse
from src_py.run.pretrained import load_backbone
from src_py.scoring.class_labels import load_labels
from tests.conftest import write_image

FOUR = class_folders(50)[:4]
NOT_LISTED = "n01440764"  # tench


# --- which classes -------------------------------------------------------------------------------


def test_the_subsets_hold_one_another():
    fifty, hundred, two_hundred = map(class_folders, (50, 100, 200))
    assert (len(fifty), len(hundred), len(two_hundred)) == (50, 100, 200)
    assert set(fifty) < set(hundred) < set(two_hundred)
    assert list(two_hundred) == sorted(two_hundred)
    assert all(re.fullmatch(r"n\d{8}", name) for name in two_hundred)
    words = class_words()
    assert words["n01669191"] == "box turtle" and len(set(words.values())) == 200


@pytest.fixture
def imagenet_tree(tmp_path):
    """train/<id>/*.JPEG and val/<id>/*.JPEG: four classes of the list and one that is not in it."""
    folder = tmp_path / "tree"
    for split, count in (("train", 10), ("val", 2)):
        for kind, name in enumerate((*FOUR, NOT_LISTED)):
            for number in range(count):
                place = folder / split / name / f"{name}_{number}.JPEG"
                write_image(place, kind % 4, number + 10 * (split == "val"), size=32)
    return folder


def test_only_listed_classes_are_read(imagenet_tree):
    classes = class_folders(50)
    listed = folder_files(imagenet_tree, "train", classes)
    everything = folder_files(imagenet_tree, "train")
    assert listed == [path for path in everything if path.parent.name != NOT_LISTED]
    read = load_images("folder", imagenet_tree, "test", 8, 3, classes=classes)
    assert {name.split("/")[1] for name in read.names} == set(FOUR)
    assert len(read.names) == 8


def test_what_is_left_out_and_missing_is_told(imagenet_tree):
    (imagenet_tree / "val" / FOUR[0]).rename(imagenet_tree / "val" / "n00000001")
    assert describe_classes(imagenet_tree, ()) == []
    of_train, of_val, missing = describe_classes(imagenet_tree, FOUR)
    assert of_train.startswith("4 class folders of train/") and "1 others are left out" in of_train
    assert of_val.startswith("3 class folders of val/") and "2 others are left out" in of_val
    assert f"1 of the preset's 4 classes have no image in val/: {FOUR[0]}" in missing


def test_labels_are_those_of_the_listed_classes(imagenet_tree):
    names = load_images("folder", imagenet_tree, "test", 8, 3, classes=FOUR).names
    labels, classes = load_labels("folder", imagenet_tree, "test", names, listed=class_folders(50))
    assert labels.tolist() == sorted([0, 1, 2, 3] * 2)
    assert classes == [class_words()[name] for name in FOUR]


def test_a_folder_without_a_listed_class_is_one_line(run_script, tmp_path):
    write_image(tmp_path / "tree" / "train" / NOT_LISTED / "1.JPEG", 0, 0)
    done = run_script("moco.py", "--preset", "imagenet50", "--data", tmp_path / "tree", status=2)
    assert "no image of the preset's 50 classes" in done.stderr and "\n" not in done.stderr.strip()
    done = run_script("moco.py", "--preset", "imagenet50", status=2)
    assert "--preset imagenet50 needs the folder" in done.stderr


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "batch"), [("50", 512), ("100", 1024), ("200", 1024)])
def test_the_paper_recipe_has_the_published_settings(monkeypatch, tmp_path, name, batch):
    monkeypatch.chdir(tmp_path)
    asked = ["--preset", f"imagenet{name}", "--data", "tree", "--recipe", "paper"]
    monkeypatch.setattr(sys, "argv", ["scan.py", *asked])
    scan, _ = parse(ScanConfig, "scan", None)
    monkeypatch.setattr(sys, "argv", ["selflabel.py", *asked])
    labelling, _ = parse(SelfLabelConfig, "selflabel", None)
    assert (scan.clusters, scan.heads, scan.epochs, scan.batch_size) == (int(name), 10, 100, batch)
    assert (scan.optimizer, scan.learning_rate, scan.weight_decay) == ("sgd", 5.0, 0.0)
    assert scan.entropy_weight == 5.0 and scan.augment.crop_scale == (0.2, 1.0)
    assert scan.fresh_views and not (scan.head_epochs or scan.components or scan.plain_neighbors)
    assert (labelling.epochs, labelling.batch_size, labelling.threshold) == (25, 512, 0.99)
    assert (labelling.optimizer, labelling.weight_decay) == ("sgd", 0.0)
    assert not labelling.balanced and labelling.strong_augment.cutout * 224 == 75
    assert PRESETS[f"imagenet{name}"].stage("extract_features", "paper")["neighbors"] == 50


def test_an_average_that_takes_the_networks_place_is_a_smaller_rate():
    """What the authors' self-labelling does with its moving average, in float64."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    inputs = torch.randn(20, 8, 5, generator=generator, dtype=torch.float64)
    rate = PRESETS["imagenet50"].stage("selflabel", "paper")["learning_rate"]

    def trained(rate, decay):
        weight = nn.Parameter(start.clone())
        optimizer = torch.optim.SGD([weight], lr=rate, momentum=0.9)
        for batch in inputs:
            before = weight.detach().clone()
            optimizer.zero_grad()
            (batch @ weight).cos().square().sum().backward()
            optimizer.step()
            weight.data.lerp_(before, decay)
        return weight.detach()

    published, ours = trained(0.03, 0.999), trained(rate, 0.0)
    assert not torch.allclose(published, start, atol=1e-6)
    torch.testing.assert_close(ours, published, rtol=1e-12, atol=1e-12)


def test_a_skipped_first_step_of_sgd_leaves_no_momentum():
    config = SelfLabelConfig(optimizer="sgd", learning_rate=0.1, weight_decay=0.0)
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    expected = nn.Linear(3, 2)
    expected.load_state_dict(layer.state_dict())
    optimizer = classifier_optimizer(layer, config)
    plain = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.randn(4, 3)
    descend(optimizer, 0 * layer(inputs).sum(), torch.tensor(1.0))
    torch.testing.assert_close(layer.weight, expected.weight, rtol=0, atol=0)
    for _ in range(3):
        descend(optimizer, layer(inputs).square().sum(), torch.tensor(0.0))
        plain.zero_grad()
        expected(inputs).square().sum().backward()
        plain.step()
    torch.testing.assert_close(layer.weight, expected.weight)


def test_only_heads_are_trained_on_frozen_weights_and_all_when_they_are_so_no_more():
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True)).train()
    backbone.set_frozen(True)
    model = ClusteringModel(backbone, ClusterHeads(backbone.feature_dim, 3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = classifier_optimizer(model, ScanConfig(optimizer="sgd", learning_rate=5.0))
    anchors, neighbors = model(torch.randn(8, 3, 16, 16)).chunk(2, dim=1)
    descend(optimizer, scan_loss(anchors, neighbors, 5.0).total.sum())
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"heads.linear.weight", "heads.linear.bias"}
    backbone.set_frozen(False)
    model.train()
    assert backbone.training and all(weight.requires_grad for weight in backbone.parameters())
    mean = backbone.bn1.running_mean.clone()
    images = torch.randn(8, 3, 16, 16)
    assert not torch.allclose(backbone(images), backbone.eval()(images))  # by the batch's own
    assert torch.equal(backbone.bn1.running_mean, mean)


# --- the network ---------------------------------------------------------------------------------


def test_the_published_file_of_moco_v2_is_a_resnet50(tmp_path):
    """Of its form: encoder_q alone, below `module.`, with the projection as fc.0 and fc.2."""
    torch.manual_seed(0)
    network = ResNet18(new_spec("resnet50", 8, 3, 224)).eval()
    weights = {name: v for name, v in network.state_dict().items() if name not in ("mean", "std")}
    for layer, (rows, columns) in {"fc.0": (256, 256), "fc.2": (128, 256)}.items():
        weights |= {f"{layer}.weight": torch.ones(rows, columns), f"{layer}.bias": torch.ones(rows)}
    state = {f"module.encoder_q.{name}": value for name, value in weights.items()}
    file = tmp_path / "moco_v2_800ep_pretrain.pth.tar"
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state}, file)
    backbone, report, vocabulary = load_backbone(str(file), 3, 224)
    assert backbone.spec == BackboneSpec(8, 3, False, (3, 4, 6, 3), bottleneck=True, frozen=True)
    assert backbone.feature_dim == 256 and not report.missing and vocabulary is None
    assert report.unexpected == ["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network(images))


# --- from end to end -----------------------------------------------------------------------------


def backbone_of(path):
    weights = load_checkpoint(path)["weights"]
    return {name: value for name, value in weights.items() if name.startswith("backbone.")}


def test_heads_first_then_the_whole_network(run_script, imagenet_tree, tmp_path):
    """The published chain on four classes, with twice as many clusters."""
    tiny = ("--batch-size", "16", "--device", "cpu")
    run, trained = ("--run", "i50"), ("--run", "i50", "--epochs", "1", *tiny)
    options = ("--preset", "imagenet50", "--recipe", "paper", "--image-size", "32", "--width", "2")
    said = run_script("moco.py", *options, "--data", imagenet_tree, *trained).stdout
    assert "1 others are left out" in said and "46 of the preset's 50 classes" in said
    run_script("extract_features.py", *run, "--neighbors", "5", *tiny)
    said = run_script("scan.py", *trained, "--clusters", "8", "--heads", "3", "--no-guard").stdout
    assert "of 3 kept" in said
    run_script("selflabel.py", *trained, "--threshold", "0.1", "--no-guard")
    done = run_script("evaluate.py", *run, *tiny)
    assert "majority" in done.stdout

    folder = tmp_path / "ckp" / "i50"
    assert np.load(folder / "features.npy").shape == (40, 64)
    assert np.load(folder / "views.npy").shape == (40, 2, 64)
    pretext, scan, last = (
        backbone_of(folder / f"{stage}.pt") for stage in ("pretext", "scan", "selflabel")
    )
    assert all(value.equal(scan[name]) for name, value in pretext.items())
    assert not last["backbone.conv1.weight"].equal(scan["backbone.conv1.weight"])
    result = load_json(tmp_path / "logs" / "i50" / "evaluation.json")
    assert result["mapping"] == "majority" and result["clusters"] == 8
    assert set(result["test"]) >= {"kmeans", "scan", "selflabel"}


def test_a_subset_is_read_from_shards_too(imagenet_tree, tmp_path):
    write_shards(ShardsConfig(folder=imagenet_tree, out=tmp_path / "shards", images_per_shard=10))
    classes, roots = class_folders(50), (imagenet_tree, tmp_path / "shards")
    in_folders, in_shards = (folder_files(root, "train", classes) for root in roots)
    assert [path.name for path in in_shards] == [path.name for path in in_folders] and in_shards
    told, of_shards = (describe_classes(root, classes) for root in roots)
    assert of_shards[:2] == told[:2]
