"""Pretrained starts: torchvision's networks as the other side, in every layout that wraps them."""

import argparse
import sys

import pytest
import torch

from configs.config_moco import MoCoConfig
from configs.config_simclr import SimCLRConfig
from configs.presets import PRESETS, STROKES
from configs.weights import IMAGENET_MEAN, IMAGENET_STD
from src_py.backbones import BackboneSpec, ResNet18, import_timm
from src_py.images.image_set import DataSettings
from src_py.models import ClusterHeads, ClusteringModel
from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)
from src_py.run.checkpoints import save_checkpoint
from src_py.run.errors import UserError
from src_py.run.hardware import Hardware
from src_py.run.pretrained import (
    load_backbone,
    pretrained_model,
    pretrained_preset,
    settle_network,
    starting_preset,
)
from src_py.run.stored_models import (
    clustering_content,
    contrastive_content,
    load_clustering,
    load_contrastive,
)

import torchvision  # isort: skip

SIZE = 64
NAMED = {"resnet18": 100, "resnet34": 180, "resnet50": 265}  # tensors, without batch counts


@pytest.fixture(scope="module")
def networks():
    """torchvision's networks, with batch statistics that are not the initial ones."""
    torch.manual_seed(0)
    built = {name: getattr(torchvision.models, name)(weights=None) for name in NAMED}
    for network in built.values():
        network.train()(torch.randn(2, 3, SIZE, SIZE))
        network.eval()
    return built


def features_of(network, images):
    """What the network's classifier sees."""
    seen = []
    handle = network.avgpool.register_forward_hook(lambda *call: seen.append(call[2].flatten(1)))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0]


def assert_same_features(backbone, network, channels=3):
    images = torch.randn(2, channels, SIZE, SIZE)
    with torch.no_grad():
        ours = backbone.eval()(images)
    torch.testing.assert_close(
        ours, features_of(network, images.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", NAMED)
def test_a_plain_state_dict_is_recognised_by_its_names_and_shapes(tmp_path, networks, name):
    file = tmp_path / "weights.pth"
    torch.save(networks[name].state_dict(), file)
    backbone, report, _ = load_backbone(str(file), 3, SIZE)
    assert_same_features(backbone, networks[name])
    assert backbone.feature_dim == (2048 if name == "resnet50" else 512)
    assert len(report.matched) == NAMED[name]
    assert report.missing == []
    assert report.unexpected == ["fc.weight", "fc.bias"]


# --- layouts of files ----------------------------------------------------------------------------


def moco(state):
    """encoder_q and its average encoder_k, as DistributedDataParallel names them."""
    wrapped = {}
    for encoder, scale in (("encoder_q", 1), ("encoder_k", 0)):
        wrapped |= {f"module.{encoder}.{name}": value * scale for name, value in state.items()}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": wrapped | {"module.queue": torch.ones(2)},
    }


def dino(state):
    student = {f"module.backbone.{name}": value * 0 for name, value in state.items()}
    teacher = {f"backbone.{name}": value for name, value in state.items()}
    teacher["head.mlp.0.weight"] = torch.ones(2, 2)
    options = argparse.Namespace(arch="resnet50", lr=0.03)
    return {"student": student, "teacher": teacher, "epoch": 1, "args": options}


LAYOUTS = {
    "moco": moco,
    "dino": dino,
    "dino, backbone alone": lambda state: {k: v for k, v in state.items() if k[:3] != "fc."},
    "dino, prefixed": lambda state: {f"backbone.{k}": v for k, v in state.items()},
    "simsiam": lambda state: {"state_dict": {f"module.encoder.{k}": v for k, v in state.items()}},
    "lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
    "without counts of batches": lambda state: {k: v for k, v in state.items() if "num_b" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(tmp_path, networks, layout):
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(LAYOUTS[layout](networks["resnet18"].state_dict()), file)
    backbone, report, _ = load_backbone(str(file), 3, SIZE)
    assert_same_features(backbone, networks["resnet18"])
    assert (len(report.matched), report.missing) == (NAMED["resnet18"], [])


def test_safetensors(tmp_path, networks):
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "model.safetensors"
    safetensors.save_file(networks["resnet18"].state_dict(), file)
    assert_same_features(load_backbone(str(file), 3, SIZE)[0], networks["resnet18"])


def test_weights_of_half_precision_become_float32(tmp_path, networks):
    file = tmp_path / "half.pt"
    torch.save({k: v.half() for k, v in networks["resnet18"].state_dict().items()}, file)
    backbone = load_backbone(str(file), 3, SIZE).backbone
    assert backbone.conv1.weight.dtype == torch.float32


def test_grey_images_give_what_they_gave_in_colour(tmp_path, networks):
    file = tmp_path / "weights.pth"
    torch.save(networks["resnet18"].state_dict(), file)
    backbone, report, _ = load_backbone(str(file), 1, SIZE)
    assert backbone.conv1.weight.shape == (64, 1, 7, 7)
    assert report.missing == []
    assert_same_features(backbone, networks["resnet18"], channels=1)


def test_a_name_takes_torchvisions_weights(monkeypatch, networks):
    monkeypatch.setattr(
        torchvision.models._api.WeightsEnum,
        "get_state_dict",
        lambda weights, **options: networks["resnet34"].state_dict(),
    )
    backbone, report, _ = load_backbone("resnet34", 3, SIZE)
    assert_same_features(backbone, networks["resnet34"])
    assert report.lines()[0] == (
        "init: resnet34 of torchvision (IMAGENET1K_V1): 180 of 180 tensors matched "
        "(conv1 1, bn1 4, layer1 30, layer2 45, layer3 65, layer4 35)"
    )
    assert report.lines()[1:] == ["init: its classifier of 1,000 words is kept, to suggest names"]


def test_offline_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    def offline(*arguments, **options):
        raise OSError("Name or service not known\nmore")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError) as raised:
        load_backbone("resnet18", 3, SIZE)
    message = str(raised.value)
    assert "https://download.pytorch.org/models/resnet18" in message
    assert str(tmp_path / "checkpoints") in message
    assert "\n" not in message


def test_what_is_left_random_is_said(tmp_path, networks):
    state = {k: v for k, v in networks["resnet18"].state_dict().items() if k[:8] != "layer4.1"}
    state["layer3.1.bn2.weight"] = torch.ones(7)  # of another shape
    file = tmp_path / "part.pth"
    torch.save(state, file)
    backbone, report, _ = load_backbone(str(file), 3, SIZE)
    assert backbone.spec.blocks == (2, 2, 2, 1)
    assert report.missing == ["layer3.1.bn2.weight"]
    assert "layer3.1.bn2.weight" in report.unexpected
    assert report.lines()[-1] == "init: warning: not found, so left random: layer3 1"


BAD_FILES = {
    "transformer": (
        {"patch_embed.proj.weight": torch.ones(2)},
        "no ResNet in torchvision's naming",
    ),
    "empty": ({}, "among its 0 tensors"),
    "a list": ([1, 2], "among its 0 tensors"),
    "numbers for names": ({0: torch.ones(2), 1: torch.ones(3)}, "among its 0 tensors"),
    "volumes": (
        {
            "conv1.weight": torch.ones(64, 1, 7, 7, 7),
            "layer1.0.conv1.weight": torch.ones(64, 64, 3, 3, 3),
        },
        "not of images in two dimensions",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_without_a_resnet_are_refused(tmp_path, case):
    content, expected = BAD_FILES[case]
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(UserError, match=expected):
        load_backbone(str(file), 3, SIZE)


def test_less_than_half_of_the_tensors_is_not_a_match(tmp_path):
    file = tmp_path / "wide.pth"
    network = torchvision.models.resnet50(weights=None, width_per_group=4, groups=2)
    torch.save(network.state_dict(), file)
    with pytest.raises(UserError, match=r"only \d+ of the 265 tensors .*timm:NAME"):
        load_backbone(str(file), 3, SIZE)


def test_a_damaged_file_and_one_with_code_are_refused_in_one_line(tmp_path):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"PK\x03\x04 cut short")
    with_code = tmp_path / "code.pt"
    torch.save(torch.nn.Linear(1, 1), with_code)
    damaged_too = tmp_path / "damaged.safetensors"
    damaged_too.write_bytes(b"\x00" * 4)
    for file in (damaged, with_code, damaged_too):
        with pytest.raises(UserError, match="cannot be read as weights") as raised:
            load_backbone(str(file), 3, SIZE)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("init", ["resnet19", "missing.pth"])
def test_an_unknown_name_lists_the_known_ones(init):
    with pytest.raises(UserError, match=r"nor one of efficientnet_lite0, .*, resnet18, "):
        load_backbone(init, 3, SIZE)


def test_images_too_small_for_the_stem_are_refused(tmp_path, networks):
    file = tmp_path / "weights.pth"
    torch.save(networks["resnet18"].state_dict(), file)
    with pytest.raises(UserError, match="needs at least 64 px"):
        load_backbone(str(file), 3, 32)


def test_frozen_weights_stay_and_the_heads_learn(tmp_path, networks):
    file = tmp_path / "weights.pth"
    torch.save(networks["resnet18"].state_dict(), file)
    backbone = load_backbone(str(file), 3, SIZE, frozen=True).backbone
    model = ClusteringModel(backbone, ClusterHeads(512, 3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    model(torch.randn(4, 3, SIZE, SIZE)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {"heads.linear.weight", "heads.linear.bias"}


def test_fine_tuning_changes_the_weights_and_the_statistics(tmp_path, networks):
    file = tmp_path / "weights.pth"
    torch.save(networks["resnet18"].state_dict(), file)
    backbone = load_backbone(str(file), 3, SIZE, frozen=False).backbone
    before = backbone.bn1.running_mean.clone()
    backbone.train()(torch.randn(4, 3, SIZE, SIZE)).sum().backward()
    assert backbone.conv1.weight.grad is not None
    assert (backbone.bn1.running_mean != before).any()


@pytest.mark.parametrize("frozen", [True, False])
def test_checkpoints_rebuild_it_frozen_or_not(tmp_path, networks, capsys, frozen):
    file = tmp_path / "weights.pth"
    torch.save(networks["resnet18"].state_dict(), file)
    settings = DataSettings("folder", None, SIZE, 3, IMAGENET_MEAN, IMAGENET_STD)
    config = SimCLRConfig(init=str(file), projection_dim=8, fine_tune=not frozen)
    model, _ = pretrained_model(config, settings)
    assert "100 of 100 tensors matched" in capsys.readouterr().out
    save_checkpoint(tmp_path / "pretext.pt", contrastive_content(model))
    again = load_contrastive(tmp_path / "pretext.pt").backbone
    assert isinstance(again, ResNet18)
    assert again.spec == model.backbone.spec
    assert again.training is not frozen
    assert_same_features(again, networks["resnet18"])

    classifier = ClusteringModel(again, ClusterHeads(again.feature_dim, 3, 1))
    save_checkpoint(tmp_path / "scan.pt", clustering_content(classifier, settings, 1.0))
    last = load_clustering(tmp_path / "scan.pt")[0].train()
    assert last.backbone.training is not frozen
    assert all(p.requires_grad is not frozen for p in last.backbone.parameters())
    assert all(p.requires_grad for p in last.heads.parameters())


def test_the_preset_takes_the_weights_size_and_statistics(tmp_path):
    for name, on_cpu, size in (("digits", True, 128), ("folder", False, 224)):
        preset = pretrained_preset("resnet18", PRESETS[name], 3, on_cpu)
        assert (preset.image_size, preset.mean, preset.std) == (size, IMAGENET_MEAN, IMAGENET_STD)
        assert preset.stages == PRESETS[name].stages
    grey = pretrained_preset("resnet18", PRESETS["digits"], 1, True)
    assert grey.mean == pytest.approx((0.449,), abs=1e-3)
    file = tmp_path / "small.pth"
    torch.save(ResNet18(BackboneSpec(4, 3, small_stem=True)).state_dict(), file)
    assert pretrained_preset(str(file), PRESETS["cifar10"], 3, True).image_size == 32


AUTO = {
    "small images on a CPU": ({}, "cpu", "compact", "muon"),
    "a folder's, chosen to be small there": ({"preset": "folder"}, "cpu", "compact", "muon"),
    "larger ones": ({"image_size": 65}, "cpu", "resnet18", "sgd"),
    "a set of larger ones": ({"preset": "stl10"}, "cpu", "resnet18", "sgd"),
    "on a GPU": ({}, "cuda", "resnet18", "sgd"),
    "as published": ({"recipe": "paper"}, "cpu", "resnet18", "sgd"),
    "as published, another network": (
        {"recipe": "paper", "backbone": "compact"}, "cpu", "compact", "sgd",
    ),
    "weights of others": ({"init": "resnet18"}, "cpu", "resnet18", "sgd"),
    "the network said": ({"backbone": "compact"}, "cuda", "compact", "muon"),
    "both said": ({"backbone": "resnet18", "optimizer": "muon"}, "cpu", "resnet18", "muon"),
    "ImageNet's": ({"preset": "imagenet50", "backbone": "resnet50"}, "cpu", "resnet50", "sgd"),
}  # fmt: skip


@pytest.mark.parametrize("case", AUTO)
def test_the_network_that_nobody_names_is_the_better_one_there(case):
    options, device, *expected = AUTO[case]
    config = SimCLRConfig(**{"preset": "cifar10", **options})
    settled = settle_network(config, Hardware(torch.device(device), None))
    assert [settled.backbone, settled.optimizer] == expected


VIEWS = {  # options, device -> views, their side
    "crops": ({}, "cpu", 4, 2 / 3),
    "published": ({"recipe": "paper"}, "cpu", 2, 1.0),
    "ResNet-18": ({}, "cuda", 2, 1.0),
    "garments": (PRESETS["fashion_mnist"].stage("simclr", "best"), "cpu", 4, 2 / 3),
    "weights of others": ({"backbone": "compact", "init": "resnet18"}, "cpu", 2, 1.0),
    "as many, said": ({"views": 4}, "cpu", 4, 1.0),
    "no crops": ({"augment": STROKES}, "cpu", 2, 1.0),
    "two said": ({"views": 2}, "cpu", 2, 1.0),
    "side said": ({"view_side": 0.5}, "cpu", 4, 0.5),
    "both said": ({"views": 8, "view_side": 0.5, "recipe": "paper"}, "cuda", 8, 0.5),
}


@pytest.mark.parametrize("case", VIEWS)
def test_the_compact_network_sees_more_and_smaller_crops(case):
    options, device, *expected = VIEWS[case]
    settled = settle_network(SimCLRConfig(**options), Hardware(torch.device(device), None))
    assert [settled.views, settled.view_side] == expected


WIDTHS = {  # options, device -> width
    "compact on a CPU": ({}, "cpu", 32),
    "published": ({"recipe": "paper"}, "cpu", 64),
    "on a GPU": ({"backbone": "compact"}, "cuda", 64),
    "ResNet-18": ({"backbone": "resnet18"}, "cpu", 64),
    "the preset's": (PRESETS["digits"].stage("simclr", "best"), "cpu", 16),
    "said": ({"width": 48}, "cpu", 48),
}


@pytest.mark.parametrize("case", WIDTHS)
def test_the_compact_network_is_thinner_on_a_cpu(case):
    options, device, expected = WIDTHS[case]
    settled = settle_network(SimCLRConfig(**options), Hardware(torch.device(device), None))
    assert settled.width == settled.width_of_network == expected


def test_moco_has_two_views():
    settled = settle_network(MoCoConfig(), Hardware(torch.device("cpu"), None))
    assert [settled.views, settled.view_side] == [2, 1.0]
    with pytest.raises(UserError, match="--views"):
        MoCoConfig(views=4)


def test_wrong_views_are_told():
    with pytest.raises(UserError, match="--views 1: must be at least 2"):
        SimCLRConfig(views=1)
    with pytest.raises(UserError, match="--view-side"):
        starting_preset(SimCLRConfig(init="resnet18", view_side=0.5), on_cpu=True)


@pytest.mark.parametrize(("side", "pixels"), [(None, 24), (1.0, 24), (2 / 3, 16), (0.1, 4)])
def test_the_side_of_a_view(side, pixels):
    assert SimCLRConfig(view_side=side).view_size(24) == pixels


def test_timm_missing_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        load_backbone("timm:resnet10t", 3, SIZE)
    with pytest.raises(UserError, match="pip install timm"):
        pretrained_preset("timm:resnet10t", PRESETS["folder"], 3, True)


# --- timm, where it is installed -----------------------------------------------------------------


@pytest.fixture
def timm_weights(monkeypatch):
    """timm, whose hub gives random weights: those of the same seed for the same name."""
    pytest.importorskip("safetensors")
    try:
        timm = import_timm()
    except UserError:
        pytest.skip("timm is not installed")
    create = timm.create_model

    def create_without_a_hub(name, pretrained, **options):
        torch.manual_seed(1 if pretrained else 2)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_without_a_hub)
    monkeypatch.setattr("src_py.run.timm_weights.require_hub", lambda: None)
    return timm


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
@pytest.mark.parametrize("channels", [1, 3])
def test_timm_networks_are_rebuilt_from_the_checkpoint(tmp_path, timm_weights, name, channels):
    settings = DataSettings("folder", None, SIZE, channels, IMAGENET_MEAN, IMAGENET_STD)
    config = SimCLRConfig(init=f"timm:{name}", projection_dim=8)
    model, vocabulary = pretrained_model(config, settings)
    save_checkpoint(tmp_path / "pretext.pt", contrastive_content(model, vocabulary))
    again = load_contrastive(tmp_path / "pretext.pt")
    images = torch.randn(2, channels, SIZE, SIZE)
    with torch.no_grad():
        features = again.backbone(images)  # (B, D)
        torch.testing.assert_close(features, model.backbone(images))
    assert features.shape == (2, again.backbone.feature_dim)
    assert not any(p.requires_grad for p in again.backbone.parameters())


def test_timm_names_and_sizes_are_checked(timm_weights):
    with pytest.raises(UserError, match="has no such model"):
        load_backbone("timm:resnet999", 3, SIZE)
    with pytest.raises(UserError, match="Invalid pretrained tag"):
        load_backbone("timm:test_vit.nowhere", 3, SIZE)
    with pytest.raises(UserError, match="--image-size 100: does not go with"):
        load_backbone("timm:test_vit.r160_in1k", 3, 100)


def test_timm_weights_bring_their_own_statistics(timm_weights):
    preset = pretrained_preset("timm:vit_tiny_patch16_224", PRESETS["folder"], 3, True)
    assert (preset.mean, preset.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
