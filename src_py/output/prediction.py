"""Classifying image files: decoded by threads, block by block, so that memory stays bounded."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src_py.backbones import Backbone
from src_py.clusters.corrections import NOTHING_SAID, correct
from src_py.clusters.names import ClusterNames
from src_py.images.decoding import Skipped, decode_in_threads
from src_py.images.files import read_square
from src_py.images.finding import Found, survey
from src_py.images.folders import pixel_digest
from src_py.images.image_set import DataSettings
from src_py.images.loaders import ImageLoader, ResidentImages, ordered_batches
from src_py.images.ranges import Range, stored_range
from src_py.images.tars import is_in_shards
from src_py.inference import folded, infer
from src_py.models import ClusteringModel
from src_py.output.gallery_images import GalleryImages
from src_py.run.addresses import as_text
from src_py.run.arrays import load_features
from src_py.run.bars import progress_bar
from src_py.run.errors import UserError
from src_py.run.files import RunFiles
from src_py.run.hardware import Hardware
from src_py.run.stored_models import load_clustering

SHOWN_AT_ONCE = 256  # images whose thumbnails are made together
NOTHING_GIVEN: Mapping[Path, int] = MappingProxyType({})


class Prediction(NamedTuple):
    """What the classifier says of one image."""

    path: Path
    cluster: int  # the lowest of a merged group
    name: str
    confidence: float  # probability of the cluster, or of its group, 0 to 1


def list_files(paths: Iterable[Path], out: Path) -> list[Path]:
    """The files named, and all image files below the folders named, in input order.

    Args:
        out: where results go. Inside a folder named it is left out, or images that have been
            sorted would be classified again, as others.

    Raises:
        UserError: for a path that does not exist, or when there is no image file at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir() or is_in_shards(path):
            found += _survey_outside(path, out).images
        elif path.is_file():
            found.append(path)
        elif path.exists():  # a pipe, a device: reading it might never end
            raise UserError(f"{path} is neither a file nor a folder")
        else:
            raise UserError(f"{path} does not exist")
    if not found:
        raise UserError(f"no image file in {', '.join(map(str, paths))}")
    return found


def list_left_out(paths: Iterable[Path], out: Path) -> Skipped:
    """Path and reason of the pictures below the folders named that are not even opened."""
    folders = [path for path in paths if path.is_dir() or is_in_shards(path)]
    found = [item for path in folders for item in _survey_outside(path, out).left_out]
    return [(as_text(path), reason) for path, reason in found]


def _survey_outside(folder: Path, out: Path) -> Found:
    """What lies below a folder, without `out` where that lies there too."""
    found = survey(folder)
    if folder.resolve() not in out.resolve().parents:
        return found
    inside = folder / out.resolve().relative_to(folder.resolve())
    images = [path for path in found.images if not path.is_relative_to(inside)]
    left_out = [item for item in found.left_out if not item[0].is_relative_to(inside)]
    return found._replace(images=images, left_out=left_out)


@dataclass(frozen=True)
class Classifier:
    """A trained model, and all that its predictions depend on.

    Attributes:
        model: with one head, on the hardware's device.
        settings: how it must be shown images.
        temperature: that the logits are divided by.
    """

    model: ClusteringModel
    settings: DataSettings
    temperature: float
    hardware: Hardware
    batch_size: int

    def outputs(self, images: ImageLoader) -> tuple[Tensor, np.ndarray]:
        """Features (N, D) on the device, and probabilities (N, clusters), of all images."""
        blocks = infer(self._encoder, images, self.hardware, self.batch_size)
        features = torch.cat(list(blocks))
        return features, self.probabilities(features)

    @cached_property
    def _encoder(self) -> Backbone:
        """The backbone, in the form that is fastest for weights that are not trained any more."""
        return folded(self.model.backbone, self.settings.image_size)

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> np.ndarray:
        """(N, clusters) of images whose features (N, D) are known."""
        logits = self.model.heads(features)[0]
        return (logits / self.temperature).softmax(dim=1).cpu().numpy()

    def of_run(self, files: RunFiles, images: ImageLoader) -> tuple[Tensor, np.ndarray]:
        """As `outputs`, of the images that a run was trained on, in the order of its mining.

        Frozen weights have seen them before, and what they gave is stored.
        """
        if not self.model.backbone.spec.frozen:
            return self.outputs(images)
        features = torch.from_numpy(load_features(files)).to(self.hardware.device)
        return features, self.probabilities(features)


@dataclass(frozen=True)
class SeenImages:
    """What frozen weights gave for the images of a run; pixels they have seen are not shown again.

    Attributes:
        rows: of `features`, by an image's `pixel_digest`.
        features: (N, D) on the device.
    """

    rows: Mapping[bytes, int]
    features: Tensor

    @staticmethod
    def of_run(files: RunFiles, classifier: Classifier, rows: Mapping[bytes, int]) -> "SeenImages":
        """Those of a run whose weights are frozen; none where nothing was kept."""
        try:
            features = torch.from_numpy(load_features(files)).to(classifier.hardware.device)
        except UserError:  # damaged or gone: the network can do without
            return NOTHING_SEEN
        return SeenImages(rows, features)

    def outputs(
        self, classifier: Classifier, squares: Sequence[np.ndarray], images: ResidentImages
    ) -> tuple[Tensor, np.ndarray]:
        """As `Classifier.outputs`.

        Args:
            squares: the same images, as they were decoded.
        """
        rows = [self.rows.get(pixel_digest(square)) for square in squares] if self.rows else []
        if not rows or None in rows:
            return classifier.outputs(images)
        features = self.features[rows]
        return features, classifier.probabilities(features)


NOTHING_SEEN = SeenImages({}, torch.empty(0, 0))


def open_classifier(checkpoint: Path, hardware: Hardware, batch_size: int = 256) -> Classifier:
    """The classifier that scan.py or selflabel.py left in `checkpoint`."""
    model, content = load_clustering(checkpoint)
    settings = DataSettings(**content["data"])
    return Classifier(hardware.place(model), settings, content["temperature"], hardware, batch_size)


def show_images(
    images: ImageLoader,
    names: Sequence[str],
    outputs: tuple[Tensor, np.ndarray],
    given: np.ndarray,
    clusters: int,
) -> GalleryImages:
    """What a gallery needs of a run's own images.

    Args:
        outputs: of the classifier for all of them.
        given: (N,) int64, the cluster that a person said of each, -1 where nothing is said.
        clusters: of the classifier, and those that splits have added.
    """
    shown = GalleryImages()
    features, probabilities = outputs
    probabilities = correct(probabilities, given, clusters)
    for indices, pixels in images.batches(ordered_batches(len(images), SHOWN_AT_ONCE)):
        rows = indices.tolist()
        told = (features[indices], probabilities[rows])
        shown.add([names[row] for row in rows], pixels, *told)
    return shown


def classify_files(
    paths: list[Path],
    classifier: Classifier,
    cluster_names: ClusterNames,
    shown: GalleryImages | None = None,
    given: Mapping[Path, int] = NOTHING_GIVEN,
    seen: SeenImages = NOTHING_SEEN,
) -> tuple[list[Prediction], Skipped]:
    """Predictions for the readable files, in order, and (path, reason) of the others.

    Args:
        cluster_names: names and merged groups of the clusters.
        shown: where to put what a gallery needs of them.
        given: the cluster that a person said of some of them.
        seen: what is known of images of the run.
    """
    predictions: list[Prediction] = []
    skipped: Skipped = []
    settings = classifier.settings

    ranges = settings.ranges or {}
    choose_stored = stored_range(ranges)
    by_their_own: list[str] = []

    def choose(sort: str, values: np.ndarray) -> Range:
        if sort not in ranges:
            by_their_own.append(sort)  # from several threads, which a list takes
        return choose_stored(sort, values)

    def decode(path: Path) -> np.ndarray:
        return read_square(path, settings.image_size, settings.channels, choose)

    world, size = classifier.hardware.world, classifier.batch_size
    blocks = [paths[start : start + size] for start in range(0, len(paths), size)]
    own = [path for block in blocks for path in block[world.part(len(block))]]
    progress = progress_bar("predict", len(paths))
    with progress, closing(decode_in_threads(decode, own)) as decoding:
        for block in blocks:
            part = world.part(len(block))
            squares = world.gathered(list(islice(decoding, part.stop - part.start)))
            decoded = list(zip(block, squares, strict=True))
            progress.update(len(decoded))
            skipped += [(as_text(path), image) for path, image in decoded if isinstance(image, str)]
            readable = [(path, image) for path, image in decoded if not isinstance(image, str)]
            if not readable:
                continue
            pixels = torch.from_numpy(np.stack([image for _, image in readable]))
            device = classifier.hardware.device
            images = ResidentImages(pixels.permute(0, 3, 1, 2), device, world)
            known = [image for _, image in readable]
            features, apart = seen.outputs(classifier, known, images)
            said = np.array([given.get(path, NOTHING_SAID) for path, _ in readable])
            apart = correct(apart, said, cluster_names.clusters)
            if shown is not None:
                shown.add([as_text(path) for path, _ in readable], images.images, features, apart)
            probabilities = cluster_names.merged(apart)
            predictions += [
                Prediction(path, cluster, cluster_names.name_of(cluster), float(row[cluster]))
                for (path, _), row, cluster in zip(
                    readable, probabilities, probabilities.argmax(axis=1).tolist(), strict=True
                )
            ]
    for sort, count in Counter(world.gathered(by_their_own)).items():
        print(f"{count} images of {sort}, each by its own range: the run was trained on none")
    return predictions, skipped
