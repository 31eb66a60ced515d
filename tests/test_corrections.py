"""corrections.csv: written, read, refused; clusters that splits add; what follows from them."""

from pathlib import Path

import numpy as np
import pytest

from src_py.clusters.classifier import choose_classifier, load_cluster_names, load_corrections
from src_py.clusters.corrections import Corrections, correct, second_half
from src_py.clusters.names import ClusterNames
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, hashes
from src_py.run.stage_files import place_aside
from tests.made_runs import write_data, write_stage

NONE = Corrections(4, {})
NAMES = [f"{number}.png" for number in range(6)]


def test_without_a_file_nothing_is_corrected(tmp_path):
    assert Corrections.load(tmp_path / "corrections.csv", 4) == NONE
    assert NONE.of_rows(NAMES).tolist() == [-1] * 6


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "ckp" / "corrections.csv"
    said = NONE.with_moved(["b/ä, 1.png", "bad\udcff.png", 'a"b.png', "a\nb.png"], 3)
    said = said.with_moved(["x\u2028y.png"], 0)
    said.write(path)
    assert path.read_bytes().startswith(b"path,cluster\r\n")
    assert Corrections.load(path, 4) == said
    NONE.write(path)
    assert not path.exists()  # as if nothing had ever been said
    NONE.write(path)


def test_of_rows_follows_the_images_and_counts_those_that_are_gone():
    said = NONE.with_moved(["1.png", "4.png"], 3).with_moved(["4.png", "old.png"], 0)
    rows = said.of_rows(NAMES)
    assert rows.dtype == np.int64 and rows.tolist() == [-1, 3, -1, -1, 0, -1]
    assert said.gone(NAMES) == 1
    assert said.without(["4.png", "old.png"]).given == {"1.png": 3}


def test_a_split_adds_the_next_cluster(tmp_path):
    said = NONE.with_split(["0.png"]).with_split(["1.png", "2.png"])
    assert said.clusters == 6
    assert said.of_rows(NAMES).tolist() == [4, 5, 5, -1, -1, -1]
    said.write(tmp_path / "corrections.csv")
    assert Corrections.load(tmp_path / "corrections.csv", 4) == said
    assert Corrections.load(tmp_path / "corrections.csv", 6) == said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["line 1", "path,cluster"]),
        ("path;cluster\n", ["line 1"]),
        ("cluster,path\n", ["line 1"]),
        ("path,cluster\na.png\n", ["line 2", "a path and a cluster"]),
        ("path,cluster\na.png,1,2\n", ["line 2"]),
        ("path,cluster\n,1\n", ["line 2"]),
        ("path,cluster\na.png,cat\n", ["line 2", "'cat'"]),
        ("path,cluster\na.png,-1\n", ["line 2", "'-1'"]),
        ("path,cluster\na.png,01\n", ["line 2"]),
        ("path,cluster\na.png,1\n\nb.png,1\na.png,1\n", ["line 5", "a.png", "twice"]),
        ("path,cluster\na.png,5\n", ["a.png", "no cluster 5", "0 to 3"]),
        ('path,cluster\n"a.png,1\n', ["not CSV"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "corrections.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        Corrections.load(path, 4)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "corrections.csv"
    path.write_bytes("\ufeffpath,cluster\r\n0.png,1\r\n".encode())
    assert Corrections.load(path, 4).given == {"0.png": 1}


def test_files_are_found_by_where_they_are(tmp_path, monkeypatch):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name in ("a/0.png", "1.png"):
        (tmp_path / "photos" / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos" / "a")
    said = NONE.with_moved(["a/0.png"], 2)
    paths = [Path("0.png"), tmp_path / "link" / "a" / "0.png", tmp_path / "link" / "1.png"]
    assert said.of_files(paths, tmp_path / "photos") == {paths[0]: 2, paths[1]: 2}
    assert said.of_files(paths, None) == {}


def test_what_was_said_is_certain_and_splits_have_columns():
    probabilities = np.full((3, 4), 0.25, np.float32)
    found = correct(probabilities, np.array([-1, 2, 4]), 5)
    expected = [[0.25] * 4 + [0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    assert found.dtype == np.float32 and found.tolist() == expected


def test_the_smaller_half_of_a_cluster_is_split_off():
    random = np.random.default_rng(0)
    kinds = np.array([0] * 12 + [1] * 7 + [2] * 5)
    features = np.eye(8)[kinds] * 3 + random.normal(0, 0.1, (24, 8))
    order = random.permutation(24)
    rows = np.flatnonzero(kinds[order] < 2)
    half = second_half(features[order], rows)
    assert set(half) == set(np.flatnonzero(kinds[order] == 1))


@pytest.mark.parametrize("features", [np.ones((1, 3)), np.ones((5, 3))])
def test_what_cannot_be_split_is_said(features):
    with pytest.raises(UserError, match="split"):
        second_half(features, np.arange(len(features)))


# --- beside labels.json, and as an input of self-labelling ---------------------------------------


@pytest.fixture
def files(monkeypatch, tmp_path):
    """A run whose classifier has four clusters, self-labelled."""
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    write_data(files)
    for stage in ("scan", "selflabel"):
        files.output(stage).write_bytes(stage.encode())
    write_stage(files, "scan")
    write_stage(files, "selflabel", made_from=hashes([files.output("scan")]))
    return files


def test_names_know_the_clusters_that_splits_have_added(files):
    labels = files.checkpoints / "labels.json"
    before = load_cluster_names(files, 4)
    assert before.clusters == 4
    before.write(labels)  # and it says 4 clusters until it is written again
    Corrections(5, {"a.png": 4, "b.png": 1}).write(files.corrections)
    names = load_cluster_names(files, 4)
    assert names.clusters == 5 and names.name_of(4) == "cluster_4"
    names.with_name(4, "cat").with_merge((4, 2)).write(labels)
    again = load_cluster_names(files, 4)
    assert again.name_of(2) == "cat" and again.groups == [(0,), (1,), (2, 4), (3,)]
    assert again.merged(np.full((2, 4), 0.25)).tolist() == [[0.25, 0.25, 0.25, 0.25, 0]] * 2
    assert load_corrections(files, again) == Corrections(5, {"a.png": 4, "b.png": 1})
    files.corrections.unlink()  # the cluster is empty then, and keeps its name
    assert load_cluster_names(files, 4) == again
    assert again.of_first(4) == ClusterNames(4, {2: "cat"}, (), again.classifier)


def test_corrections_of_another_number_of_clusters_are_refused(files):
    Corrections(9, {"a.png": 8}).write(files.corrections)
    with pytest.raises(UserError, match="no cluster 8"):
        load_cluster_names(files, 4)


def test_corrections_make_self_labelling_stale_and_its_classifier_is_used_until_then(files, capsys):
    assert files.is_current("selflabel")
    write_table(files.corrections, ("path", "cluster"), [("a.png", 1)])
    assert files.is_stale("selflabel") and not files.is_current("selflabel")
    assert files.is_current("selflabel", corrected=False)
    assert choose_classifier(files) == files.output("selflabel")
    assert "has not learned from ckp/mine/corrections.csv" in capsys.readouterr().out
    made_from = hashes([files.output("scan"), files.corrections])
    write_stage(files, "selflabel", made_from=made_from)
    assert files.is_current("selflabel")
    assert choose_classifier(files) == files.output("selflabel")
    assert capsys.readouterr().out == ""
    files.corrections.unlink()
    assert files.is_stale("selflabel") and files.is_current("selflabel", corrected=False)
    files.output("scan").write_bytes(b"another")
    write_stage(files, "scan")
    assert files.is_stale("selflabel", corrected=False)
    assert choose_classifier(files) == files.output("scan")


def test_they_are_set_aside_without_replacing_earlier_ones(files):
    for number in range(2):
        Corrections(4, {f"{number}.png": number}).write(files.corrections)
        files.corrections.replace(place_aside(files.corrections))
    assert not files.corrections.exists()
    old = [files.checkpoints / name for name in ("corrections.old.csv", "corrections.old1.csv")]
    assert [Corrections.load(path, 4).given for path in old] == [{"0.png": 0}, {"1.png": 1}]


def test_a_gap_among_them_is_filled_and_none_is_replaced(tmp_path):
    path = tmp_path / "corrections.csv"
    for name in ("corrections.csv", "corrections.old1.csv"):
        (tmp_path / name).write_text(name)
    assert place_aside(path).name == "corrections.old.csv"
    (tmp_path / "corrections.old.csv").write_text("first")
    assert place_aside(path).name == "corrections.old2.csv"


def test_suggestions_are_kept(tmp_path):
    path = tmp_path / "labels.json"
    names = ClusterNames(4, {1: "cat"}, ()).with_suggestions({3: [("rose", 0.62), ("ä", 0.1)]})
    names.write(path)
    assert ClusterNames.load(path, 4) == names
    assert '"3": [["rose", 0.62], ["ä", 0.1]]' in path.read_text(encoding="utf-8")
    names.with_suggestions({}).write(path)
    assert "suggestions" not in path.read_text()


@pytest.mark.parametrize(
    "suggestions",
    ['{"9": [["a", 1]]}', '{"a": [["b", 1]]}', "[]", '{"3": ["a"]}', '{"3": [["a", "b"]]}'],
)
def test_wrong_suggestions_are_refused(tmp_path, suggestions):
    path = tmp_path / "labels.json"
    path.write_text(f'{{"version": 1, "clusters": 4, "suggestions": {suggestions}}}')
    with pytest.raises(UserError):
        ClusterNames.load(path, 4)
