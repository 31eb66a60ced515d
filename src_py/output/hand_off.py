"""Predictions as files for a person to review, and for labelling tools to import."""

import base64
import io
import os
import shlex
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from src_py.clusters.names import ClusterNames
from src_py.images.files import read_image
from src_py.images.opening import UnreadableImage
from src_py.images.ranges import ChooseRange, Ranges, stored_range
from src_py.output.gallery_page import page_template
from src_py.output.prediction import Prediction
from src_py.output.thumbnails import thumbnail
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import write_atomically, write_json

# Where Label Studio serves images from: its document root, and the folders that a project must be
# given as local storages.
LabelStudioFolders = tuple[Path, list[Path]]

HEADER = ("path", "cluster", "name", "confidence")
THUMBNAIL = 128  # longest side in px


def write_predictions(path: Path, predictions: list[Prediction]) -> None:
    """CSV of path, cluster, name, confidence."""
    write_table(
        path, HEADER, ((p.path, p.cluster, p.name, f"{p.confidence:.4f}") for p in predictions)
    )


def write_review(
    csv: Path,
    page: Path,
    predictions: list[Prediction],
    size: int,
    ranges: Ranges | None = None,
) -> None:
    """The `size` least confident predictions, as a CSV file and as a page with their images.

    Args:
        ranges: of numbers of more than 8 bits, as the network sees them (DataSettings).
    """
    doubtful = sorted(predictions, key=lambda p: p.confidence)[:size]
    write_predictions(csv, doubtful)
    template = page_template("review_template.html")
    choose = stored_range(ranges or {})
    shown = [(prediction, _data_uri(prediction.path, choose)) for prediction in doubtful]
    _write_text(page, template.render(shown=shown))


def hand_off(
    out: Path, predictions: list[Prediction], cluster_names: ClusterNames, run: str
) -> None:
    """Writes the files for Label Studio and FiftyOne into `out`, and prints how to import them.

    Raises:
        UserError: when neither tool could open a single image.
    """
    predictions, left_out = split_by_name(predictions)
    if not predictions:
        raise UserError("--hand-off: no image has a name that is UTF-8 text")
    names = list(dict.fromkeys(cluster_names.name_of(group[0]) for group in cluster_names.groups))
    tasks, interface = out / "label_studio.json", out / "label_studio.xml"
    root, storages = write_label_studio(tasks, interface, predictions, names, run)
    print(
        f"{tasks}: start Label Studio with LOCAL_FILES_SERVING_ENABLED=true "
        f"LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(root))}; give a project {interface} as "
        f"labeling interface and {' and '.join(shlex.quote(str(s)) for s in storages)} as local "
        f"storage (save it, do not sync), and import the file"
    )
    labels_file = out.resolve() / "fiftyone.json"
    write_fiftyone(labels_file, predictions, names)
    print(
        f"{out / 'fiftyone.json'}: fiftyone.Dataset.from_dir("
        f"dataset_type=fiftyone.types.FiftyOneImageClassificationDataset, "
        f'labels_path={str(labels_file)!r}, label_field="prediction")'
    )
    if left_out:
        print(f"--hand-off: {len(left_out)} images left out, whose names are not UTF-8 text")


def write_label_studio(
    tasks: Path, interface: Path, predictions: list[Prediction], names: list[str], model: str
) -> LabelStudioFolders:
    """Label Studio's tasks with predictions (JSON), and the labeling interface for them (XML).

    Args:
        predictions: of files whose names are text (split_by_name).
        names: all that may be chosen.
        model: the version that the predictions are stored under.
    """
    files = [Path(os.path.abspath(p.path)) for p in predictions]
    root, storages = _label_studio_folders(files)
    content = [
        _task(file.relative_to(root), prediction, model)
        for file, prediction in zip(files, predictions, strict=True)
    ]
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    _write_text(interface, INTERFACE.format(choices=choices))
    write_json(tasks, content)
    return root, storages


def split_by_name(predictions: list[Prediction]) -> tuple[list[Prediction], list[Prediction]]:
    """Those whose path is text, and those whose path has bytes that are not UTF-8: neither tool
    can open these."""
    text, other = [], []
    for prediction in predictions:
        try:
            str(prediction.path).encode("utf-8")
        except UnicodeEncodeError:
            other.append(prediction)
        else:
            text.append(prediction)
    return text, other


def write_fiftyone(path: Path, predictions: list[Prediction], names: list[str]) -> None:
    """The labels file of FiftyOne's FiftyOneImageClassificationDataset.

    Images are named by their absolute paths and stay where they are; a label is the number of its
    name in "classes".

    Args:
        predictions: of files whose names are text (split_by_name).
    """
    number = {name: row for row, name in enumerate(names)}
    labels = {
        os.path.abspath(p.path): {"label": number[p.name], "confidence": round(p.confidence, 4)}
        for p in predictions
    }
    write_json(path, {"classes": names, "labels": labels})


def _label_studio_folders(files: list[Path]) -> LabelStudioFolders:
    """The root, and a folder below it that has all files, or the folders below / that have them.

    Label Studio takes no storage that is its root, nor one whose path ends in a blank or has a
    backslash: it changes such a path.

    Raises:
        UserError: when the files are on several drives.
    """
    try:
        storage = Path(os.path.commonpath([file.parent for file in files]))
    except ValueError:
        raise UserError("--hand-off: images on several drives; classify each alone") from None
    while str(storage).strip() != str(storage) or "\\" in storage.as_posix():
        storage = storage.parent
    if storage != storage.parent:
        return storage.parent, [storage]
    tops = {storage.joinpath(*file.parts[:2]) for file in files}
    return storage, sorted(tops)


def _task(file: Path, prediction: Prediction, model: str) -> dict:
    choice = {
        "type": "choices",
        "from_name": "label",
        "to_name": "image",
        "value": {"choices": [prediction.name]},
    }
    score = round(prediction.confidence, 4)
    return {
        "data": {"image": "/data/local-files/?d=" + quote(os.fsencode(file.as_posix()))},
        "predictions": [{"model_version": model, "score": score, "result": [choice]}],
    }


def _data_uri(path: Path, choose: ChooseRange) -> str:
    """An image as a small picture in a page; empty where the file has become unreadable."""
    try:
        pixels = read_image(path, at_least=2 * THUMBNAIL, choose=choose)
    except UnreadableImage:
        return ""
    picture = thumbnail(pixels, THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _write_text(path: Path, text: str) -> None:
    # A file's name may hold bytes that are no text.
    content = text.encode("utf-8", "replace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


INTERFACE = """<View>
  <Image name="image" value="$image"/>
  <Choices name="label" toName="image" choice="single">
{choices}  </Choices>
</View>
"""
