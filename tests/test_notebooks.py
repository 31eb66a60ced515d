"""Both notebooks run from top to bottom on a tiny setting; git holds no outputs."""

import os
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import PROJECT

TINY = "--epochs 1 --device cpu"
PARAMETERS = {
    "train": {
        "RUN": "notebook",
        "ARGUMENTS": {
            "simclr": f"--width 4 {TINY}",
            "extract_features": "--device cpu",
            "choose_clusters": "--highest 3 --device cpu",
            "scan": f"--head-epochs 1 --heads 2 {TINY}",
            "selflabel": TINY,
        },
    },
    "explore": {"RUN": "notebook", "NAMES": {3: "three"}, "MERGE": [(1, 2)]},
}


def execute(name, folder):
    """Runs a notebook with the tests' parameters after its own, in a copy of the project."""
    notebook = nbformat.read(PROJECT / f"{name}.ipynb", as_version=4)
    for position, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", []):
            lines = [f"{key} = {value!r}" for key, value in PARAMETERS[name].items()]
            notebook.cells.insert(position + 1, nbformat.v4.new_code_cell("\n".join(lines)))
            break
    for cell in notebook.cells:  # the packages are here already, and tests need no network
        cell.source = "\n".join(x for x in cell.source.splitlines() if not x.startswith("%pip"))
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": folder}}).execute()
    return "\n".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


def test_notebooks_run_from_top_to_bottom(tmp_path, monkeypatch):
    for entry in ("src_py", "configs", *(p.name for p in PROJECT.glob("*.py"))):
        (tmp_path / entry).symlink_to(PROJECT / entry)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    trained = execute("train", tmp_path)
    assert "kmeans" in trained and "selflabel" in trained
    explored = execute("explore", tmp_path)
    assert "cluster 0" in explored and "three" in explored
    assert '"3": "three"' in (tmp_path / "ckp" / "notebook" / "labels.json").read_text()
    assert (tmp_path / "out" / "notebook.zip").exists()


@pytest.mark.parametrize("name", ["train", "explore"])
def test_git_holds_no_outputs(name):
    notebook = nbformat.read(PROJECT / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
