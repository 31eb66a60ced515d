"""gallery.html without a browser: its content, its sprites, its map, and that names stay text."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from src_py.output.gallery_page import (
    LARGEST_TILE,
    NEIGHBORS_SHOWN,
    SHEET_SIDE,
    GalleryContent,
    map_features,
    write_gallery,
)

HOSTILE = ('"><script>alert(1)</script>.png', "</script><img src=x onerror=alert(1)>.png")
CLUSTERS = 4


def make_content(images=40, side=16, **changes):
    """Images in four colors, one for each cluster, with features that lie apart."""
    random = np.random.default_rng(0)
    cluster = np.arange(images) % (CLUSTERS - 1)  # the last one stays empty
    confidence = random.uniform(0.5, 1, images)
    probabilities = np.repeat((1 - confidence)[:, None] / (CLUSTERS - 1), CLUSTERS, axis=1)
    probabilities[np.arange(images), cluster] = confidence
    colors = np.array([[200, 40, 40], [40, 180, 40], [40, 40, 200]], dtype=np.uint8)
    shades = np.linspace(0.5, 1, images)[:, None]
    thumbnails = (colors[cluster] * shades).astype(np.uint8)[:, None, None].repeat(side, 1)
    content = {
        "title": "Holiday",
        "thumbnails": thumbnails.repeat(side, 2),
        "names": [f"photos/{number:03d}.jpg" for number in range(images)],
        "probabilities": probabilities,
        "features": np.eye(8)[cluster] + random.normal(0, 0.05, (images, 8)),
        "neighbors": None,
        "cluster_names": {1: "cat"},
        "merged": [[2, 0]],
    }
    return GalleryContent(**(content | changes))


class Page(HTMLParser):
    """The elements of a page, in order: (tag, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def of_class(self, name):
        return [found for _, found in self.elements if name in found.get("class", "").split()]


@pytest.fixture
def write(tmp_path):
    def write_page(content):
        path = tmp_path / "out" / "gallery.html"
        write_gallery(path, content)
        assert [file.name for file in path.parent.iterdir()] == ["gallery.html"]
        return path.read_text(encoding="utf-8")

    return write_page


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))


def tiles_of(text, side):
    """(sheets * 256, side, side, 3): the tiles of all sheets in order."""
    tiles = []
    for sheet in re.findall(r'class="sheet">([^<]*)</script>', text):
        image = Image.open(io.BytesIO(base64.b64decode(sheet)))
        assert image.format == "WEBP"
        grid = np.asarray(image.convert("RGB")).reshape(SHEET_SIDE, side, SHEET_SIDE, side, 3)
        tiles.append(grid.swapaxes(1, 2).reshape(-1, side, side, 3))
    return np.concatenate(tiles)


def test_there_is_a_card_for_each_cluster_with_size_share_and_confidence(write):
    content = make_content()
    text = write(content)
    cards = Page(text).of_class("card")
    assert [card["data-cluster"] for card in cards] == ["0", "1", "2", "3"]
    assert [int(card["data-size"]) for card in cards] == [14, 13, 13, 0]
    first = content.probabilities[::3].max(axis=1).mean()
    assert f"14 images · 35.0 % of all · mean confidence {100 * first:.1f} %" in text
    assert "0 images · 0.0 % of all</p>" in text
    assert 'value="cat" placeholder="cluster_1"' in text


def test_images_are_ordered_by_cluster_and_confidence(write):
    content = make_content()
    data = data_of(write(content))
    numbers = [int(name[7:10]) for name in data["names"]]
    assert sorted(numbers) == list(range(40))
    assert [number % 3 for number in numbers] == [0] * 14 + [1] * 13 + [2] * 13
    assert data["thousandths"][:14] == sorted(data["thousandths"][:14], reverse=True)
    confidence = content.probabilities.max(axis=1)
    assert np.allclose(np.array(data["thousandths"]) / 1000, confidence[numbers], atol=0.0005)
    assert data["clusterNames"] == {"1": "cat"}
    assert data["merged"] == [[0, 2]]


@pytest.mark.parametrize("images, side", [(40, 16), (300, 32)])
def test_sprites_decode_to_the_thumbnails(write, images, side):
    content = make_content(images, side)
    text = write(content)
    tiles = tiles_of(text, side)
    assert len(tiles) == -(-images // 256) * 256
    order = [content.names.index(name) for name in data_of(text)["names"]]
    difference = np.abs(tiles[:images].astype(int) - content.thumbnails[order])
    assert difference.mean() < 6


def test_large_thumbnails_are_reduced(write):
    text = write(make_content(8, side=100))
    assert len(tiles_of(text, LARGEST_TILE)) == 256


def test_neighbors_are_numbered_as_in_the_page(write):
    given = (np.arange(40)[:, None] + np.arange(1, 13)) % 40  # (40, 12)
    data = data_of(write(make_content(neighbors=given)))
    for name, neighbors in zip(data["names"], data["neighbors"], strict=True):
        shown = [int(data["names"][place][7:10]) for place in neighbors]
        assert shown == given[int(name[7:10])].tolist()[:NEIGHBORS_SHOWN]


def test_missing_neighbors_are_found(write):
    data = data_of(write(make_content()))
    for place, neighbors in enumerate(data["neighbors"]):
        assert len(set(neighbors) - {place}) == NEIGHBORS_SHOWN
        kinds = {int(data["names"][neighbor][7:10]) % 3 for neighbor in neighbors}
        assert kinds == {int(data["names"][place][7:10]) % 3}


@pytest.mark.parametrize("images", [1, 2, 5])
def test_few_images_have_a_page(write, images):
    data = data_of(write(make_content(images)))
    assert [len(neighbors) for neighbors in data["neighbors"]] == [min(8, images - 1)] * images


def test_names_stay_text(write):
    names = [*HOSTILE, "na\udcffme.png", *(f"{number}.png" for number in range(37))]
    hostile = {0: HOSTILE[0], 2: HOSTILE[1]}
    plain = write(make_content())
    text = write(make_content(title=HOSTILE[1], names=names, cluster_names=hostile))
    page = Page(text)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(plain).elements]
    assert not any(key.startswith("on") for _, found in page.elements for key in found)
    data = data_of(text)
    assert set(data["names"]) == set(names)
    assert data["clusterNames"] == {"0": HOSTILE[0], "2": HOSTILE[1]}
    inputs = [found["value"] for tag, found in page.elements if found.get("type") == "text"]
    assert inputs == [HOSTILE[0], "", HOSTILE[1], ""]


def test_nothing_comes_from_elsewhere(write):
    page = Page(write(make_content()))
    for _, found in page.elements:
        assert "src" not in found
        assert found.get("href", "#")[:1] == "#" or found["href"] == "data:,"
    (policy,) = [found["content"] for _, found in page.elements if "http-equiv" in found]
    assert "default-src 'none'" in policy


def test_the_same_content_gives_the_same_bytes(write):
    assert write(make_content()) == write(make_content())


def test_the_map_keeps_kinds_apart(monkeypatch):
    monkeypatch.setattr(
        "src_py.output.gallery_page.MAP_SAMPLE", 60
    )  # most rows are placed by others
    kinds = np.arange(300) % 3
    features = np.eye(16)[kinds] + np.random.default_rng(0).normal(0, 0.05, (300, 16))
    positions = map_features(features)
    assert positions.shape == (300, 2)
    assert positions.min(axis=0) == pytest.approx([0, 0])
    assert positions.max(axis=0) == pytest.approx([1, 1])
    centers = np.stack([positions[kinds == kind].mean(axis=0) for kind in range(3)])
    distances = np.linalg.norm(positions[:, None] - centers, axis=2)  # (300, 3)
    assert np.mean(distances.argmin(axis=1) == kinds) > 0.98
    assert np.array_equal(positions, map_features(features))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"names": []}, "at least one image"),
        ({"thumbnails": np.zeros((40, 8, 9, 3), np.uint8)}, r"\(40, S, S, 3\)"),
        ({"features": np.ones((39, 8))}, "features must have 40 rows"),
        ({"neighbors": np.full((40, 2), 40)}, "neighbors must hold numbers from 0 to 39"),
        ({"cluster_names": {4: "cat"}}, "cluster_names must hold numbers from 0 to 3"),
        ({"merged": [[1, 9]]}, "merged must hold numbers"),
    ],
)
def test_content_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_content(**changes)
