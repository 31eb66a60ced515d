"""The arms of benchmark.py: a stage's step as the predecessors do it, as we do, and the limit."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from configs.base_config import TrainingConfig
from configs.config_benchmark import BenchmarkConfig
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_predict import PredictConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.backbones import Backbone, Spec, build_backbone
from src_py.images.loaders import ResidentImages
from src_py.inference import infer
from src_py.losses import nt_xent, scan_loss, self_label_loss
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel
from src_py.neighbors import UNKNOWN, Neighbors, find_neighbors, neighbor_recall
from src_py.optimizers import adam, descend, pretext_optimizer
from src_py.pseudo_labels import PseudoLabels
from src_py.research.benchmarking import (
    Arm,
    Step,
    measure,
    private_memory,
    steady,
    top_operations,
)
from src_py.research.device_peak import Peak, flops_per_image
from src_py.research.reference_pipeline import (
    ViewsOfImages,
    endless_batches,
    plain_view,
    simclr_view,
    strong_view,
)
from src_py.run.hardware import Hardware
from src_py.run.planning import Steps, Trained
from src_py.training_loops import scan_steps, self_label_steps, simclr_steps
from src_py.transforms import normalize, to_float

IMAGES = 4096  # random images that the steps draw from
CLUSTERS = 10
ROWS_OF_A_GROUP = 10_000  # of the features that neighbors are searched for, where they are many
VIEWS = 2  # of an image in a step, or the image and its neighbor
CPU_BATCH = 128  # images a step; the stages' own batches would need minutes for a round
STATISTICS = ((0.5,) * 3, (0.25,) * 3)

Model = TypeVar("Model", ContrastiveModel, ClusteringModel)
Config = TypeVar("Config", bound=TrainingConfig)


def measure_stage(
    stage: str,
    spec: Spec,
    config: BenchmarkConfig,
    stage_config: TrainingConfig | ExtractFeaturesConfig | PredictConfig,
    hardware: Hardware,
    peak: Peak,
) -> dict:
    """Images per second of every arm of a stage, its share of the peak, and the ratios of ours.

    Args:
        stage_config: of the stage itself.
        peak: of this hardware.
    """
    size = config.image_size
    batch = config.batch_size or (
        CPU_BATCH if hardware.device.type == "cpu" else stage_config.batch_size
    )
    random = torch.Generator().manual_seed(config.seed)
    pixels = torch.randint(256, (IMAGES, 3, size, size), generator=random, dtype=torch.uint8)
    built_with = (pixels, spec, batch, stage_config, hardware)
    arms = BUILDERS[stage](*built_with)
    if config.compile:
        arms["compiled"] = BUILDERS[stage](*built_with, True)["ours"]
    with arms["network"]() as step:  # what all arms have in common
        flops = flops_per_image(step)
    found = measure(arms, config.rounds, config.seconds, hardware.device)
    ours = found["ours"].median
    profiles = {}
    if config.profile:
        profiles = {name: top_operations(arm, hardware.device) for name, arm in arms.items()}
    return {
        "batch_size": batch,
        "flops_per_image": round(flops),
        "arms": {
            name: measurement.as_dict() | peak.reached(measurement.median, flops)
            for name, measurement in found.items()
        },
        "top_operations": profiles,
        "ours_over": {
            name: round(ours / measurement.median, 3)
            for name, measurement in found.items()
            if name != "ours"
        },
    }


def measure_mining(rows: int, width: int) -> dict:
    """Seconds, recall and peak memory of mining 20 neighbors of clustered synthetic features.

    As in extract_features.py, features and neighbors are memory maps: what their pages take is not
    counted, for the system can have them back at any time.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        _write_clustered(scratch / "features.npy", rows, width)
        features = np.load(scratch / "features.npy", mmap_mode="r")
        indices = open_memmap(scratch / "neighbors.npy", "w+", np.int64, (rows, 20))
        similarity = open_memmap(scratch / "similarity.npy", "w+", np.float32, (rows, 20))
        indices[:] = UNKNOWN
        started = time.perf_counter()
        with private_memory() as peak:
            find_neighbors(features, 20, found=Neighbors(indices, similarity), folder=scratch)
        return {
            "width": width,
            "seconds": round(time.perf_counter() - started, 2),
            "recall": round(neighbor_recall(features, indices), 4),
            "peak_memory_mib": round(peak() / 2**20),
        }


def _write_clustered(path: Path, rows: int, width: int) -> None:
    random = np.random.default_rng(0)
    groups = max(100, rows // ROWS_OF_A_GROUP)
    centers = random.standard_normal((groups, width), dtype=np.float32)
    features = open_memmap(path, "w+", np.float32, (rows, width))
    for start in range(0, rows, 100_000):
        part = features[start : start + 100_000]
        part[:] = random.standard_normal(part.shape, dtype=np.float32) * np.float32(0.5)
        part += centers[random.integers(groups, size=len(part))]


def _pretext(
    pixels: Tensor,
    spec: Spec,
    batch: int,
    config: SimCLRConfig,
    hardware: Hardware,
    compiled: bool = False,
) -> dict[str, Arm]:
    ours, alone, reference = (_normalizing(ContrastiveModel(spec)) for _ in range(3))
    trained: Trained = {"model": ours, "optimizer": pretext_optimizer(ours, config)}

    def loss_of_views(model: nn.Module, views: Tensor) -> Tensor:
        return nt_xent(model(views).chunk(2), config.temperature)

    view = simclr_view(pixels.shape[-1])
    data = ViewsOfImages(_as_arrays(pixels), [view, view])
    build = pretext_optimizer
    return {
        "reference": _reference(reference, build, config, data, batch, hardware, loss_of_views),
        "ours": _ours(simclr_steps, trained, config, pixels, (batch,), hardware, compiled),
        "network": _network(alone, build, config, pixels, 2 * batch, hardware, loss_of_views),
    }


def _scan(
    pixels: Tensor,
    spec: Spec,
    batch: int,
    config: ScanConfig,
    hardware: Hardware,
    compiled: bool = False,
) -> dict[str, Arm]:
    size = pixels.shape[-1]
    ours, alone, reference = (_classifier(spec, config.heads) for _ in range(3))
    trained: Trained = {"model": ours, "optimizer": adam(ours, config)}

    def loss_of_views(model: nn.Module, views: Tensor) -> Tensor:
        anchors, neighbors = model(views).chunk(2, dim=1)
        return scan_loss(anchors, neighbors, config.entropy_weight).total.sum()

    data = ViewsOfImages(_as_arrays(pixels), [strong_view(size), strong_view(size)], pairs=True)
    return {
        "reference": _reference(reference, adam, config, data, batch, hardware, loss_of_views),
        # Random images stand in the place of the neighbors.
        "ours": _ours(scan_steps, trained, config, pixels, (2, batch), hardware, compiled),
        "network": _network(alone, adam, config, pixels, 2 * batch, hardware, loss_of_views),
    }


def _self_label(
    pixels: Tensor,
    spec: Spec,
    batch: int,
    config: SelfLabelConfig,
    hardware: Hardware,
    compiled: bool = False,
) -> dict[str, Arm]:
    size = pixels.shape[-1]
    ours, alone, reference = (_classifier(spec, heads=1) for _ in range(3))
    trained: Trained = {"model": ours, "teacher": ours, "optimizer": adam(ours, config)}
    trained["pseudo_labels"] = PseudoLabels(len(pixels), hardware.device)

    def loss_of_views(model: nn.Module, views: Tensor) -> Tensor:
        weak, strong = views.chunk(2)
        model.eval()
        with torch.no_grad():
            weak_logits = model(weak)[0]
        model.train()
        return self_label_loss(weak_logits, model(strong)[0], config.threshold).loss

    data = ViewsOfImages(_as_arrays(pixels), [plain_view(), strong_view(size)])
    return {
        "reference": _reference(reference, adam, config, data, batch, hardware, loss_of_views),
        "ours": _ours(self_label_steps, trained, config, pixels, (batch,), hardware, compiled),
        "network": _network(alone, adam, config, pixels, 2 * batch, hardware, loss_of_views),
    }


def _extraction(
    pixels: Tensor, spec: Spec, batch: int, _: object, hardware: Hardware, compiled: bool = False
) -> dict[str, Arm]:
    classifiers = [_classifier(spec, heads=1) for _ in range(3)]
    backbones = [classifier.backbone for classifier in classifiers]
    return _inference(backbones, pixels, batch, hardware, compiled)


def _predict(
    pixels: Tensor, spec: Spec, batch: int, _: object, hardware: Hardware, compiled: bool = False
) -> dict[str, Arm]:
    classifiers = [_classifier(spec, heads=1) for _ in range(3)]
    return _inference(classifiers, pixels, batch, hardware, compiled)


def _inference(
    models: Sequence[Backbone | ClusteringModel],
    pixels: Tensor,
    batch: int,
    hardware: Hardware,
    compiled: bool,
) -> dict[str, Arm]:
    """
    Args:
        models: three alike, one for each arm.
    """
    ours, alone, reference = models
    images = ResidentImages(pixels, hardware.device)
    hardware.place(ours, compiled)
    hardware.place(alone).eval()
    fixed = _fixed_views(pixels, batch, hardware)

    def forward_alone() -> int:
        with torch.no_grad(), hardware.autocast():
            alone(fixed)
        return batch

    @contextmanager
    def reference_arm() -> Iterator[Step]:
        reference.to(hardware.device).eval()
        data = ViewsOfImages(_as_arrays(pixels), [plain_view()])
        batches = endless_batches(data, batch, hardware.device)

        def step() -> int:
            (views,) = next(batches)
            with torch.no_grad():
                reference(views)
            return len(views)

        yield step
        batches.close()

    @contextmanager
    def our_arm() -> Iterator[Step]:
        outputs: Iterator[Tensor] = iter(())

        def step() -> int:
            nonlocal outputs
            output = next(outputs, None)
            if output is None:  # all images have been seen: again from the first
                outputs = infer(ours, images, hardware, batch)
                output = next(outputs)
            return output.shape[-2]  # the last batch is smaller

        yield step

    return {"reference": reference_arm, "ours": our_arm, "network": lambda: steady(forward_alone)}


def _ours(
    steps: Steps,
    trained: Trained,
    config: TrainingConfig,
    pixels: Tensor,
    shape: tuple[int, ...],
    hardware: Hardware,
    compiled: bool,
) -> Arm:
    """The stage's own generator of steps, on resident uint8 images.

    Args:
        shape: of a batch of rows, as the generator takes it.
    """
    images = ResidentImages(pixels, hardware.device)
    generator = hardware.generator(0)
    hardware.place(trained["model"], compiled).train()

    @contextmanager
    def arm() -> Iterator[Step]:
        rows = (
            torch.randint(IMAGES, shape, generator=generator, device=generator.device)
            for _ in itertools.count()
        )
        context = {"generator": generator, "config": config, "hardware": hardware}
        taken = steps(**trained, batches=images.batches(rows), **context)
        yield lambda: VIEWS * next(taken).images

    return arm


def _network(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module, Config], torch.optim.Optimizer],
    config: Config,
    pixels: Tensor,
    views: int,
    hardware: Hardware,
    loss_of: Callable[[nn.Module, Tensor], Tensor],
) -> Arm:
    """The limit: the same network, loss and optimizer on one batch that is ready on the device."""
    optimizer = make_optimizer(hardware.place(model), config)
    fixed = _fixed_views(pixels, views, hardware)

    def step() -> int:
        with hardware.autocast():
            loss = loss_of(model, fixed)
        descend(optimizer, loss)
        return views

    return lambda: steady(step)


def _reference(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module, Config], torch.optim.Optimizer],
    config: Config,
    data: ViewsOfImages,
    batch: int,
    hardware: Hardware,
    loss_of: Callable[[nn.Module, Tensor], Tensor],
) -> Arm:
    """Pillow in worker processes on all cores, float32, contiguous."""
    model.to(hardware.device)
    optimizer = make_optimizer(model, config)

    @contextmanager
    def arm() -> Iterator[Step]:
        batches = endless_batches(data, batch, hardware.device)

        def step() -> int:
            views = torch.cat(next(batches))
            descend(optimizer, loss_of(model, views))
            return len(views)

        yield step
        batches.close()

    return arm


def _classifier(spec: Spec, heads: int) -> ClusteringModel:
    backbone = build_backbone(spec)
    heads_of_all = ClusterHeads(backbone.feature_dim, CLUSTERS, heads)
    return _normalizing(ClusteringModel(backbone, heads_of_all))


def _normalizing(model: Model) -> Model:
    model.backbone.set_statistics(*STATISTICS)
    return model


def _fixed_views(pixels: Tensor, views: int, hardware: Hardware) -> Tensor:
    return normalize(to_float(pixels[:views].to(hardware.device)), *STATISTICS)


def _as_arrays(pixels: Tensor) -> np.ndarray:
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


# Each takes the config of its own stage, so that all together have no one type of arguments.
BUILDERS: dict[str, Callable[..., dict[str, Arm]]] = {
    "pretext": _pretext,
    "scan": _scan,
    "selflabel": _self_label,
    "extraction": _extraction,
    "predict": _predict,
}
