"""README.md and the other pages: their commands are understood by the scripts, their links lead
somewhere, their figures are those under results/."""

import importlib.util
import json
import re
import shlex
import shutil
import statistics
import sys
import tomllib

import pytest

from configs.config_ablation import AblationConfig
from configs.config_benchmark import BenchmarkConfig
from configs.config_choose_clusters import ChooseClustersConfig
from configs.config_evaluate import EvaluateConfig
from configs.config_export import ExportConfig
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_label import LabelConfig
from configs.config_moco import MoCoConfig
from configs.config_predict import PredictConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.research.ablation import mean_and_spread, summarize
from src_py.research.tables import render
from src_py.run.options import parse
from tests.conftest import PROJECT

NAMES = ("README.md", "CONTRIBUTING.md", "results/README.md")
NAMES += tuple(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md")))
PAGES = {name: (PROJECT / name).read_text(encoding="utf-8") for name in NAMES}
RESULTS = PAGES["results/README.md"]
CONFIGS = {
    "simclr": SimCLRConfig,
    "moco": MoCoConfig,
    "extract_features": ExtractFeaturesConfig,
    "scan": ScanConfig,
    "selflabel": SelfLabelConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "choose_clusters": ChooseClustersConfig,
    "label": LabelConfig,
    "export": ExportConfig,
    "benchmark": BenchmarkConfig,
    "ablation": AblationConfig,
}
BLOCK = re.compile(r"^ *```\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)
COMMANDS = {
    name: [
        line.strip()
        for block in BLOCK.findall(page)
        for line in block.splitlines()
        if line.strip().startswith(("python ", "make "))
    ]
    for name, page in PAGES.items()
}


def test_the_readme_is_read_at_one_sitting():
    assert len(PAGES["README.md"].split()) <= 1800


def test_there_are_commands():
    assert len(COMMANDS["README.md"]) >= 12 and len(COMMANDS["docs/photos.md"]) >= 12


@pytest.mark.parametrize("command", sorted({each for page in COMMANDS.values() for each in page}))
def test_a_command_of_the_pages_is_understood(command, monkeypatch, tmp_path):
    program, what, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = (PROJECT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{what}:", targets, flags=re.MULTILINE)
        return
    if what == "-m":
        assert importlib.util.find_spec(arguments[0])
        return
    stage = what.removesuffix(".py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [what, *arguments])
    config, _ = parse(CONFIGS[stage], stage, None)
    assert isinstance(config, CONFIGS[stage])


def anchors(page):
    """What the headings of a Markdown page are called in links."""
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_of_the_pages_lead_somewhere(name):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[name]):
        path, _, anchor = link.partition("#")
        target = (PROJECT / name).parent / path if path else PROJECT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_version_to_cite_is_that_of_the_project():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    cited = (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", cited, flags=re.MULTILINE) == [version]


def speed_row(stage, measured):
    arms, ratios = measured["arms"], measured["ours_over"]
    cells = [f"{arms[arm]['images_per_second']:,.0f}" for arm in ("reference", "ours", "network")]
    cells += [f"{ratios[arm]:.2f}" for arm in ("reference", "network")]
    cells += [f"{arms[arm]['peak_memory_mib']:,}" for arm in ("reference", "ours")]
    return f"| {stage} | " + " | ".join(cells) + " |"


METHODS = ("kmeans", "scan", "selflabel")
BENCHMARK = json.loads((PROJECT / "results" / "benchmark-2-cpu-cores.json").read_text())


@pytest.mark.parametrize("stage", BENCHMARK["network"])
def test_speeds_are_those_of_the_results(stage):
    assert speed_row(stage, BENCHMARK["network"][stage]) in PAGES["docs/speed.md"]


@pytest.mark.parametrize("file", ["mining-2-cpu-cores.json", "mining-ten-million.json"])
def test_mining_figures_are_those_of_the_results(file):
    for rows, told in json.loads((PROJECT / "results" / file).read_text())["mining"].items():
        row = f"| {int(rows):,} | {told['width']} | {told['seconds']:.1f} | {told['recall']:.3f} "
        assert row + f"| {told['peak_memory_mib']} |" in PAGES["docs/speed.md"]


def test_gains_by_processes_are_those_of_the_results():
    files = ("processes.json", "processes-float32.json")
    measured = (json.loads((PROJECT / "results" / name).read_text())["rows"] for name in files)
    for rows in zip(*measured, strict=True):
        (cells,) = {
            tuple(row[name] for name in ("stage", "network", "image_size", "batch")) for row in rows
        }
        for row in rows:
            cells += tuple(f"{row[f'images_per_second_{count}']:,.0f}" for count in (1, 2))
            cells += (f"{row['gain']:.2f}",)
        assert f"| {' | '.join(map(str, cells))} |" in PAGES["docs/scaling.md"]


def test_tables_are_those_of_the_results():
    """What `make tables` would write is there already."""
    texts = render()
    assert PROJECT / "README.md" in texts and len(texts) >= 6
    for path, text in texts.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run make tables"


def test_tables_hold_every_measured_set(tmp_path):
    """Also one that nobody has described, after the others."""
    for name in ("a-new-set", "fashion_mnist", "digits"):
        seed = tmp_path / "results" / name / "best" / "seed0"
        seed.mkdir(parents=True)
        scores = {method: {"acc": 0.5, "nmi": 0.4, "ari": 0.3} for method in METHODS}
        (seed / "evaluation.json").write_text(json.dumps({"train": scores, "test": scores}))
    for page in (tmp_path, tmp_path / "results"):
        (page / "README.md").write_text("before\n<!-- results -->\nold\n<!-- end -->\nafter\n")
    texts = render(tmp_path)
    short = texts[tmp_path / "README.md"]
    assert "old" not in short and short.startswith("before\n") and short.endswith("\nafter\n")
    found = re.findall(r"^\| \[(.+?)\].* best \| 1 \| 0.500 ", short, flags=re.MULTILINE)
    assert found == ["digits", "fashion_mnist", "a-new-set"]
    assert "## a-new-set" in texts[tmp_path / "results" / "README.md"]
    assert "| best | kmeans | 1 |" in texts[tmp_path / "results" / "a-new-set" / "table.md"]
    assert "## minutes" not in texts[tmp_path / "results" / "README.md"]
    within = tmp_path / "results" / "minutes" / "digits" / "3" / "compact" / "seed0"
    within.mkdir(parents=True)
    shutil.copy2(seed / "evaluation.json", within)
    texts = render(tmp_path)
    assert "| digits | compact | 3 | 1 | 0.500 " in texts[tmp_path / "results" / "README.md"]
    assert texts[tmp_path / "README.md"] == short
    described = tmp_path / "results" / "minutes" / "cifar10" / "60" / "compact" / "seed0"
    described.mkdir(parents=True)
    shutil.copy2(seed / "evaluation.json", described)
    texts = render(tmp_path)
    row = "| [minutes/cifar10/60](results/minutes/cifar10/60/table.md) | compact | 1 | 0.500 "
    assert row in texts[tmp_path / "README.md"]
    assert "## minutes/cifar10" not in texts[tmp_path / "results" / "README.md"]
    assert "| cifar10 | compact | 60 | 1 | 0.500 " in texts[tmp_path / "results" / "README.md"]


def digits_scores():
    return summarize(PROJECT / "results" / "digits")["best"]["selflabel"]["test acc"]


def test_digits_reach_what_the_project_promises():
    scores = digits_scores()
    assert len(scores) >= 20 and statistics.mean(scores) >= 0.975 and min(scores) >= 0.955


def test_unequal_kinds_gain_what_is_said():
    results = PROJECT / "results" / "earlier" / "digits-long-tail"
    mean = {
        (setting, split): statistics.mean(
            json.loads(path.read_text())[split]["selflabel"]["macro_acc"]
            for path in results.glob(f"{setting}/seed*/evaluation.json")
        )
        for setting in ("paper", "uneven", "merged")
        for split in ("train", "test")
    }
    told = " ".join(RESULTS.split())
    for setting in ("paper", "uneven", "merged"):
        assert f"{setting} {mean[setting, 'train']:.3f} and {mean[setting, 'test']:.3f}" in told
    assert mean["merged", "test"] >= mean["paper", "test"] + 0.05


def accuracies(folder, setting, method="selflabel"):
    return summarize(PROJECT / "results" / folder)[setting][method]["test acc"]


def test_the_parts_are_worth_what_is_said():
    settings = summarize(PROJECT / "results" / "earlier" / "digits")
    assert len(settings) == 8
    for setting in settings:
        values = accuracies("earlier/digits", setting)
        assert f"| {setting} | {mean_and_spread(values)} | {min(values):.3f} |" in RESULTS


def test_plain_neighbors_are_worth_what_is_said():
    plain, strong, of_paper = (
        accuracies("side-by-side", name) for name in ("best", "strong-neighbors", "resnet18")
    )
    without = accuracies("earlier/side-by-side-resnet18", "strong-neighbors")
    told = " ".join(RESULTS.split())
    assert f"selflabel {mean_and_spread(plain)}, without them" in told
    assert f"(`strong-neighbors`) {mean_and_spread(strong)}" in told
    assert f"{mean_and_spread(of_paper)} with them (`resnet18`)" in told
    assert f"{mean_and_spread(without)} without" in told


def test_earlier_misses_are_as_they_were():
    def mean(*which):
        return f"{statistics.mean(accuracies(*which)):.3f}"

    long_tail, garments, photos = (
        f"earlier/{name}" for name in ("digits-long-tail", "fashion_mnist", "cifar10-jpeg")
    )
    told = " ".join(RESULTS.split())
    assert (
        f"selflabel {mean(long_tail, 'best')}, paper {mean(long_tail, 'paper')}, "
        f"k-means {mean(long_tail, 'best', 'kmeans')}"
    ) in told
    assert (
        f"selflabel {mean(garments, 'paper')} and {mean(photos, 'paper')}, k-means "
        f"{mean(garments, 'paper', 'kmeans')} and {mean(photos, 'paper', 'kmeans')}"
    ) in told
    assert f"({mean(garments, 'best')} and {mean(photos, 'best')})" in told
