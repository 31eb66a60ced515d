"""An exported model gives the checkpoint's probabilities, and its card tells how to get them."""

import contextlib
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import export
from configs.config_export import ExportConfig
from src_py.backbones import BackboneSpec, ResNet18
from src_py.clusters.classifier import choose_classifier
from src_py.clusters.names import ClusterNames
from src_py.images.files import read_square
from src_py.images.image_set import DataSettings
from src_py.images.ranges import COLOUR, FLOAT, INTEGER, stored_range
from src_py.models import ClusterHeads, ClusteringModel
from src_py.output import export as exporting
from src_py.output.model_card import ModelCard
from src_py.run.checkpoints import save_checkpoint
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, hashes, sha256, write_record
from src_py.run.stages import LABELS_FILE
from src_py.run.stored_models import clustering_content, load_clustering
from tests.conftest import PROJECT, write_image
from tests.made_runs import IMAGES, write_data, write_stage

SIZE, CLUSTERS, TEMPERATURE = 16, 5, 1.7
STATISTICS = {1: ((0.3,), (0.2,)), 3: ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))}
NAMES = ["cluster_0", "cluster_1", "cluster_2", "cluster_1", "cat"]  # 1 and 3 are merged
SUMMARY = {"alive": 5, "smallest": 3, "largest": 9, "confidence": 0.8125, "entropy": 0.9}
HAS_ONNX = all(exporting.find_spec(name) for name in exporting.ONNX_PACKAGES)
needs_onnx = pytest.mark.skipif(
    not HAS_ONNX, reason="needs pip install " + " ".join(exporting.ONNX_PACKAGES)
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "pt2"]


def random_model(channels):
    """A network whose batch statistics and confident answers are not those of a fresh one."""
    torch.manual_seed(channels)
    backbone = ResNet18(BackboneSpec(4, channels, small_stem=True))
    model = ClusteringModel(backbone, ClusterHeads(32, CLUSTERS, heads=1))
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(16, channels, SIZE, SIZE))
        model.heads.linear.weight.mul_(30)
    backbone.set_statistics(*STATISTICS[channels])
    return model


def make_run(folder, channels):
    """What the stages leave of a run whose last finished one is scan.py."""
    files = RunFiles("holiday")
    root = str(folder / "secret" / "photos")
    settings = DataSettings("folder", root, SIZE, channels, *STATISTICS[channels])
    content = clustering_content(random_model(channels), settings, TEMPERATURE)
    stage = {"stage": "scan", "config": {}}
    save_checkpoint(files.output("scan"), stage | content)
    write_data(files)
    options = {"run": "holiday", "data": root, "init": f"{root}/weights.pth", "epochs": 3}
    write_stage(files, "scan", options, hardware="cpu")
    write_stage(files, "extract_features", images=IMAGES)
    ClusterNames(CLUSTERS, {4: "cat"}, ((1, 3),)).write(files.checkpoints / LABELS_FILE)
    return files


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def made_once(request, tmp_path_factory):
    """A run and what export.py made of it."""
    folder = tmp_path_factory.mktemp("exported")
    with contextlib.chdir(folder):
        files = make_run(folder, request.param)
        export.main(ExportConfig(run="holiday", format="both" if HAS_ONNX else "pt2"))
    card = (folder / "out" / "holiday.md").read_text(encoding="utf-8")
    return SimpleNamespace(files=files, folder=folder, channels=request.param, card=card)


@pytest.fixture
def exported(made_once, monkeypatch):
    """The same, with its folder as the current one, as the paths of a run are relative."""
    monkeypatch.chdir(made_once.folder)
    return made_once


def write_photos(folder, channels):
    """Seven real files as the project reads them: uint8 (7, C, SIZE, SIZE)."""
    paths = [folder / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        write_image(path, number % 4, number, size=SIZE + number)
    squares = np.stack([read_square(path, SIZE, channels) for path in paths])
    return np.ascontiguousarray(squares.transpose(0, 3, 1, 2))


def expected_probabilities(files, pixels):
    model, content = load_clustering(files.output("scan"))
    mean, std = (torch.tensor(content["data"][name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        logits = model.eval()((torch.from_numpy(pixels).float() / 255 - mean) / std)[0]
    return (logits / TEMPERATURE).softmax(dim=1).numpy()


@pytest.mark.parametrize("name", FORMATS)
def test_probabilities_are_those_of_the_checkpoint(exported, tmp_path, name):
    load = {"onnx": exporting.load_onnx, "pt2": exporting.load_pt2}[name]
    classify = load(exported.folder / "out" / f"holiday.{name}")
    pixels = write_photos(tmp_path, exported.channels)
    expected = expected_probabilities(exported.files, pixels)
    # Photos that look alike to the model would make the comparison an empty one.
    assert expected.std(axis=0).max() > 0.05
    for batch in (1, 2, 7):
        found = classify(pixels[:batch])
        assert found.dtype == np.float32 and found.shape == (batch, CLUSTERS)
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-4)


@needs_onnx
def test_an_onnx_file_says_what_it_takes_and_gives(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession("out/holiday.onnx")
    (pixels,), (probabilities,) = session.get_inputs(), session.get_outputs()
    shape = ["batch", exported.channels, SIZE, SIZE]
    assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(uint8)", shape)
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["batch", CLUSTERS])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["cluster_names"]) == NAMES
    assert json.loads(about["merged_clusters"]) == [[1, 3]]
    assert about["checkpoint_sha256"] == sha256(exported.files.output("scan"))


def test_no_exported_file_tells_the_folders_of_the_machine(exported):
    for path in (exported.folder / "out").iterdir():
        content = path.read_bytes()
        for folder in (PROJECT, exported.folder, os.path.dirname(torch.__file__)):
            assert str(folder).encode() not in content, path


def test_the_card_tells_the_facts(exported):
    colours = "RGB" if exported.channels == 3 else "grey"
    for fact in (
        f"uint8 (B, {exported.channels}, {SIZE}, {SIZE}), {colours}",
        f"| scan.pt | the checkpoint | `{sha256(exported.files.output('scan'))}` |",
        "| images | photos |",
        "| number | 40 |",
        "epochs=3",
        "init=weights.pth",
        "temperature 1.7",
        "Not evaluated",
        "| 4 | cat |",
    ):
        assert fact in exported.card, fact


def code_blocks(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_the_code_of_the_card_runs(exported, tmp_path, capsys, monkeypatch):
    pixels = write_photos(tmp_path, exported.channels)[:1]
    (tmp_path / "0.png").rename("out/photo.jpg")
    best = expected_probabilities(exported.files, pixels)
    monkeypatch.chdir("out")
    reading, *calls = code_blocks(exported.card)
    for call in calls:
        exec(reading + call, {})
        name, confidence = capsys.readouterr().out.split()
        assert name == NAMES[best.argmax()]
        assert float(confidence) == pytest.approx(best.max(), abs=1e-4)


def test_the_card_reads_images_as_the_project_does(exported, tmp_path):
    namespace = {}
    exec(code_blocks(exported.card)[0], namespace)
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (90, 140, 3), dtype=np.uint8))
    clear = Image.fromarray(random.integers(0, 256, (40, 30, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo.save(tmp_path / "photo.jpg", exif=exif)
    photo.convert("L").save(tmp_path / "grey.png")
    photo.quantize(16).save(tmp_path / "palette.png")
    clear.save(tmp_path / "clear.png")
    for path in tmp_path.iterdir():
        ours = read_square(path, SIZE, exported.channels).transpose(2, 0, 1)
        np.testing.assert_array_equal(namespace["read_square"](path)[0], ours, str(path))


@pytest.fixture
def card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = make_run(tmp_path, 3)
    _, content = load_clustering(files.output("scan"))
    labels = ClusterNames(CLUSTERS, {0: "cat", 1: "a|b"}, ((0, 2),))
    return ModelCard(files, files.output("scan"), content, labels, 1234, [])


def reader_of(card, ranges):
    """The read_square of the card of a run with such ranges."""
    card.content["data"]["ranges"] = ranges
    namespace = {}
    exec(code_blocks(card.text())[0], namespace)
    return namespace["read_square"]


def save_deep(folder):
    """Grey levels of more than 8 bits: integers, and numbers with some that are none."""
    values = np.random.default_rng(0).integers(0, 4096, (SIZE + 9, SIZE)).astype(np.uint16)
    heights = values.astype(np.float32) / 3 - 400
    heights[:5, :5], heights[-1] = np.nan, np.inf
    integers, numbers = folder / "integers.png", folder / "numbers.tif"
    Image.fromarray(values).save(integers)
    Image.fromarray(heights).save(numbers)
    return integers, numbers


def test_the_card_reads_more_than_8_bits_as_the_project_does(card, tmp_path):
    ranges = {INTEGER: [100.0, 4000.0], FLOAT: [-300.123456789, 900.0]}
    read = reader_of(card, ranges)
    for path in save_deep(tmp_path):
        ours = read_square(path, SIZE, 3, stored_range(ranges)).transpose(2, 0, 1)
        np.testing.assert_array_equal(read(path)[0], ours, path.name)


@pytest.mark.parametrize("ranges", [None, {INTEGER: [0.0, 4095.0]}, {FLOAT: [0.0, 1.0]}])
def test_the_card_refuses_numbers_that_the_run_has_no_range_for(card, tmp_path, ranges):
    read = reader_of(card, ranges)
    for sort, path in zip((INTEGER, FLOAT), save_deep(tmp_path), strict=True):
        if sort in (ranges or {}):
            read(path)
            continue
        with pytest.raises(ValueError, match="convert it to 8 bits first"):
            read(path)


def test_the_card_tells_that_its_code_does_not_read_16_bit_colour(card):
    told = "does not read 16-bit colour"
    assert told not in card.text()
    card.content["data"]["ranges"] = {COLOUR: [0.0, 4095.0]}
    assert told in card.text()


def test_a_model_that_differs_is_not_written(card, tmp_path, monkeypatch):
    wrong = np.full((1, CLUSTERS), 1 / CLUSTERS, dtype=np.float32)
    monkeypatch.setattr(torch.export, "save", lambda program, path, **_: path.write_bytes(b""))
    monkeypatch.setattr(exporting, "load_pt2", lambda path: lambda pixels: wrong)
    classifier = exporting.PixelClassifier(*load_clustering(card.checkpoint))
    with pytest.raises(RuntimeError, match=r"holiday.pt2 differs from its checkpoint by"):
        exporting.save_pt2(tmp_path / "new" / "holiday.pt2", None, classifier, {})
    assert not list((tmp_path / "new").iterdir())


def test_the_card_tells_names_and_merged_clusters(card):
    text = card.text()
    for fact in ("| 0 | cat |", r"| 1 | a\|b |", "| 2 | cat |", "added: 0 and 2."):
        assert fact in text


@pytest.mark.parametrize("labelled", [True, False])
def test_the_card_tells_the_evaluation(card, labelled):
    summary = SUMMARY | {"confident_fraction": 0.5}
    result = {"label_free": {"train": {"scan": summary}}, "train": {}}
    if labelled:
        scores = {"acc": 0.75, "nmi": 0.5, "ari": 0.25}
        result |= {"mapping": "hungarian", "train": {"scan": scores}}
    write_record(card.files.evaluation, result)
    text = card.text()
    assert "| mean confidence | 0.812 |" in text
    assert ("| ACC | 0.750 |" in text) == labelled


def test_the_card_tells_the_scores_of_the_split_that_has_labels(card):
    summary = SUMMARY | {"confident_fraction": 0.5}
    scores = {"acc": 0.75, "nmi": 0.5, "ari": 0.25}
    result = {
        "label_free": {"train": {"scan": summary}, "test": {"scan": summary}},
        "mapping": "hungarian",
        "train": {},
        "test": {"scan": scores},
    }
    write_record(card.files.evaluation, result)
    assert "| ACC | 0.750 |" in card.text()


def test_an_evaluation_of_an_older_checkpoint_is_left_out(card):
    write_record(card.files.evaluation, {"label_free": {"train": {"scan": SUMMARY}}})
    os.utime(card.files.evaluation, (0, 0))
    assert "Not evaluated" in card.text()


def test_the_classifier_is_the_last_stage_that_is_current(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = RunFiles("holiday")
    with pytest.raises(UserError, match=r"run first: python simclr.py --run holiday"):
        choose_classifier(files)
    write_data(files)
    with pytest.raises(UserError, match=r"run first: python scan.py --run holiday"):
        choose_classifier(files)
    scan, selflabel = files.output("scan"), files.output("selflabel")
    scan.write_bytes(b"scan")
    write_stage(files, "scan")
    assert choose_classifier(files) == scan
    selflabel.write_bytes(b"selflabel")
    write_stage(files, "selflabel", made_from=hashes([scan]))
    assert choose_classifier(files) == selflabel
    scan.write_bytes(b"trained again")
    write_stage(files, "scan")
    assert choose_classifier(files) == scan


def test_missing_packages_are_named_in_one_line(monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime") as error:
        exporting.require_onnx()
    assert "\n" not in str(error.value)


def test_wrong_input_ends_in_one_line(run_script):
    assert "python export.py" in run_script("export.py", "--help").stdout
    wrong = run_script("export.py", "--format", "onx", status=2)
    assert "onx" in wrong.stderr and wrong.stderr.count("\n") == 1
