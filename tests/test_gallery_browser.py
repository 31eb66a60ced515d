"""gallery.html as a person uses it, in a headless Chromium driven by its DevTools protocol."""

import json
import time

import pytest

from src_py.output.gallery_page import write_gallery
from tests.chromium import PATIENCE, started_browser
from tests.test_gallery_page import HOSTILE, make_content

browser = pytest.fixture(scope="module")(started_browser)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A page of 600 images in three of four clusters, with names that try to be scripts."""
    names = [*HOSTILE, *(f"photos/{number}.jpg" for number in range(598))]
    path = tmp_path_factory.mktemp("page") / "gallery.html"
    content = make_content(600, title=HOSTILE[1], names=names, merged=[], classifier="5f70")
    write_gallery(path, content)
    return path


@pytest.fixture
def page(browser, gallery):
    browser.open(gallery.as_uri())
    yield browser
    assert browser.complaints() == []


LABELS = "JSON.parse(document.querySelector('#labels-text').textContent)"
HEAD = {"version": 1, "clusters": 4, "classifier": "5f70"}
POPUP = "document.querySelector('dialog').open"
FOCUS = "document.activeElement.getAttribute('aria-label')"
TILE = ".card[data-cluster='0'] .tile"


def name_box(cluster):
    return f".card[data-cluster='{cluster}'] input[type=text]"


def mark(page, *clusters):
    for cluster in clusters:
        page.click(f".card[data-cluster='{cluster}'] input[type=checkbox]")


def value_of(page, cluster):
    return page.run(f'document.querySelector("{name_box(cluster)}").value')


def test_a_card_for_each_cluster_shows_its_ends(page):
    assert page.run("document.querySelectorAll('.card').length") == 4
    assert page.run("document.querySelectorAll('.card .tile').length") == 3 * 2 * 5
    assert page.run("document.querySelector('h1').textContent") == HOSTILE[1]
    ends = page.run(
        "[...document.querySelectorAll('.card[data-cluster=\"1\"] .tiles')]"
        ".map(grid => data.thousandths[grid.firstChild.dataset.image])"
    )
    assert ends[0] > 990 and ends[1] < 510
    assert page.run("document.querySelectorAll('script:not([type])').length") == 1


def test_sprites_are_decoded_when_they_come_into_view(browser, gallery):
    browser.open(gallery.as_uri(), width=360)
    browser.wait_for("sheetUrls.size > 0")
    last = "document.querySelector('.card[data-cluster=\"2\"] [data-end=uncertain] .tile')"
    assert browser.run(f"{last}.style.backgroundImage") == ""
    assert browser.run("sheetTexts.length") == 3
    assert browser.run("sheetUrls.has(2)") is False
    browser.run(f"{last}.scrollIntoView()")
    browser.wait_for(f"{last}.style.backgroundImage.startsWith('url(\"blob:')")
    browser.run("probe = new Image(); probe.src = sheetUrls.get(2)")
    assert browser.wait_for("probe.naturalWidth") == 16 * 16
    assert browser.complaints() == []


def test_show_more(page):
    grid = "document.querySelector('.card .tiles')"
    page.click(".card .more")
    assert page.run(f"{grid}.children.length") == 30
    assert page.run("document.activeElement === document.querySelectorAll('.card .tile')[5]")


def test_naming_a_cluster_changes_labels_json_and_what_images_are_called(page):
    assert page.run(LABELS) == {**HEAD, "names": {"1": "cat"}, "merge": []}
    page.type(name_box(0), HOSTILE[0])
    assert page.run(LABELS)["names"] == {"0": HOSTILE[0], "1": "cat"}
    text = page.run("document.querySelector('#labels-text').textContent")
    assert '    "1": "cat"\n' in text  # an entry a line
    assert f", {HOSTILE[0]}, confidence" in page.run(f'document.querySelector("{TILE}").ariaLabel')
    assert page.run("document.querySelector('#legend button').textContent") == f"● 0 {HOSTILE[0]}"


def test_merging_and_undoing(page):
    assert page.run("document.querySelector('#merge').disabled")
    mark(page, 2, 1)
    page.click("#merge")
    assert page.run(LABELS)["merge"] == [[1, 2]]
    assert value_of(page, 2) == "cat"  # the lowest of the group carries the name
    mark(page, 0, 2)
    page.click("#merge")
    assert page.run(LABELS) == {**HEAD, "names": {"0": "cat"}, "merge": [[0, 1, 2]]}
    page.click("#groups button")
    assert page.run(LABELS)["merge"] == [[1, 2]]
    page.click("#groups button")
    assert page.run(LABELS) == {**HEAD, "names": {"1": "cat"}, "merge": []}
    assert [value_of(page, cluster) for cluster in range(4)] == ["", "cat", "", ""]


def test_known_labels_are_there_from_the_start(browser, tmp_path):
    path = tmp_path / "gallery.html"
    suggestions = {1: (("rose", 0.62), ("</script>", 0.5))}
    known = {"cluster_names": {0: "dog"}, "merged": [[2, 0]], "suggestions": suggestions}
    write_gallery(path, make_content(**known))
    browser.open(path.as_uri())
    assert browser.run(LABELS)["names"] == {"0": "dog"}
    assert browser.run(LABELS)["merge"] == [[0, 2]]
    assert browser.run(LABELS)["suggestions"] == {"1": [["rose", 0.62], ["</script>", 0.5]]}
    assert value_of(browser, 2) == "dog"
    assert browser.complaints() == []


def test_undoing_a_merge_of_before_gives_the_name_back(browser, tmp_path):
    path = tmp_path / "gallery.html"
    write_gallery(path, make_content(cluster_names={2: "dog"}, merged=[[0, 2]]))
    browser.open(path.as_uri())
    assert browser.run(LABELS)["names"] == {"0": "dog"}
    assert [value_of(browser, cluster) for cluster in (0, 2)] == ["dog", "dog"]
    browser.click("#groups button")
    assert [value_of(browser, cluster) for cluster in (0, 2)] == ["", "dog"]
    assert browser.run(LABELS)["names"] == {"2": "dog"}
    assert browser.complaints() == []


def test_labels_json_is_downloaded(page, tmp_path):
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.type(name_box(2), "dog")
    page.click("#download")
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "labels.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    saved = (tmp_path / "labels.json").read_text(encoding="utf-8")
    assert saved == page.run("document.querySelector('#labels-text').textContent")
    assert json.loads(saved)["names"] == {"1": "cat", "2": "dog"}


def test_an_image_opens_its_neighbors_by_click(page):
    page.click(TILE)
    assert page.run(POPUP)
    assert page.run("document.querySelectorAll('#neighbors .tile').length") == 8
    first = page.run("document.querySelector('#neighbors .tile').ariaLabel")
    page.click("#neighbors .tile")  # a neighbor has neighbors of its own
    assert first.startswith(page.run("document.querySelector('#opened-name').textContent"))
    page.press("Escape")
    assert not page.run(POPUP)


def test_the_whole_way_by_keyboard(page):
    page.run(f'document.querySelector("{TILE}").focus()')
    before = page.run(FOCUS)
    page.press("ArrowRight")
    second = page.run(FOCUS)
    assert second != before and "confidence" in second
    page.press("End")
    page.press("ArrowRight")  # there is nothing beyond the last
    assert page.run("document.activeElement.nextSibling") is None
    page.press("Enter", text="\r")
    assert page.run(POPUP)
    assert page.run("document.activeElement.id") == "close"
    page.press("Escape")
    assert not page.run(POPUP)
    assert page.run("document.activeElement.className") == "tile"
    page.press("Tab")  # one tab stop for each row of images
    assert page.run("document.activeElement.className") == "more"


def test_the_map_by_pointer_and_by_keyboard(page):
    page.click("#map canvas")
    assert page.run(POPUP)
    page.press("Escape")
    said = page.run("document.querySelector('#point span').textContent")
    assert "confidence" in said
    assert page.run("document.activeElement.tagName") == "CANVAS"
    page.press("ArrowLeft")
    assert page.run("document.querySelector('#point span').textContent") != said
    page.press("Enter")
    assert page.run(POPUP)
    page.press("Escape")
    drawn = "new Set(canvas.getContext('2d').getImageData(0, 0, 700, 500).data).size"
    assert page.run(drawn) > 10
    page.click("#legend button")
    assert page.run("document.querySelector('#legend button').ariaPressed") == "true"
    page.run("canvas.focus()")
    page.click("#map canvas")
    assert page.run("clusterOf[point]") == 0


def test_light_and_dark(browser, gallery):
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    browser.open(gallery.as_uri(), scheme="light")
    assert min(browser.run(luminance)) > 200
    browser.open(gallery.as_uri(), scheme="dark")
    assert max(browser.run(luminance)) < 60
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [360, 320])
def test_a_phone_needs_no_sideways_scrolling(browser, gallery, width):
    browser.open(gallery.as_uri(), width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.click(TILE)
    assert browser.run("document.querySelector('dialog').getBoundingClientRect().right") <= width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
