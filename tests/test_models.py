"""The backbone against torchvision's, and the heads."""

from dataclasses import asdict

import pytest
import torch

from src_py.backbones import (
    BackboneSpec,
    CompactSpec,
    ResNet18,
    TimmSpec,
    build_backbone,
    new_spec,
    spec_from_dict,
)
from src_py.images.image_set import DataSettings
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.run import torchvision_compat  # noqa: F401
from src_py.run.checkpoints import save_checkpoint
from src_py.run.stored_models import clustering_content, load_clustering


@pytest.mark.parametrize(
    ("name", "blocks", "bottleneck"),
    [
        ("resnet18", (2, 2, 2, 2), False),
        ("resnet34", (3, 4, 6, 3), False),
        ("resnet50", (3, 4, 6, 3), True),
    ],
)
def test_imagenet_stem_equals_torchvision(name, blocks, bottleneck):
    import torchvision

    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    spec = BackboneSpec(64, 3, small_stem=False, blocks=blocks, bottleneck=bottleneck)
    ours = ResNet18(spec).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if name[:3] != "fc."}
    assert not ours.load_state_dict(weights, strict=False).unexpected_keys
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    assert ours.feature_dim == theirs(images).shape[1]


@pytest.mark.parametrize(
    "spec",
    [
        BackboneSpec(64, 3, False, blocks=(3, 4, 6, 3), bottleneck=True, frozen=True),
        CompactSpec(16, 1, blocks=4, frozen=True),
        TimmSpec("any", 3, 128, frozen=True, pooling="avg"),
    ],
)
def test_a_spec_survives_being_stored(spec):
    assert spec_from_dict(asdict(spec)) == spec


@pytest.mark.parametrize(
    "spec", [BackboneSpec(4, 3, small_stem=True, frozen=True), CompactSpec(4, 3, frozen=True)]
)
def test_a_frozen_backbone_stays_in_eval_mode(spec):
    backbone = build_backbone(spec)
    model = ClusteringModel(backbone, ClusterHeads(32, clusters=3, heads=1)).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert model.heads.training


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 96])
def test_features_have_eight_times_the_width(width, channels, size):
    spec = BackboneSpec.for_images(width, channels, size)
    assert spec.small_stem == (size <= 64)
    images = torch.randn(2, channels, size, size)
    assert ResNet18(spec)(images).shape == (2, 8 * width)
    assert ContrastiveModel(spec, projection_dim=128)(images).shape == (2, 128)


@pytest.mark.parametrize(
    ("size", "blocks", "side"), [(8, 3, 1), (16, 3, 2), (28, 3, 4), (32, 3, 4), (96, 5, 3)]
)
def test_the_compact_network_ends_on_a_small_map_whatever_the_size(size, blocks, side):
    spec = new_spec("compact", 4, 1, size)
    backbone = build_backbone(spec)
    images = torch.randn(2, 1, size, size)
    assert spec.blocks == blocks and backbone(images).shape == (2, backbone.feature_dim) == (2, 32)
    assert backbone.blocks(backbone.conv1(images)).shape == (2, 32, side, side)


def test_a_compact_network_stored_before_there_were_shortcuts_has_none():
    stored = asdict(CompactSpec(4, 3))
    del stored["shortcuts"]
    old, new = build_backbone(spec_from_dict(stored)), build_backbone(new_spec("compact", 4, 3, 32))
    new.load_state_dict(old.state_dict())
    x = torch.randn(2, 4, 8, 8)
    plain, shortcut = old.blocks[0].eval()(x), new.blocks[0].eval()(x)
    halved = old.blocks[0].bn1(torch.nn.functional.max_pool2d(old.blocks[0].conv1(x), 2)).relu()
    changed = old.blocks[0].bn2(old.blocks[0].conv2(halved))
    torch.testing.assert_close(plain, changed.relu())
    torch.testing.assert_close(shortcut, (changed + halved).relu())


def test_every_weight_of_the_compact_network_learns():
    backbone = build_backbone(new_spec("compact", 4, 3, 32))
    backbone(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in backbone.parameters())


def test_width_64_gives_the_papers_512_features():
    assert ResNet18(BackboneSpec(64, 3, small_stem=True)).feature_dim == 512


def test_small_stem_keeps_the_resolution():
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True))
    images = torch.randn(1, 3, 32, 32)
    assert backbone.maxpool(backbone.conv1(images)).shape[-1] == 32


def test_heads_are_independent_linear_classifiers():
    heads = ClusterHeads(feature_dim=6, clusters=3, heads=4)
    features = torch.randn(5, 6)
    logits = heads(features)
    assert logits.shape == (4, 5, 3)
    weight, bias = heads.linear.weight[6:9], heads.linear.bias[6:9]
    torch.testing.assert_close(logits[2], features @ weight.T + bias)


def test_heads_compute_in_float32_under_autocast_too():
    heads = ClusterHeads(feature_dim=64, clusters=3, heads=2)
    features = torch.randn(50, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = heads(features)
        assert torch.is_autocast_enabled("cpu")
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, heads(features.float()))


def test_keep_takes_heads_in_the_order_given():
    heads = ClusterHeads(feature_dim=6, clusters=3, heads=4)
    features = torch.randn(5, 6)
    kept = heads.keep([3, 1])
    assert kept.heads == 2
    torch.testing.assert_close(kept(features), heads(features)[[3, 1]])


def test_classifier_gives_logits_for_every_head():
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True))
    model = ClusteringModel(backbone, ClusterHeads(32, clusters=7, heads=2))
    assert model(torch.randn(3, 3, 16, 16)).shape == (2, 3, 7)


def test_normalized_heads_read_the_direction_of_the_features_alone():
    features = torch.randn(5, 6)
    lengths = torch.tensor([[1e-3], [0.1], [1.0], [10.0], [1e3]])
    heads = ClusterHeads(feature_dim=6, clusters=3, heads=4, normalized=True)
    torch.testing.assert_close(heads(features * lengths), heads(features))
    plain = ClusterHeads(feature_dim=6, clusters=3, heads=4)
    plain.load_state_dict(heads.state_dict())
    unit = features / features.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(heads(features), plain(unit))
    assert not torch.allclose(plain(features * lengths), plain(features))


@pytest.mark.parametrize("normalized", [False, True])
def test_kept_heads_read_the_features_as_before(normalized):
    heads = ClusterHeads(feature_dim=6, clusters=3, heads=4, normalized=normalized)
    features = 5 * torch.randn(5, 6)
    kept = heads.keep([2])
    assert kept.space.normalized == normalized
    torch.testing.assert_close(kept(features), heads(features)[[2]])


def stored(normalized):
    """What a checkpoint of a classifier holds, images, and the classifier's logits of them."""
    backbone = ResNet18(BackboneSpec(4, 3, small_stem=True))
    model = ClusteringModel(backbone, ClusterHeads(32, 3, 2, normalized)).eval()
    settings = DataSettings("folder", None, 16, 3, (0.5,) * 3, (0.25,) * 3)
    images = torch.randn(2, 3, 16, 16)
    return clustering_content(model, settings, temperature=1.5), images, model(images)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_checkpoint_remembers_whether_heads_are_normalized(tmp_path, normalized):
    content, images, logits = stored(normalized)
    save_checkpoint(tmp_path / "scan.pt", content)
    model, rest = load_clustering(tmp_path / "scan.pt")
    assert model.heads.space.normalized == rest["normalized"] == normalized
    torch.testing.assert_close(model.eval()(images), logits)


def test_the_statistics_of_the_images_go_with_the_weights():
    model = ClusteringModel(ResNet18(BackboneSpec(4, 3, True)), ClusterHeads(32, 3, heads=1))
    model.backbone.set_statistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    other = ClusteringModel(ResNet18(BackboneSpec(4, 3, True)), ClusterHeads(32, 3, heads=1))
    other.load_state_dict(model.state_dict())
    mean, std = other.statistics
    assert mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert std.tolist() == pytest.approx([0.4, 0.5, 0.6])
