"""From a checkpoint to files that other programs run: uint8 pixels in, probabilities out."""

import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from src_py.clusters.names import ClusterNames
from src_py.models import ClusteringModel
from src_py.run.errors import UserError
from src_py.run.files import sha256, write_atomically
from src_py.transforms import normalize, to_float

INPUT, OUTPUT = "pixels", "probabilities"
METADATA_FILE = "metadata.json"  # inside a .pt2 file
OPSET = 18  # the one that torch's exporter writes without a conversion
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a probability

Classify = Callable[[np.ndarray], np.ndarray]  # uint8 (B, C, S, S) -> float32 (B, clusters)


class PixelClassifier(nn.Module):
    """A classifier with all that stands before and behind its network, in float32 on the CPU.

    Args:
        model: with one head.
        content: the rest of its checkpoint.
    """

    def __init__(self, model: ClusteringModel, content: dict) -> None:
        super().__init__()
        data = content["data"]
        self.model = model
        self.temperature = content["temperature"]
        self.image_shape = (data["channels"], data["image_size"], data["image_size"])
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, S, S) uint8 -> (B, clusters) float32, each row with the sum 1."""
        logits = self.model(normalize(to_float(pixels), *self.model.statistics))[0]
        return (logits / self.temperature).softmax(dim=1)

    def random_pixels(self, batch: int) -> Tensor:
        """(batch, C, S, S) uint8, the same at each call."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, *self.image_shape)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def require_onnx() -> None:
    """
    Raises:
        UserError: naming the packages that the format needs and that are not installed.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs more packages: pip install {' '.join(missing)} "
            "(--format pt2 does without them)"
        )


def trace(classifier: PixelClassifier) -> ExportedProgram:
    """The classifier as a graph of tensor operations, for batches of any size."""
    program = torch.export.export(
        classifier,
        (classifier.random_pixels(2),),  # a batch of 1 would be taken for a constant
        dynamic_shapes=_dynamic_shapes(),
    )
    for node in program.graph.nodes:
        # Or the file would tell the folders of the machine that it was made on.
        node.meta.pop("stack_trace", None)
    return program


def metadata(run: str, checkpoint: Path, stage: str, cluster_names: ClusterNames) -> dict[str, str]:
    """What an exported file says of itself: strings, as ONNX asks for."""
    names = [cluster_names.name_of(cluster) for cluster in range(cluster_names.clusters)]
    return {
        "run": run,
        "stage": stage,
        "checkpoint_sha256": sha256(checkpoint),
        "cluster_names": json.dumps(names),
        "merged_clusters": json.dumps(cluster_names.merge),
    }


def save_onnx(
    path: Path, program: ExportedProgram, classifier: PixelClassifier, about: dict[str, str]
) -> float:
    """Writes an ONNX model, and returns its largest difference from the classifier.

    Raises:
        RuntimeError: when that is above the tolerance; nothing is then written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        onnx_program = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_dynamic_shapes(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert onnx_program is not None, "dynamo=True returns the program"
    onnx_program.model.metadata_props.update(about)
    return _write_checked(path, onnx_program.save, load_onnx, classifier)


def save_pt2(
    path: Path, program: ExportedProgram, classifier: PixelClassifier, about: dict[str, str]
) -> float:
    """Writes a torch.export program, and returns its largest difference from the classifier.

    Raises:
        RuntimeError: when that is above the tolerance; nothing is then written.
    """

    def save(temporary: Path) -> None:
        extra_files = {METADATA_FILE: json.dumps(about)}
        torch.export.save(program, temporary, extra_files=extra_files)

    return _write_checked(path, save, load_pt2, classifier)


def load_onnx(path: Path) -> Classify:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([OUTPUT], {INPUT: pixels})[0]


def load_pt2(path: Path) -> Classify:
    module = torch.export.load(path).module()
    return lambda pixels: module(torch.from_numpy(pixels)).numpy()


def _dynamic_shapes() -> dict:
    return {INPUT: {0: Dim("batch")}}


def _write_checked(
    path: Path,
    save: Callable[[Path], None],
    load: Callable[[Path], Classify],
    classifier: PixelClassifier,
) -> float:
    """Moves what `save` wrote to `path` once it has been loaded and compared."""
    differences = []

    def write(temporary: Path) -> None:
        save(temporary)
        exported = load(temporary)
        for batch in (1, 5):
            pixels = classifier.random_pixels(batch)
            differences.append(np.abs(exported(pixels.numpy()) - classifier(pixels).numpy()).max())
        if not max(differences) <= TOLERANCE:
            raise RuntimeError(f"{path.name} differs from its checkpoint by {max(differences):.1e}")

    write_atomically(path, write)
    return float(max(differences))
