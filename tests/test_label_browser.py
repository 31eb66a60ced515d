"""label.py --serve as a person uses it: in a Chromium, and then the scripts that heed it.

The clusters are those of a network that has hardly learned; what counts is what a person makes of
them.
"""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

import extract_features
import scan
import simclr
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_scan import ScanConfig
from configs.config_simclr import SimCLRConfig
from src_py.clusters.names import ClusterNames
from src_py.run.checkpoints import load_checkpoint
from src_py.run.claim import release
from src_py.run.files import RunFiles, sha256
from src_py.run.options import parse
from tests.chromium import started_browser
from tests.conftest import PROJECT, TINY

browser = pytest.fixture(scope="module")(started_browser)

SAID = "document.querySelector('#message').textContent"
TITLE = "document.querySelector('#title').textContent"
FOCUSED = "document.activeElement.dataset.row"
TILES = "[...document.querySelectorAll('#grid .tile')].map(tile => Number(tile.dataset.row))"


@pytest.fixture
def run(browser, photo_folder, tmp_path, monkeypatch):
    """A folder in which a run has come as far as scan.py; the browser first, it may be missing."""
    monkeypatch.chdir(tmp_path)
    first = ("--data", str(photo_folder), "--width", "8", *TINY)
    stages = (
        (simclr, SimCLRConfig, first),
        (extract_features, ExtractFeaturesConfig, ("--neighbors", "5", "--device", "cpu")),
        (scan, ScanConfig, ("--clusters", "3", "--head-epochs", "2", *TINY)),
    )
    for script, config_class, arguments in stages:  # in this process, which is faster
        name = script.__name__
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--run", "mine", *arguments])
        script.main(parse(config_class, name, None)[0])
    release()  # other processes go on with the run
    folder = tmp_path / "ckp" / "mine"
    names = ClusterNames(3, {}, (), sha256(folder / "scan.pt")[:12])
    suggestions = {cluster: [("rose", 0.62), ("tulip", 0.2)] for cluster in range(3)}
    names.with_suggestions(suggestions).write(folder / "labels.json")
    return folder


def heed_ctrl_c():
    """A shell's background jobs, which tests may run in, do not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def served(run, tmp_path):
    """The process of label.py, and the address that it has printed."""
    command = [sys.executable, PROJECT / "label.py", "--run", "mine", "--serve", "--no-browser"]
    process = subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    yield process, next(line for line in process.stdout if line.startswith("http")).strip()
    process.kill()
    process.communicate()


def labels(run):
    return json.loads((run / "labels.json").read_text(encoding="utf-8"))


def corrections(run):
    with (run / "corrections.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: int(row["cluster"]) for row in csv.DictReader(file)}


def saved(page, text):
    page.wait_for(f"{SAID}.includes({json.dumps(text)})")


def test_clusters_are_named_and_mended_in_the_browser(
    browser, served, run, run_script, tmp_path, photo_folder
):
    process, url = served
    browser.open(url)
    browser.wait_for("state && document.querySelectorAll('#grid .tile').length > 0")
    sizes = browser.run("sorted.map(group => group.rows.length)")
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == 40
    first, second = browser.run("sorted.slice(0, 2).map(group => group.members[0])")
    assert browser.run("document.querySelector('#suggestions button').textContent") == (
        "suggested: rose (0.62)"
    )

    # Names: one that is typed, and one that was suggested.
    browser.press("n")
    browser.send("Input.insertText", text="striped")
    browser.press("Enter", text="\r")
    saved(browser, "striped")
    assert labels(run)["names"] == {str(first): "striped"}
    browser.press("]", text="]")
    browser.wait_for(f"{TITLE}.startsWith('Cluster {second} ')")
    browser.click("#suggestions button")
    saved(browser, "rose")
    assert labels(run)["names"] == {str(first): "striped", str(second): "rose"}
    browser.press("[", text="[")

    # Images: selected and moved by keyboard, undone, also after the page was loaded again.
    browser.wait_for(f"{TITLE}.startsWith('striped')")
    rows = browser.run(TILES)
    browser.run("focusRow(rows[0])")
    browser.press(" ", text=" ")
    browser.press("ArrowRight")
    browser.press(" ", text=" ")
    assert browser.run("[...selected]") == rows[:2] and browser.run(FOCUSED) == str(rows[1])
    browser.press("m")
    browser.send("Input.insertText", text="rose")
    browser.press("Enter", text="\r")
    saved(browser, "2 images moved to rose")
    assert browser.run(TILES) == rows[2:] and browser.run(FOCUSED) == str(rows[2])
    moved = {f"{row:02d}.png" for row in rows[:2]}
    assert corrections(run) == dict.fromkeys(moved, second)
    browser.open(url)
    browser.wait_for("state?.undo === '2 images moved to rose'")
    browser.press("u", text="u")
    saved(browser, "Undone")
    assert not (run / "corrections.csv").exists()
    browser.press("r", text="r")
    saved(browser, "moved")

    # A split; and the image itself.
    browser.run(f"openGroup({first})")
    before = browser.run("rows.length")
    browser.press("s", text="s")
    saved(browser, "split off as cluster_3")
    split = {path for path, cluster in corrections(run).items() if cluster == 3}
    assert browser.run("rows.length") == before - len(split) and labels(run)["clusters"] == 4
    browser.run("openGroup(3)")
    browser.click("#grid .tile")
    browser.wait_for("document.querySelector('#viewer').open")
    assert browser.wait_for("document.querySelector('#viewer-image').naturalWidth") == 16
    browser.press("Escape")
    assert browser.complaints() == []

    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    assert out.splitlines()[-1] == f"ended; all that was said is in {run.relative_to(tmp_path)}"

    # What was said holds for the training and for the sorting.
    told = run_script("selflabel.py", "--run", "mine", *TINY).stdout
    assert f"{len(moved | split)} images as ckp/mine/corrections.csv says" in told
    assert load_checkpoint(run / "selflabel.pt")["clusters"] == 4
    assert RunFiles("mine").is_current("selflabel")
    sorting = ("--out", "out", "--sort", "copy", "--device", "cpu")
    told = run_script("predict.py", "--run", "mine", photo_folder, *sorting).stdout
    assert f"{len(moved | split)} of them as ckp/mine/corrections.csv says" in told
    assert moved <= set(os.listdir(tmp_path / "out" / "rose"))
    assert split <= set(os.listdir(tmp_path / "out" / "cluster_3"))
