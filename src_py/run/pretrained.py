"""Weights that others have trained, as the start of a run.

NAME            one of the table in configs/weights.py: efficientnet_lite0, resnet18, dinov2, ...
timm:NAME       any network of the timm package
NAME@FILE       either of these with weights that are on this machine already
FILE            a ResNet in torchvision's naming, whatever wraps it: torchvision, MoCo v2, DINO,
                SimSiam and others alike (.pth, .pt, .safetensors)
"""

from dataclasses import replace
from typing import NamedTuple, TypeVar

from torch import Tensor

from configs.config_simclr import SimCLRConfig
from configs.presets import FOLDER_PRESET, LARGEST_SIDE_ON_CPU, PAPER_RECIPE, PRESETS, Preset
from configs.weights import IMAGENET_MEAN, IMAGENET_STD, SIDE, SIDE_ON_CPU
from src_py.backbones import Backbone
from src_py.images.image_set import DataSettings
from src_py.models import ContrastiveModel
from src_py.run.errors import UserError
from src_py.run.hardware import Hardware
from src_py.run.hub import hub_folder
from src_py.run.init_option import FILE_MARK, InitOption, parse_init
from src_py.run.resnet_weights import (
    download_folder,
    download_resnet,
    has_small_stem,
    load_resnet,
    resnet_vocabulary,
    split_resnet,
)
from src_py.run.text_words import require_text, text_vocabulary
from src_py.run.timm_weights import advice, load_timm, timm_weights_config, usual_size
from src_py.run.vocabulary import Vocabulary
from src_py.run.weight_files import InitReport, read_tensors

WIDTH_ON_CPU = 32  # of the compact network

PretextConfig = TypeVar("PretextConfig", bound=SimCLRConfig)


def settle_network(config: PretextConfig, hardware: Hardware) -> PretextConfig:
    """The options with a network, an optimizer and views in the place of what nobody asked for.

    Within the same minutes of a CPU the compact network, by Muon, learns features that find more
    neighbors of the same class than ResNet-18's. On a GPU it did so within half a minute; there the
    paper's network stays what nobody has to ask for, since longer trainings have not been compared.
    Four small crops of each image teach the compact network more in that time than two large ones:
    they take little longer, and each meets three positives. What is no crop stays as large as the
    image, as which it will be shown later. In what a CPU computes in a quarter of an hour half the
    paper's width learnt more than all of it, and more than a quarter.
    """
    backbone, optimizer = config.backbone, config.optimizer
    is_published = config.recipe == PAPER_RECIPE
    if backbone == "auto":
        # What nobody says is chosen from the files, on a CPU no larger than these.
        size = config.image_size or PRESETS[config.preset].image_size or LARGEST_SIDE_ON_CPU
        is_small = hardware.device.type == "cpu" and size <= LARGEST_SIDE_ON_CPU
        is_compact = is_small and not is_published and config.init is None
        backbone = "compact" if is_compact else "resnet18"
    if optimizer == "auto":
        optimizer = "muon" if backbone == "compact" and not is_published else "sgd"
    are_crops = config.augment.crop_scale[0] < 1
    is_ours = backbone == "compact" and config.init is None and not is_published
    is_quick = is_ours and are_crops and config.views is None
    is_thin = is_ours and hardware.device.type == "cpu" and config.width is None
    return replace(
        config,
        backbone=backbone,
        optimizer=optimizer,
        width=WIDTH_ON_CPU if is_thin else config.width_of_network,
        views=4 if is_quick else config.views_of_image,
        view_side=config.view_side or (2 / 3 if is_quick else 1.0),
    )


class LoadedBackbone(NamedTuple):
    """A backbone with its weights.

    Attributes:
        report: what of it they filled.
        vocabulary: ImageNet's words, where the weights came with a classifier of them.
    """

    backbone: Backbone
    report: InitReport
    vocabulary: Vocabulary | None


def starting_preset(config: SimCLRConfig, on_cpu: bool) -> Preset:
    """The preset of a run, as its weights want it where it begins with some.

    Raises:
        UserError: as `pretrained_preset`, and where views are asked for that they do not know.
    """
    preset = PRESETS[config.preset]
    if config.init is None:
        return preset
    if config.view_side not in (None, 1.0):
        raise UserError("--view-side: weights of --init see views as large as the images")
    return pretrained_preset(config.init, preset, config.channels or preset.channels, on_cpu)


def pretrained_preset(init: str, preset: Preset, channels: int, on_cpu: bool) -> Preset:
    """The preset with the image size, mean and standard deviation that the weights go with.

    Small images are enlarged: the weights know objects at their own scale. Only a ResNet with a
    small stem keeps the preset's size.

    Args:
        channels: of the images, 1 or 3.

    Raises:
        UserError: when `init` is neither a known name nor a readable file.
    """
    option = parse_init(init)
    size: int | None = SIDE_ON_CPU if on_cpu else SIDE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if option.timm_name:
        config = timm_weights_config(option)
        mean, std, size = tuple(config.mean), tuple(config.std), usual_size(config, on_cpu)
    elif option.file is not None and has_small_stem(_open_resnet(option)[0]):
        size = preset.image_size
    if option.entry is not None and option.timm_name:
        size = option.entry.size_on_cpu if on_cpu else option.entry.size
        mean, std = option.entry.mean, option.entry.std
    if channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return replace(preset, image_size=size, mean=mean, std=std)


def pretrained_model(
    config: SimCLRConfig, settings: DataSettings
) -> tuple[ContrastiveModel, Vocabulary | None]:
    """A pretext model with the backbone that `config.init` names and a new projection head, and
    the words that its features can be compared with; prints what matched.

    Weights that are trained further have no words: their features move away from them.

    Raises:
        UserError: as `load_backbone` and `text_vocabulary`.
    """
    assert config.init is not None
    option = parse_init(config.init)
    frozen = not config.fine_tune
    if config.words is not None:
        require_text(option)
    loaded = load_backbone(config.init, settings.channels, settings.image_size, frozen)
    print(*loaded.report.lines(), sep="\n", flush=True)
    vocabulary = loaded.vocabulary
    if frozen and option.entry is not None and option.entry.text:
        vocabulary = text_vocabulary(option, config.words)
    model = ContrastiveModel(loaded.backbone.spec, config.projection_dim)
    model.backbone = loaded.backbone
    return model, vocabulary if frozen else None


def load_backbone(init: str, channels: int, image_size: int, frozen: bool = True) -> LoadedBackbone:
    """A backbone with the weights `init`, without its classifier.

    Args:
        init: as the top of this module says.
        channels: of the images, 1 or 3; with 1 the first convolution is summed over red, green
            and blue, so that a grey image gives what it gave as a colour one.
        image_size: side in px.
        frozen: whether the stages leave the weights as they are.

    Raises:
        UserError: when the weights cannot be had, are of another network, or do not go with the
            images.
    """
    option = parse_init(init)
    _announce(option)
    if option.timm_name:
        return LoadedBackbone(*load_timm(option, channels, image_size, frozen))
    unused: list[str] = []
    if option.file is None:
        state, source = download_resnet(option.name)
    else:
        state, unused, source = _open_resnet(option)
    # Of a file without a name nobody has said that its classes are ImageNet's.
    vocabulary = resnet_vocabulary(state) if option.name else None
    if vocabulary is not None:
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    backbone, report = load_resnet(init, state, source, channels, image_size, frozen)
    report = replace(
        report,
        unexpected=report.unexpected + unused,
        words=0 if vocabulary is None else len(vocabulary.words),
    )
    _require_match(option, report)
    return LoadedBackbone(backbone, report, vocabulary)


def weights_hint(config: SimCLRConfig, settings: DataSettings, on_cpu: bool) -> str | None:
    """What to say to a person who trains on photos of their own from nothing; None to others."""
    is_folder = config.preset == FOLDER_PRESET and settings.source == "folder"
    if config.init or not is_folder or settings.channels != 3:
        return None
    name = "efficientnet_lite0" if on_cpu else "dinov2"
    return (
        f"hint: --init {name} takes weights that know everyday photos and saves this stage's "
        f"training; from nothing is better for what is unlike photos: drawings, microscopy, "
        f"satellite images"
    )


def _announce(option: InitOption) -> None:
    """Prints what the weights are, whose, how large, and where they will be or are."""
    entry = option.entry
    if entry is not None:
        about = f"{entry.network}, {entry.licence}"
    elif option.timm_name:
        about = timm_weights_config(option).license or "licence not told"
    else:
        return
    if option.file is not None and entry is not None and FILE_MARK not in option.typed:
        place = f"of the package {entry.package}"
    elif option.file is not None:
        place = f"of {option.file}"
    else:
        size = "" if entry is None else f"{entry.megabytes} MB, "
        folder = hub_folder() if option.timm_name else download_folder()
        place = f"{size}downloaded once to {folder}"
    print(f"init: {option.typed.split(FILE_MARK)[0]}: {about}, {place}", flush=True)


def _open_resnet(option: InitOption) -> tuple[dict[str, Tensor], list[str], str]:
    """The ResNet in a file by torchvision's names, the names of all else, and what it is.

    Raises:
        UserError: when it holds none.
    """
    assert option.file is not None
    tensors = read_tensors(option.typed, option.file)
    found = split_resnet(tensors)
    if found is None:
        first = ", ".join(list(tensors)[:3]) or "none"
        raise UserError(
            f"--init {option.typed}: no ResNet in torchvision's naming among its {len(tensors)} "
            f"tensors (first: {first})"
            + (advice(option.file, tensors) or "; for other networks use --init timm:NAME@FILE")
        )
    state, unused, prefix = found
    name = option.file.name
    return state, unused, f"{name}, names beginning with '{prefix}'" if prefix else name


def _require_match(option: InitOption, report: InitReport) -> None:
    if report.is_of_another_network:
        total = len(report.matched) + len(report.missing)
        raise UserError(
            f"--init {option.typed}: only {len(report.matched)} of the {total} tensors of a ResNet "
            f"match (not found, for one: {report.missing[0]}); the file must hold a ResNet-18, 34 "
            f"or 50 in torchvision's naming, for others use --init timm:NAME@FILE"
        )
