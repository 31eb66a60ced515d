"""No training stage can read a label: what it imports, directly or not, has no code for them.

tests/test_pipeline.py shows the same from outside: the weights do not depend on labels.
"""

import ast

import pytest

from tests.conftest import PROJECT

LABELS = {"src_py.scoring.class_labels", "src_py.scoring.metrics", "src_py.scoring.evaluation"}


def imported(path):
    """Modules of the project that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            file = PROJECT / (name.replace(".", "/") + ".py")
            if file.exists():
                yield name, file


def closure(script):
    found, left = set(), [PROJECT / script]
    while left:
        for name, file in imported(left.pop()):
            if name not in found:
                found.add(name)
                left.append(file)
    return found


@pytest.mark.parametrize(
    "script",
    [
        "simclr.py",
        "moco.py",
        "extract_features.py",
        "choose_clusters.py",
        "scan.py",
        "selflabel.py",
    ],
)
def test_a_training_stage_imports_nothing_that_reads_labels(script):
    modules = closure(script)
    assert "src_py.run.hardware" in modules
    assert not modules & LABELS


def test_evaluation_is_where_labels_are_read():
    assert closure("evaluate.py") >= LABELS
