"""Both notebooks run from top to bottom on a tiny setting and stop where a stage fails; train.ipynb
fetches the project where it is not; git holds no outputs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from src_py.clusters.classifier import load_cluster_names
from src_py.clusters.names import ClusterNames
from src_py.run.claim import editing
from src_py.run.files import RunFiles
from tests.conftest import PROJECT

TINY = "--epochs 1 --batch-size 16 --device cpu"
PARAMETERS = {
    "train": {
        "PRESET": "folder",
        "RUN": "notebook",
        "ARGUMENTS": {
            "simclr": f"--width 4 {TINY}",
            "extract_features": "--neighbors 5 --device cpu",
            "choose_clusters": "--highest 3 --device cpu",
            "scan": f"--clusters 4 --head-epochs 1 --candidate-heads 2 --heads 1 {TINY}",
            "selflabel": TINY,
        },
    },
    "explore": {"RUN": "notebook", "NAMES": {3: "three"}, "MERGE": [(1, 2)]},
}


@pytest.fixture
def copy_of_the_project(tmp_path, monkeypatch):
    """What the notebooks need of the project, in a folder of its own."""
    folder = tmp_path / "copy"
    for package in ("src_py", "configs"):
        shutil.copytree(PROJECT / package, folder / package)
    for script in PROJECT.glob("*.py"):
        shutil.copy2(script, folder)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def prepared(name, **changed):
    """A notebook with the tests' parameters after its own, and without its installation."""
    notebook = nbformat.read(PROJECT / f"{name}.ipynb", as_version=4)
    for position, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", []):
            parameters = PARAMETERS[name] | changed
            lines = [f"{key} = {value!r}" for key, value in parameters.items()]
            notebook.cells.insert(position + 1, nbformat.v4.new_code_cell("\n".join(lines)))
            break
    for cell in notebook.cells:  # the packages are here already, and tests need no network
        cell.source = "\n".join(x for x in cell.source.splitlines() if not x.startswith("%pip"))
    return notebook


def execute(notebook, folder):
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": folder}}).execute()
    return said_by(notebook)


def said_by(notebook):
    return "\n".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


def test_notebooks_run_from_top_to_bottom(copy_of_the_project, class_tree):
    trained = execute(prepared("train", DATA=str(class_tree)), copy_of_the_project)
    assert "kmeans" in trained and "selflabel" in trained
    explored = execute(prepared("explore"), copy_of_the_project)
    assert "cluster 0" in explored and "three" in explored
    labels = copy_of_the_project / "ckp" / "notebook" / "labels.json"
    assert '"3": "three"' in labels.read_text()
    assert (copy_of_the_project / "out" / "notebook.zip").exists()


def test_a_failing_stage_stops_the_notebook(copy_of_the_project):
    notebook = prepared("train", ARGUMENTS={"simclr": "--epochs 0", "extract_features": ""})
    with pytest.raises(CellExecutionError, match=r"simclr\.py ended with status 2"):
        execute(notebook, copy_of_the_project)
    assert "--epochs 0: must be at least 1" in said_by(notebook)  # the stage's own words are seen
    stages = [cell for cell in notebook.cells if "_features.py" in cell.source]
    assert len(stages) == 1 and stages[0].execution_count is None


@pytest.mark.skipif(
    not (PROJECT / ".git").exists(), reason="not a clone, so none can be made of it"
)
def test_the_first_cell_fetches_the_project_and_goes_there(tmp_path):
    notebook = prepared("train")
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    address = re.search(r'^REPOSITORY = "(.+?)"', cell.source, flags=re.MULTILINE)[1]
    first = cell.source.replace(address, PROJECT.as_posix())
    where = '!"{sys.executable}" -c "import configs, pathlib; print(pathlib.Path.cwd().name)"'
    sources = (first, where, first, where)  # run again, it stays where it is
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    execute(notebook, tmp_path)
    for cell in (notebook.cells[1], notebook.cells[3]):
        assert "".join(output.text for output in cell.outputs).strip() == "scan"

    kept = tmp_path / "scan" / "of-mine.txt"
    kept.touch()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (first, where)]
    execute(notebook, tmp_path)  # a new session finds the folder
    assert notebook.cells[1].outputs[0].text.strip() == "scan" and kept.exists()


@pytest.fixture
def last_cell_of_explore(tmp_path, monkeypatch):
    """Runs it, after cells that found no names yet."""
    monkeypatch.chdir(tmp_path)
    files = RunFiles("mine")
    files.checkpoints.mkdir(parents=True)
    files.output("scan").write_bytes(b"scan")
    cells = nbformat.read(PROJECT / "explore.ipynb", as_version=4).cells
    namespace = {
        "files": files,
        "labels_file": files.checkpoints / "labels.json",
        "classifier": SimpleNamespace(model=SimpleNamespace(heads=SimpleNamespace(clusters=4))),
        "cluster_names": load_cluster_names(files, 4),
        "load_cluster_names": load_cluster_names,
        "editing": editing,
        "NAMES": {3: "three"},
        "MERGE": [(1, 2)],
    }
    return files, lambda: exec(cells[-1].source, namespace)


def test_the_last_cell_keeps_what_was_said_since_the_first(last_cell_of_explore):
    files, run = last_cell_of_explore
    ClusterNames(4, {0: "cat"}, ()).write(files.checkpoints / "labels.json")
    run()
    found = load_cluster_names(files, 4)
    assert found.names == {0: "cat", 3: "three"} and found.merge == ((1, 2),)


def test_the_last_cell_names_no_clusters_of_another_training(last_cell_of_explore):
    files, run = last_cell_of_explore
    files.output("scan").write_bytes(b"trained again")
    with pytest.raises(SystemExit, match="from the top"):
        run()
    assert not (files.checkpoints / "labels.json").exists()


@pytest.mark.parametrize(("system", "mark"), [("posix", "'"), ("nt", '"')])
def test_names_with_blanks_are_quoted_as_the_systems_shell_does(system, mark):
    source = "\n".join(cell.source for cell in prepared("train").cells)
    lines = [line for line in source.splitlines() if "shlex.quote" in line]
    assert len(lines) == 1 and lines[0].startswith("quote = ")  # all others go by it
    namespace = {"os": SimpleNamespace(name=system), "shlex": shlex, "subprocess": subprocess}
    exec(lines[0], namespace)
    assert namespace["quote"]("my photos") == f"{mark}my photos{mark}"
    assert namespace["quote"]("digits") == "digits"


@pytest.mark.parametrize("name", ["train", "explore"])
def test_git_holds_no_outputs(name):
    notebook = nbformat.read(PROJECT / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
