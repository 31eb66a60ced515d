"""What a person must know who gets an exported model and nothing else, as Markdown."""

import datetime
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch

from src_py.clusters.names import ClusterNames
from src_py.images.ranges import COLOUR, FLOAT, INTEGER, Ranges
from src_py.output.export import INPUT, METADATA_FILE, OPSET, OUTPUT
from src_py.run import records
from src_py.run.files import FREE_OPTIONS, RunFiles, read_record, sha256
from src_py.run.stages import PRETEXTS

WIDTH = 96  # characters of a line of options

READ_SQUARE = '''
import numpy as np
from PIL import Image, ImageOps

SIZE, MODE = {size}, "{mode}"


def read_square(path):
    """The largest centred square of an image: uint8 (1, {channels}, SIZE, SIZE)."""
    with Image.open(path) as image:
        image.draft(None, (2 * SIZE, 2 * SIZE))  # decodes large JPEG files faster
        image = ImageOps.exif_transpose(image)
{deep}    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").convert(MODE)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(image).reshape(1, SIZE, SIZE, -1).transpose(0, 3, 1, 2)
'''

READ_DEEP = """\
    if {condition}:  # numbers of more than 8 bits
        low, high = {low!r}, {high!r}
        values = np.asarray(image, np.float64)
        values = (np.where(np.isfinite(values), values, low) - low) / (high - low)
        image = Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
"""
# Pillow would clip the numbers at 255, without a word.
REFUSE_DEEP = """\
    if {condition}:  # numbers of more than 8 bits
        raise ValueError("16-bit image: convert it to 8 bits first")
"""
DEEP_MODES = {INTEGER: 'image.mode.startswith("I")', FLOAT: 'image.mode == "F"'}

CALL_ONNX = """
import json

import onnxruntime

session = onnxruntime.InferenceSession({file!r})
about = session.get_modelmeta().custom_metadata_map
names = json.loads(about["cluster_names"])
merged = json.loads(about["merged_clusters"])
pixels = np.concatenate([read_square(path) for path in ["photo.jpg"]])
(probabilities,) = session.run(["{output}"], {{"{input}": pixels}})
for lowest, *others in merged:
    probabilities[:, lowest] += probabilities[:, others].sum(axis=1)
    probabilities[:, others] = 0
for row in probabilities:
    print(names[row.argmax()], row.max())
"""

CALL_PT2 = """
import json

import torch

about = {{"{metadata}": ""}}
model = torch.export.load({file!r}, extra_files=about).module()
about = json.loads(about["{metadata}"])
names = json.loads(about["cluster_names"])
merged = json.loads(about["merged_clusters"])
pixels = np.concatenate([read_square(path) for path in ["photo.jpg"]])
probabilities = model(torch.from_numpy(pixels))
for lowest, *others in merged:
    probabilities[:, lowest] += probabilities[:, others].sum(axis=1)
    probabilities[:, others] = 0
for row in probabilities:
    print(names[row.argmax()], row.max().item())
"""

LIMITS = """
- **Found without labels.** A cluster is a group of images that look alike to the network. Its name,
  where it has one, was given afterwards by a person, and need not fit every image in it.
- **Confidence is not accuracy.** It is the largest softmax output, at temperature {temperature:g}.
  It says how clearly an image falls into one cluster of this model, not how often that is right.
- **No answer "none of these".** Every image gets a cluster, an image of another kind as well, and
  sometimes with high confidence. Expect less on images from another camera, place or time than the
  training images.
- **Small images.** What cannot be seen at {size} x {size} px, or lies outside the centred square,
  plays no part.
- **Balanced clusters.** Training favours clusters of equal size: a rare kind may share a cluster
  with another, a frequent one may fill several.
- Not for decisions about people, nor where a mistake does harm, without a check on labelled images
  of the kind at hand.
"""

SCORES = {"acc": "ACC", "nmi": "NMI", "ari": "ARI"}
HEALTH = {
    "alive": "clusters with images",
    "smallest": "images in the smallest",
    "largest": "images in the largest",
    "confidence": "mean confidence",
    "confident_fraction": "share above 0.99",
    "balance": "balance (1 is even)",
}


@dataclass(frozen=True)
class ModelCard:
    """The facts that a model card tells.

    Attributes:
        files: of the run.
        checkpoint: of the classifier.
        content: what the checkpoint holds beside the weights.
        cluster_names: what a person says about the clusters.
        parameters: of the network, a count.
        exported: the files that the card lies beside.
    """

    files: RunFiles
    checkpoint: Path
    content: dict
    cluster_names: ClusterNames
    parameters: int
    exported: list[Path]

    def text(self) -> str:
        sections = (
            ("", self._summary()),
            ("Files", self._files()),
            ("Input and output", self._interface()),
            ("How to call it", self._calls()),
            ("Clusters", self._clusters()),
            ("Data", self._data()),
            ("Training", self._training()),
            ("Quality", self._quality()),
            ("Limits", self._limits()),
        )
        titled = [f"## {title}\n\n{body}" if title else body for title, body in sections]
        return "\n\n".join(titled) + "\n"

    def _summary(self) -> str:
        today = datetime.date.today().isoformat()
        clusters = self.cluster_names.clusters
        return (
            f"# {self.files.run}\n\n"
            f"Sorts images into {clusters} clusters that were learned without labels by\n"
            "SCAN (Van Gansbeke et al., ECCV 2020, https://arxiv.org/abs/2005.12320).\n"
            f"Exported on {today}. The last stage of its training is {self._stage}."
        )

    def _files(self) -> str:
        kinds = {
            ".onnx": f"ONNX, opset {OPSET}",
            ".pt2": f"torch.export, torch {torch.__version__}",
        }
        rows = [(path.name, kinds[path.suffix], f"`{sha256(path)}`") for path in self.exported]
        rows.append((self.checkpoint.name, "the checkpoint", f"`{sha256(self.checkpoint)}`"))
        return _table(("file", "kind", "SHA-256"), rows)

    def _interface(self) -> str:
        size, channels = self._settings["image_size"], self._settings["channels"]
        return (
            f"- `{INPUT}`: uint8 (B, {channels}, {size}, {size}), "
            f"{'RGB' if channels == 3 else 'grey'}, 0 to 255; B is any number of images.\n"
            f"  Normalisation is inside the model: do not normalise.\n"
            f"- `{OUTPUT}`: float32 (B, {self.cluster_names.clusters}), softmax at temperature "
            f"{self._temperature:g}; each row has the sum 1.\n"
            "  Computed in float32; predict.py may use bfloat16 and differ by its rounding.\n\n"
            "An image is turned upright by its EXIF data, put on white where it is transparent,\n"
            f"cut to its largest centred square, and resized to {size} x {size} px with an\n"
            f"antialiased bicubic filter. {self._ranges()}"
        )

    def _ranges(self) -> str:
        """How numbers of more than 8 bits become grey levels."""
        ranges = self._settings.get("ranges") or {}
        told = [f"{sort} from {low:.6g} to {high:.6g}" for sort, (low, high) in ranges.items()]
        if not told:
            return (
                "Numbers of more than 8 bits become 0 to\n255 first, by the range of each image: "
                "none were trained on, and the code below does not read them."
            )
        limits = (
            "\nThe code below does not read 16-bit colour: bring it to 8 bits by that range first."
            if COLOUR in ranges
            else ""
        )
        return (
            f"Numbers of more than 8 bits become 0 to\n255 first: {', '.join(told)}\n"
            f"(the range of the training images); values outside are black or white.{limits}"
        )

    def _calls(self) -> str:
        size, channels = self._settings["image_size"], self._settings["channels"]
        mode = "RGB" if channels == 3 else "L"
        deep = _read_deep(self._settings.get("ranges") or {})
        blocks = [READ_SQUARE.format(size=size, mode=mode, channels=channels, deep=deep)]
        terms = {"input": INPUT, "output": OUTPUT, "metadata": METADATA_FILE}
        calls = {".onnx": CALL_ONNX, ".pt2": CALL_PT2}
        blocks += [calls[path.suffix].format(file=path.name, **terms) for path in self.exported]
        return "\n\n".join(f"```python\n{block.strip()}\n```" for block in blocks)

    def _clusters(self) -> str:
        named = self.cluster_names
        rows = [(cluster, named.name_of(cluster)) for cluster in range(named.clusters)]
        table = _table(("cluster", "name"), rows)
        if not named.merge:
            return table
        groups = "; ".join(" and ".join(map(str, group)) for group in named.merge)
        return f"{table}\n\nOne kind each, whose probabilities are to be added: {groups}."

    def _data(self) -> str:
        settings = self._settings
        root = settings["root"]
        # The folder's name alone: the rest of the path is the business of the machine's owner.
        name = Path(root).name if settings["source"] == "folder" else settings["source"]
        rows = [
            ("images", name),
            ("number", _images(self.files)),
            ("size, px", settings["image_size"]),
            ("channels", settings["channels"]),
            ("mean", _plain(settings["mean"])),
            ("standard deviation", _plain(settings["std"])),
        ]
        return _table(("", ""), [row for row in rows if row[1] is not None])

    def _training(self) -> str:
        backbone = _options(self.content["backbone"])
        parts = [f"Network of {self.parameters:,} parameters.\n\n```\n{_wrap(backbone)}\n```"]
        for stage in self._stages():
            stored = self.files.record(stage)
            if stored is None:
                continue
            machine = [stored.get("hardware"), stored.get("torch") and f"torch {stored['torch']}"]
            where = ", ".join(filter(None, machine))
            options = _wrap(_options(stored["config"]))
            parts.append(f"{stage}.py{f' ({where})' if where else ''}\n\n```\n{options}\n```")
        return "\n\n".join(parts)

    def _stages(self) -> list[str]:
        """The scripts that made the classifier, in order."""
        pretext = self.files.output("simclr")  # of moco.py as well
        first = [self.files.maker(PRETEXTS[0])] if pretext.exists() else []
        stages = [*first, "extract_features", "scan", self._stage]
        return list(dict.fromkeys(stages))

    def _quality(self) -> str:
        result = self._evaluation()
        if result is None:
            return f"Not evaluated: `python evaluate.py --run {self.files.run}`, then export again."
        health = {split: stages[self._stage] for split, stages in result["label_free"].items()}
        rows = [
            (title, *(_score(summary[key]) for summary in health.values()))
            for key, title in HEALTH.items()
            if all(key in summary for summary in health.values())  # files of before lack some
        ]
        parts = ["Without labels:", _table(("", *health), rows)]
        if "mapping" in result:
            labelled = {split: result[split][self._stage] for split in health if result.get(split)}
            rows = [
                (title, *(_score(scores[key]) for scores in labelled.values()))
                for key, title in SCORES.items()
            ]
            mapping = f"Against labels, by {result['mapping']} mapping of clusters to classes:"
            parts += [mapping, _table(("", *labelled), rows)]
        return "\n\n".join(parts)

    def _evaluation(self) -> dict | None:
        """What evaluate.py found out about this checkpoint, not about an older one."""
        remedy = f"make it again: python evaluate.py {self.files.option}"
        result = read_record(self.files.evaluation, records.EVALUATION, remedy)
        if result is None or self._stage not in result["label_free"].get("train", {}):
            return None
        older = self.files.evaluation.stat().st_mtime < self.checkpoint.stat().st_mtime
        return None if older else result

    def _limits(self) -> str:
        size = self._settings["image_size"]
        return LIMITS.format(temperature=self._temperature, size=size).strip()

    @property
    def _settings(self) -> dict:
        return self.content["data"]

    @property
    def _stage(self) -> str:
        return self.content["stage"]

    @property
    def _temperature(self) -> float:
        return self.content["temperature"]


def _read_deep(ranges: Ranges) -> str:
    """The part of read_square for grey levels of more than 8 bits: by the run's range; those that
    it has none for are refused, as no number here says how bright they are."""
    parts = [
        READ_DEEP.format(condition=condition, low=ranges[sort][0], high=ranges[sort][1])
        for sort, condition in DEEP_MODES.items()
        if sort in ranges
    ]
    unknown = [condition for sort, condition in DEEP_MODES.items() if sort not in ranges]
    if unknown:
        parts.append(REFUSE_DEEP.format(condition=" or ".join(unknown)))
    return "".join(parts)


def _images(files: RunFiles) -> int | None:
    """How many images the run was trained on, where that is written down."""
    record = files.record("extract_features") or {}
    return record["images"]["count"] if "images" in record else None


def _options(config: dict, prefix: str = "") -> list[str]:
    """'name=value' of each option that says what was computed, nested ones by dotted names."""
    options = []
    for name, value in config.items():
        if isinstance(value, dict):
            options += _options(value, f"{prefix}{name}.")
        elif name not in FREE_OPTIONS | {"run"}:
            options.append(f"{prefix}{name}={_plain(value)}")
    return options


def _wrap(options: list[str]) -> str:
    return textwrap.fill("  ".join(options), WIDTH, break_on_hyphens=False, break_long_words=False)


def _table(header: tuple, rows: list[tuple]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    """A bar or a line break in a name would end the table's cell."""
    return " ".join(str(value).replace("|", "\\|").split())


def _score(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _plain(value: object) -> str:
    """A sequence as '0.4914,0.4822,0.4465', a path as its last name, anything else as it is."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_plain, value))
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return f"{value:.4g}" if isinstance(value, float) else str(value)
