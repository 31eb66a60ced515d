"""Which module may know which: no circle, few levels, no labels where training is done.

tests/test_pipeline.py shows from outside that weights do not depend on labels.
"""

import ast
import re
from functools import cache

import pytest

from tests.conftest import PROJECT

SCRIPTS = sorted(path.stem for path in PROJECT.glob("*.py"))
MOST_LEVELS = 8
MOST_LINES = 400
METHOD = {"datasets", "transforms", "models", "losses", "neighbors", "training_loops"}
PARTS_OF_THE_LOOPS = {
    "augmentation",
    "backbones",
    "cluster_heads",
    "feature_space",
    "inference",
    "neighbor_pairs",
    "optimizers",
    "pseudo_labels",
    "stored_features",
}
TRAINING = {
    "src_py.training_loops",
    "src_py.cluster_heads",
    "src_py.optimizers",
    "src_py.pseudo_labels",
    "src_py.losses",
    "src_py.run.planning",
    "src_py.run.session",
    "src_py.run.training_stage",
    "src_py.run.schedule",
}


def source(module):
    return PROJECT / (module.replace(".", "/") + ".py")


def all_modules():
    files = [*PROJECT.glob("*.py"), *PROJECT.glob("configs/*.py"), *PROJECT.glob("src_py/**/*.py")]
    names = (".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in files)
    return sorted(name for name in names if not name.endswith("__init__"))


@cache
def imported(module):
    """Modules of the project that one imports itself, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name for name in found if source(name).is_file())


def closure(module):
    """All that it imports, directly or not."""
    found, left = set(), [module]
    while left:
        new = imported(left.pop()) - found
        found |= new
        left += new
    return found


def longest_chain(module, above=()):
    """The modules below one, each imported by the one before."""
    assert module not in above, f"a circle: {' -> '.join((*above, module))}"
    chains = (longest_chain(name, (*above, module)) for name in imported(module))
    return (module, *max(chains, key=len, default=()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_there_is_no_circle_and_there_are_few_levels(script):
    chain = longest_chain(script)
    assert len(chain) <= MOST_LEVELS, " -> ".join(chain)


@pytest.mark.parametrize("module", all_modules())
def test_no_arrow_leads_upwards(module):
    """Scripts know all, and nothing knows a script; options know of src_py what loads at once."""
    assert not imported(module) & set(SCRIPTS)
    if module.startswith("configs."):
        run = {f"src_py.run.{name}" for name in ("errors", "files", "records", "stages", "writing")}
        known = {name for name in closure(module) if name.startswith("src_py.")}
        assert known <= run | {"src_py.augmentation"}


def test_the_top_shows_the_method_and_what_its_loops_are_made_of():
    assert {path.stem for path in PROJECT.glob("src_py/*.py")} - {"__init__"} == (
        METHOD | PARTS_OF_THE_LOOPS
    )


@pytest.mark.parametrize("module", ["src_py.losses", "src_py.scoring.metrics"])
def test_formulas_stand_alone(module):
    assert not imported(module)


def test_views_know_only_what_they_consist_of():
    assert imported("src_py.transforms") == {"src_py.augmentation"}


@pytest.mark.parametrize("module", all_modules())
def test_docstrings_keep_to_sections(module):
    """`Raises:` and the like stand alone on a line, with their entries indented below."""
    nodes = ast.walk(ast.parse(source(module).read_text(encoding="utf-8")))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    other_forms = r"\b(Args|Returns|Raises|Yields|Attributes):[ ]*\S|\b(Raises|Returns) [A-Z]"
    assert not [text for text in texts if re.search(other_forms, text)]


@pytest.mark.parametrize("module", all_modules())
def test_no_file_is_long(module):
    lines = len(source(module).read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES or module == "src_py.transforms"


@pytest.mark.parametrize(
    "script", ["simclr", "moco", "extract_features", "choose_clusters", "scan", "selflabel"]
)
def test_a_training_stage_imports_nothing_that_reads_labels(script):
    modules = closure(script)
    assert "src_py.run.hardware" in modules
    assert not {name for name in modules if name.startswith("src_py.scoring.")}


def test_evaluation_is_where_labels_are_read():
    scoring = {name for name in all_modules() if name.startswith("src_py.scoring.")}
    assert closure("evaluate") >= scoring
    reading = {name for name in all_modules() if "src_py.scoring.class_labels" in imported(name)}
    research = {f"src_py.research.{name}" for name in ("digit_folders", "ten_corrections")}
    assert reading == {"evaluate"} | research


@pytest.mark.parametrize("script", ["predict", "export", "label", "evaluate"])
def test_what_only_classifies_loads_no_training_code(script):
    assert not closure(script) & TRAINING


def test_options_have_types():
    texts = {name: source(name).read_text(encoding="utf-8") for name in all_modules()}
    assert not [name for name, text in texts.items() if "config: Any" in text]


def test_a_step_reads_at_a_glance():
    """A generator of steps is the algorithm from top to bottom, with nothing called back."""
    tree = ast.parse(source("src_py.training_loops").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    steps = [node for node in functions if node.name.endswith("_steps")]
    assert {node.name for node in steps} == {
        "simclr_steps",
        "moco_steps",
        "scan_steps",
        "self_label_steps",
    }
    for node in steps:
        assert node.end_lineno - node.lineno < 40, node.name
    assert len(functions) == sum(isinstance(node, ast.FunctionDef) for node in tree.body)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
