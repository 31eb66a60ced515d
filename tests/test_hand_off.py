"""Files for reviewers and labelling tools, checked against the tools' documented formats."""

import base64
import csv
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from src_py.images.ranges import INTEGER
from src_py.output.hand_off import split_by_name, write_fiftyone, write_label_studio, write_review
from src_py.output.prediction import Prediction
from tests.conftest import write_image

NAMES = ['"><script>alert(1)</script>', "cat & dog", "cluster_2"]


@pytest.fixture
def predictions(tmp_path):
    rows = []
    for number, confidence in enumerate((0.9, 0.25, 0.5, 0.25)):
        path = tmp_path / "photos" / f"{number % 2}" / f"a&b #{number}<b>.png"
        write_image(path, number, number, size=200)
        rows.append(Prediction(path, number % 3, NAMES[number % 3], confidence))
    return rows


def test_review_has_the_least_confident_first(predictions, tmp_path):
    table, page = tmp_path / "out" / "review.csv", tmp_path / "out" / "review.html"
    write_review(table, page, predictions, 3)
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "cluster", "name", "confidence"]
    assert [row["path"] for row in rows] == [str(predictions[n].path) for n in (1, 3, 2)]
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "<b>.png" not in text
    assert "http" not in text  # nothing is fetched
    assert [image.size for image in images_of(text)] == [(128, 128)] * 3


def images_of(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(image))) for image in found]


@pytest.mark.parametrize(("ranges", "brightest"), [(None, 255), ({INTEGER: (0, 4095)}, 16)])
def test_review_shows_images_as_the_network_saw_them(tmp_path, ranges, brightest):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "x.tif")
    found = [Prediction(tmp_path / "x.tif", 0, "cat", 0.5)]
    write_review(tmp_path / "r.csv", tmp_path / "r.html", found, 1, ranges)
    (image,) = images_of((tmp_path / "r.html").read_text())
    assert abs(int(np.asarray(image.convert("L")).max()) - brightest) <= 4


def test_review_of_more_than_there_are_and_of_a_file_that_went(predictions, tmp_path):
    predictions[0].path.unlink()
    write_review(tmp_path / "r.csv", tmp_path / "r.html", predictions, 100)
    assert (tmp_path / "r.html").read_text().count("<figure>") == 4


def test_label_studio(predictions, tmp_path):
    tasks, interface = tmp_path / "out" / "tasks.json", tmp_path / "out" / "tasks.xml"
    root, storages = write_label_studio(tasks, interface, predictions, NAMES, "holiday")
    # Label Studio serves no file outside a local storage, nor a storage that is its root.
    assert (root, storages) == (tmp_path, [tmp_path / "photos"])
    content = json.loads(tasks.read_text())
    for task, prediction in zip(content, predictions, strict=True):
        url = urlsplit(task["data"]["image"])
        assert url.path == "/data/local-files/"
        assert root / parse_qs(url.query)["d"][0] == prediction.path
        (guess,) = task["predictions"]
        assert guess["model_version"] == "holiday" and guess["score"] == prediction.confidence
        (result,) = guess["result"]
        assert result == {
            "type": "choices",
            "from_name": "label",
            "to_name": "image",
            "value": {"choices": [prediction.name]},
        }
    view = ElementTree.fromstring(interface.read_text())
    image, choices = view.find("Image"), view.find("Choices")
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    assert (choices.get("name"), choices.get("toName")) == ("label", "image")
    assert [choice.get("value") for choice in choices] == NAMES


@pytest.mark.parametrize(
    ("files", "root", "storages"),
    [
        (["/a/b/1.png", "/c/2.png"], "/", ["/a", "/c"]),
        (["/a/b/1.png"], "/a", ["/a/b"]),
        (["/a/1.png"], "/", ["/a"]),
        (["/a/b /1.png"], "/", ["/a"]),
        (["/a/b/c\\d/1.png"], "/a", ["/a/b"]),
    ],
)
def test_folders_that_label_studio_takes(tmp_path, files, root, storages):
    predictions = [Prediction(Path(file), 2, "cluster_2", 0.5) for file in files]
    tasks = tmp_path / "tasks.json"
    found = write_label_studio(tasks, tmp_path / "tasks.xml", predictions, NAMES, "holiday")
    assert found == (Path(root), [Path(storage) for storage in storages])
    for task, file in zip(json.loads(tasks.read_text()), files, strict=True):
        (below,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        assert Path(root, below) == Path(file)


def test_names_that_are_no_text_are_told_apart(predictions):
    odd = Prediction(Path(os.fsdecode(b"/photos/latin \xe9.png")), 2, "cluster_2", 0.5)
    assert split_by_name([*predictions, odd]) == (predictions, [odd])


def test_fiftyone(predictions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = [p._replace(path=p.path.relative_to(tmp_path)) for p in predictions]
    write_fiftyone(tmp_path / "fiftyone.json", relative, NAMES)
    content = json.loads((tmp_path / "fiftyone.json").read_text())
    assert content["classes"] == NAMES
    assert list(content["labels"]) == [str(p.path) for p in predictions]
    for prediction in predictions:
        label = content["labels"][str(prediction.path)]
        assert content["classes"][label["label"]] == prediction.name
        assert label["confidence"] == prediction.confidence
