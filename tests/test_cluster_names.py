"""labels.json: written, read, refused; names and merged groups."""

import json

import numpy as np
import pytest

import label as label_script
from configs.config_label import LabelConfig
from src_py.clusters.corrections import Corrections
from src_py.clusters.names import ClusterNames
from src_py.run import claim
from src_py.run.checkpoints import save_checkpoint
from src_py.run.csv_tables import write_table
from src_py.run.errors import UserError
from src_py.run.files import RunFiles
from src_py.run.options import parse
from tests.made_runs import write_data, write_stage

PLAIN = ClusterNames(10, {}, ())


def written(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_clusters_have_their_numbers(tmp_path):
    labels = ClusterNames.load(tmp_path / "labels.json", 10)
    assert labels == PLAIN
    assert labels.name_of(4) == "cluster_4"
    assert labels.groups == [(cluster,) for cluster in range(10)]


def test_what_is_written_is_read_again(tmp_path):
    labels = PLAIN.with_merge((7, 3)).with_merge((0, 9)).with_name(3, "cat").with_name(5, 'ä"b')
    path = tmp_path / "ckp" / "labels.json"
    labels.write(path)
    assert ClusterNames.load(path, 10) == labels
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "version": 1,
        "clusters": 10,
        "names": {"3": "cat", "5": 'ä"b'},
        "merge": [[0, 9], [3, 7]],
    }
    PLAIN.write(path)
    assert ClusterNames.load(path, 10) == PLAIN


def test_deleting_a_line_takes_an_entry_back(tmp_path):
    path = tmp_path / "labels.json"
    PLAIN.with_name(3, "cat").with_name(5, "dog").with_merge((1, 2)).write(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"cat"' not in line and "[1, 2]" not in line))
    assert ClusterNames.load(path, 10) == PLAIN.with_name(5, "dog")


def test_a_merged_group_goes_by_its_lowest_cluster():
    labels = PLAIN.with_merge((7, 3)).with_name(7, "cat")
    assert labels.names == {3: "cat"} and labels.merge == ((3, 7),)
    assert labels.name_of(3) == labels.name_of(7) == "cat"
    assert labels.groups == [(0,), (1,), (2,), (3, 7), (4,), (5,), (6,), (8,), (9,)]


def test_a_name_survives_merging_with_a_lower_cluster_without_one():
    labels = PLAIN.with_name(7, "cat").with_merge((3, 7))
    assert labels.name_of(3) == "cat"
    assert PLAIN.with_merge((3, 7)).name_of(7) == "cluster_3"


def test_groups_that_meet_become_one():
    labels = PLAIN.with_merge((1, 2)).with_merge((3, 4)).with_merge((2, 3)).with_merge((8, 9))
    assert labels.merge == ((1, 2, 3, 4), (8, 9))


@pytest.mark.parametrize("clusters", [(3,), (3, 3), (3, 7, 3), (3, 10)])
def test_what_cannot_be_merged(clusters):
    with pytest.raises(UserError):
        PLAIN.with_merge((3, 7)).with_merge(clusters)


def test_probabilities_of_a_group_are_summed():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(10), 20).astype(np.float32)
    merged = PLAIN.with_merge((3, 7, 8)).merged(probabilities)
    expected = probabilities.copy()
    for row in expected:
        row[3], row[7], row[8] = row[3] + row[7] + row[8], 0, 0
    np.testing.assert_allclose(merged, expected, rtol=1e-6)
    assert merged.dtype == np.float32
    np.testing.assert_array_equal(PLAIN.merged(probabilities), probabilities)


HEAD = '{"version": 1, "clusters": 10, '


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n"version": 1,\n"clusters": 10,\n"names": {\n"3": "cat",\n}\n}', ["line 5", "comma"]),
        ('{\n"version": 1,\n"clusters": 10,\n"merge": [\n[3, 7],\n]\n}', ["line 5", "comma"]),
        ('{\n"version": 1\n"clusters": 10}', ["line 3", "not JSON"]),
        ("", ["line 1", "not JSON"]),
        ("[]", ["expected an object"]),
        ('{"version": 1}', ["expected an object", "clusters"]),
        ('{"version": 2, "clusters": 10}', ["version 2", "version 1"]),
        ('{"version": 1, "clusters": 12}', ["12 clusters", "has 10 now"]),
        (HEAD + '"names": {"10": "cat"}}', ["no cluster 10", "0 to 9"]),
        (HEAD + '"names": {"03": "cat"}}', ['"03"']),
        (HEAD + '"names": {"3": 4}}', ['"names"']),
        (HEAD + '"names": {"3": " "}}', ["cluster 3"]),
        (HEAD + '"names": {"3": "a\\nb"}}', ["cluster 3"]),
        (HEAD + '"names": {"3": "cat", "3": "dog"}}', ['"3" is there twice']),
        (HEAD + '"merge": [[3, 7], [7, 8]]}', ["cluster 7", "twice"]),
        (HEAD + '"merge": [[3, 3]]}', ["cluster 3", "twice"]),
        (HEAD + '"merge": [[3]]}', ["two clusters"]),
        (HEAD + '"merge": [[3, -1]]}', ["no cluster -1"]),
        (HEAD + '"merge": [3, 7]}', ['"merge"']),
        (HEAD + '"merge": [[3, true]]}', ['"merge"']),
        (HEAD + '"color": {}}', ["expected an object"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        ClusterNames.load(path, 10)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_labels_of_an_earlier_training_are_refused(tmp_path):
    path = tmp_path / "labels.json"
    ClusterNames.load(path, 10, "aaaa").with_name(3, "cat").write(path)
    assert ClusterNames.load(path, 10, "aaaa").name_of(3) == "cat"
    with pytest.raises(UserError, match="earlier training"):
        ClusterNames.load(path, 10, "bbbb")


def test_labels_that_do_not_tell_their_training_fit_any(tmp_path):
    path = written(tmp_path, HEAD + '"names": {"3": "cat"}}')
    assert ClusterNames.load(path, 10, "aaaa").classifier == "aaaa"


def test_encodings(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(HEAD + '"names": {"3": "ä"}}', encoding="utf-8-sig")
    assert ClusterNames.load(path, 10).name_of(3) == "ä"
    path.write_text(HEAD + '"names": {"3": "ä"}}', encoding="latin-1")
    with pytest.raises(UserError, match="not UTF-8"):
        ClusterNames.load(path, 10)


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def parse_arguments(*arguments):
        monkeypatch.setattr("sys.argv", ["label.py", "--run", "mine", *arguments])
        return parse(LabelConfig, "label", None)[0]

    return parse_arguments


def test_options_may_be_repeated(command_line):
    config = command_line("--merge", "3,7", "--merge", "1, 2,4", "--name", "3=a=b", "--name", "5=d")
    assert config.groups == [(3, 7), (1, 2, 4)]
    assert config.names == [(3, "a=b"), (5, "d")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to do", "--merge"]),
        (["--name", "cat"], ["--name cat", "3=cat"]),
        (["--name", "cat=3"], ["--name cat=3", "'cat'"]),
        (["--merge", "3;7"], ["--merge 3;7"]),
        (["--merge", ""], ["--merge"]),
        (["--serve", "--show"], ["--serve"]),
        (["--port", "8000"], ["--port", "--serve"]),
        (["--no-browser"], ["--no-browser", "--serve"]),
        (["--serve", "--port", "70000"], ["--port 70000"]),
    ],
)
def test_wrong_options_end_in_one_line(command_line, arguments, words):
    with pytest.raises(UserError) as error:
        label_script.main(command_line(*arguments))
    assert all(word in str(error.value) for word in words), error.value


def test_the_script_writes_shows_and_refuses(run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, folder = RunFiles("mine"), tmp_path / "ckp" / "mine"
    missing = run_script("label.py", "--run", "mine", "--show", status=2)
    assert "scan.py" in missing.stderr
    save_checkpoint(folder / "scan.pt", {"clusters": 4})
    write_data(files)
    write_stage(files, "scan")
    arguments = ("--run", "mine", "--merge", "1,3", "--name", "3=cat")
    shown = run_script("label.py", *arguments, "--show").stdout
    assert "1, 3" in shown and "cat" in shown and not (folder / "labels.json").exists()
    run_script("label.py", *arguments)
    assert ClusterNames.load(folder / "labels.json", 4) == ClusterNames(4, {1: "cat"}, ((1, 3),))
    Corrections(5, {"a.png": 4, "b.png": 0}).write(folder / "corrections.csv")
    write_table(folder / "rows.csv", ("row", "path"), [(0, "a.png")])
    write_stage(files, "extract_features")
    told = run_script("label.py", "--run", "mine", "--show").stdout
    assert "cluster_4" in told and "2 images are where a person put them, of which 1" in told
    (folder / "corrections.csv").unlink()
    refused = run_script("label.py", "--run", "mine", "--name", "4=x", status=2)
    assert refused.stderr == "label.py: there is no cluster 4: they are 0 to 3\n"


def train(files, clusters=4):
    """What scan.py leaves."""
    save_checkpoint(files.output("scan"), {"clusters": clusters, "at": np.random.rand()})
    write_stage(files, "scan")


def when_merging(monkeypatch, act):
    """label.py finds 0 and 2 to be one, and `act` happens while it does."""

    def found(config, cluster_names, merge_to):
        act(cluster_names)
        return [(0, 2)]

    monkeypatch.setattr(label_script, "merged_by_neighbors", found)


def test_others_may_write_while_merge_to_looks_for_groups(command_line, monkeypatch):
    config = command_line("--merge", "1,3", "--merge-to", "2", "--name", "1=dog")
    files = config.files
    write_data(files)
    train(files)
    path = files.checkpoints / "labels.json"

    def name(cluster_names):
        assert cluster_names.merge == ((1, 3),)
        monkeypatch.setattr(claim, "LONGEST_SWITCH", 0.05)
        with claim.editing(files):
            ClusterNames(4, {2: "cat"}, ()).write(path)

    when_merging(monkeypatch, name)
    label_script.main(config)
    found = ClusterNames.load(path, 4)
    assert found.merge == ((0, 2), (1, 3)) and found.name_of(0) == "cat"
    assert found.name_of(3) == "dog"


def test_groups_of_an_earlier_training_are_not_written(command_line, monkeypatch):
    config = command_line("--merge-to", "3")
    write_data(config.files)
    train(config.files)
    when_merging(monkeypatch, lambda _: train(config.files))
    with pytest.raises(UserError, match=r"scan\.py has trained run 'mine' again"):
        label_script.main(config)
    assert not (config.files.checkpoints / "labels.json").exists()


@pytest.mark.parametrize("second", ["cat", "Cat", "cat ", "\uff43at", "CAT"])
def test_two_clusters_do_not_have_one_name(second):
    named = PLAIN.with_name(3, "cat")
    with pytest.raises(UserError, match="clusters 3 and 5 would both be called"):
        named.with_name(5, second)
    assert named.with_merge((3, 5)).with_name(5, second).name_of(3) == second.strip()


def test_a_cluster_is_not_called_by_the_number_of_another():
    with pytest.raises(UserError, match="clusters 3 and 4 would both be called 'cluster_4'"):
        PLAIN.with_name(3, "cluster_4")
    assert PLAIN.with_name(4, "fish").with_name(3, "cluster_4").name_of(3) == "cluster_4"
