"""Networks of the timm package: with its weights, with a package's, or with those of a file."""

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from configs.weights import SIDE, SIDE_ON_CPU, WEIGHTS
from src_py.backbones import TimmBackbone, TimmSpec, import_timm, set_input_size
from src_py.run.errors import UserError, first_line
from src_py.run.hub import cached_weights, require_hub, weights_address
from src_py.run.init_option import FILE_MARK, InitOption
from src_py.run.vocabulary import Vocabulary, imagenet_vocabulary
from src_py.run.weight_files import InitReport, fill, read_tensors, weights_among

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

IMAGENET_TAG = "in1k"  # in the tag of weights whose classifier tells ImageNet-1k's classes
TOLERANCE = 1e-3  # of logits, which are about 1 to 10

# EfficientNet as the package efficientnet-pytorch names it, and with it the files that descend from
# it. The first block of all has no expansion, so that its batch norms are counted from one less.
EFFICIENTNET_STEM = "_conv_stem.weight"
EFFICIENTNET_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
EFFICIENTNET_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
EFFICIENTNET_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def timm_weights_config(option: InitOption) -> "PretrainedCfg":
    """What timm knows of the weights.

    Raises:
        UserError: when timm has no such network, or no weights of it and no file is given.
    """
    timm = import_timm()
    name = option.timm_name
    if not timm.is_model(name):
        raise UserError(
            f"--init {option.typed}: timm {timm.__version__} has no such model; "
            f"python -c 'import timm; print(timm.list_pretrained())' lists them"
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"--init {option.typed}: {first_line(error)}") from None
    if option.file is None and not config.has_weights:
        raise UserError(f"--init {option.typed}: timm has no trained weights of this model")
    return config


def usual_size(config: "PretrainedCfg", on_cpu: bool) -> int:
    """Side of the images in px: the one that the weights were trained with, smaller on a CPU. A
    transformer's must go with its patches, which only its own sizes are known to do."""
    size = config.input_size[-1]
    if not on_cpu:
        return size
    return min(size, SIDE if config.fixed_input_size else SIDE_ON_CPU)


def load_timm(
    option: InitOption, channels: int, image_size: int, frozen: bool
) -> tuple[TimmBackbone, InitReport, Vocabulary | None]:
    """A network of timm with its weights; its classifier is kept apart, where it tells ImageNet's
    classes.

    Raises:
        UserError: when the weights cannot be had, are of another network, or do not go with the
            images.
    """
    config = timm_weights_config(option)
    entry = option.entry
    spec = TimmSpec(option.timm_name, channels, image_size, frozen)
    if entry is not None:
        spec = replace(spec, pooling=entry.pooling, projected=entry.projected)
    backbone = _build(option, spec)
    network, report = _complete_network(option, spec)
    set_input_size(network, image_size)
    _copy(network, backbone.network)

    wanted = set(weights_among(backbone.network.state_dict()))
    vocabulary = None
    if IMAGENET_TAG in (config.tag or "") and set(report.missing) <= wanted:
        vocabulary = _classifier(network, backbone, image_size)
    return backbone, _report_of(wanted, report, vocabulary), vocabulary


def _report_of(wanted: set[str], complete: InitReport, vocabulary: Vocabulary | None) -> InitReport:
    """What a report on the complete network says of the backbone, whose names are `wanted`."""
    rest = [name for name in complete.matched if name not in wanted]
    return InitReport(
        complete.source,
        matched=[name for name in complete.matched if name in wanted],
        missing=[name for name in complete.missing if name in wanted],
        unexpected=complete.unexpected + (rest if vocabulary is None else []),
        words=0 if vocabulary is None else len(vocabulary.words),
    )


def recognise(tensors: dict[str, Tensor]) -> str | None:
    """The short name of the network in the table that nearly all of a file's tensors fit."""
    shares: dict[str, float] = {}
    for name, entry in WEIGHTS.items():
        if entry.timm_name and tensors:
            network = _network_without_weights(entry.timm_name, entry.pooling)
            shares[name] = _share_fitting(network, tensors)
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] > 0.9 else None


# --- building ------------------------------------------------------------------------------------


def _build(option: InitOption, spec: TimmSpec) -> TimmBackbone:
    """The backbone with random weights, once it has seen an image of the run's size.

    Raises:
        UserError: when the network cannot take images of this size, as a transformer whose patches
            do not divide it.
    """
    try:
        backbone = TimmBackbone(spec)
        was_training = backbone.training
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, spec.channels, spec.image_size, spec.image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--image-size {spec.image_size}: does not go with --init {option.typed} "
            f"({first_line(error)}); {SIDE} mostly does"
        ) from None
    backbone.train(was_training)
    return backbone


def _complete_network(option: InitOption, spec: TimmSpec) -> tuple[nn.Module, InitReport]:
    """The network for colour images of its own size, classifier included, and what was filled."""
    timm, options = import_timm(), spec.network_options()
    source = option.name or f"{option.timm_name} of timm"
    if option.file is not None:
        network = timm.create_model(option.timm_name, pretrained=False, **options)
        return network, _fill_from_file(option, network, f"{source}, {option.file.name}")
    config = timm_weights_config(option)
    here = cached_weights(config)
    try:
        if here is None and config.hf_hub_id:
            require_hub()
        network = timm.create_model(
            option.timm_name,
            pretrained=True,
            pretrained_cfg_overlay=None if here is None else {"file": str(here)},
            **options,
        )
    except Exception as error:  # what a hub's client raises offline differs from version to version
        raise UserError(
            f"--init {option.typed}: its weights cannot be loaded ({first_line(error)}); fetch "
            f"{weights_address(config)} on another machine and give the file: --init "
            f"{option.typed}{FILE_MARK}FILE"
        ) from None
    matched = weights_among(network.state_dict())
    return network, InitReport(source, matched, missing=[], unexpected=[])


def _copy(network: nn.Module, backbone: nn.Module) -> None:
    """Copies all but the classifier; for grey images the first convolution is summed over red,
    green and blue, so that they give what they gave as colour ones."""
    complete = network.state_dict()
    state = {}
    for name, own in backbone.state_dict().items():
        value = complete[name]
        if value.shape[1:2] == (3,) and own.shape[1:2] == (1,):
            value = value.sum(dim=1, keepdim=True)
        state[name] = value
    backbone.load_state_dict(state)


def _classifier(network: nn.Module, backbone: TimmBackbone, image_size: int) -> Vocabulary | None:
    """ImageNet's words with the network's last layer, provided that it is linear and reads what
    the backbone gives; of a few networks it is not or does not."""
    layer = network.get_classifier()  # type: ignore[operator]
    if not isinstance(layer, nn.Linear) or layer.in_features != backbone.feature_dim:
        return None
    vocabulary = imagenet_vocabulary(layer.weight, layer.bias)
    if vocabulary is None:
        return None
    was_training = backbone.training
    image = torch.rand(1, 1, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = network.eval()(image.expand(-1, 3, -1, -1))
        found = vocabulary.logits(backbone.eval()(image.expand(-1, backbone.spec.channels, -1, -1)))
    backbone.train(was_training)
    return vocabulary if torch.allclose(found, told, rtol=TOLERANCE, atol=TOLERANCE) else None


# --- files ---------------------------------------------------------------------------------------


def _fill_from_file(option: InitOption, network: nn.Module, source: str) -> InitReport:
    """
    Raises:
        UserError: when less than half of the network is in the file.
    """
    assert option.file is not None
    tensors = read_tensors(option.typed, Path(option.file))
    report = fill(network, _in_timms_names(network, tensors), source)
    if report.is_of_another_network:
        total = len(report.matched) + len(report.missing)
        raise UserError(
            f"--init {option.typed}: only {len(report.matched)} of the {total} tensors of "
            f"{option.timm_name} match (not found, for one: {report.missing[0]})"
            + advice(option.file, tensors)
        )
    return report


def advice(file: Path, tensors: dict[str, Tensor]) -> str:
    """How to load a file, where it is of a network in the table; else ""."""
    name = recognise(tensors)
    return "" if name is None else f"; it fits {name}: --init {name}{FILE_MARK}{file}"


@cache
def _network_without_weights(timm_name: str, pooling: str) -> nn.Module:
    """Its names and shapes only, which takes no memory."""
    with torch.device("meta"):
        return import_timm().create_model(timm_name, global_pool=pooling)


def _in_timms_names(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors as timm names them, in the layouts of other projects that timm or this
    module knows; as they are where they are in none."""
    own = network.state_dict()
    first = next(iter(own))
    prefixes = (name.removesuffix(first) for name in tensors if name.endswith(first))
    prefix = next((p for p in prefixes if p == "" or p.endswith(".")), "")
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if EFFICIENTNET_STEM in state:
        return _efficientnet_in_timms_names(own, state)
    # By this name timm's modules have what they apply to files, where they need anything.
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        return state if convert is None else convert(state, network)
    except Exception:  # whatever a file of another network leads to
        return state  # the report will say what does not match


def _efficientnet_in_timms_names(
    own: dict[str, Tensor], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    blocks = list(dict.fromkeys(m[0] for name in own if (m := re.match(r"blocks\.\d+\.\d+", name))))
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks" and int(parts[1]) < len(blocks):
            number, part, kind = parts[1:]
            has_expansion = f"_blocks.{number}._expand_conv.weight" in state
            known = EFFICIENTNET_BLOCK if has_expansion else EFFICIENTNET_FIRST_BLOCK
            name = f"{blocks[int(number)]}.{known.get(part, part)}.{kind}"
        elif parts[0] in EFFICIENTNET_ENDS:
            name = f"{EFFICIENTNET_ENDS[parts[0]]}.{parts[1]}"
        renamed[name] = value
    return renamed


def _share_fitting(network: nn.Module, tensors: dict[str, Tensor]) -> float:
    own = network.state_dict()
    state = _in_timms_names(network, tensors)
    asked = weights_among(own)
    return sum(k in state and state[k].shape == own[k].shape for k in asked) / len(asked)
