"""Accuracy against minutes: what `make results-minutes` has left, as a picture and as a table.

    python -m src_py.research.minutes_plot

Reads results/minutes/<set>/<minutes>/<setting>/seed<N>/ as far as it is there, and writes
results/minutes/accuracy.png: a panel for each set, a line for each setting, a dot for each seed.
"""

import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from src_py.research.ablation import RESULTS, Scores, headline_cells, summarize
from src_py.run.files import load_json, write_atomically

FOLDER = RESULTS / "minutes"
PICTURE = "accuracy.png"  # in FOLDER
SETS = ("digits", "fashion_mnist", "cifar10")  # the order of the panels; others come last
ABOUT = (
    "ACC on the test split within so many minutes for all four stages, at width 16, Fashion-MNIST "
    "and CIFAR-10 from thirty minutes on at 32: digits at 16 px, Fashion-MNIST at 20, CIFAR-10 at "
    "24 (`make results-minutes`); the picture has the device."
)
NUMBER = re.compile(r"\d+(\.\d+)?")
SCORED = ("k-means on the features", "scan", "selflabel", "worst selflabel")
COLUMNS = ("images", "setting", "minutes", "seeds", *SCORED)


@dataclass(frozen=True)
class Budget:
    """The scores of one setting within so many minutes for the four stages.

    Attributes:
        methods: as `summarize` gives them for one setting.
    """

    images: str
    setting: str
    minutes: float
    methods: dict[str, Scores]

    @property
    def accuracies(self) -> list[float]:
        """ACC of selflabel on the test split, of each seed; empty where there is no such split."""
        return self.methods["selflabel"].get("test acc", [])


def read_budgets(folder: Path) -> list[Budget]:
    """All that is below `folder`, by set, setting and minutes. Other folders are passed over."""
    found = [
        Budget(path.parent.name, setting, float(path.name), methods)
        for path in folder.glob("*/*")
        if NUMBER.fullmatch(path.name)
        for setting, methods in summarize(path).items()
    ]
    return sorted(found, key=lambda each: (_place(each.images), each.setting, each.minutes))


def as_section(budgets: list[Budget]) -> str:
    """The picture and a table, in Markdown for results/README.md; '' where there are no results."""
    if not budgets:
        return ""
    rows = [
        f"| {each.images} | {each.setting} | {each.minutes:g} | {headline_cells(each.methods)} |\n"
        for each in budgets
    ]
    return (
        f"## minutes\n\n{ABOUT}\n\n![ACC against minutes]({FOLDER.name}/{PICTURE})\n\n"
        f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n{''.join(rows)}\n"
    )


def save_plot(path: Path, budgets: list[Budget], devices: list[str]) -> None:
    """Writes a PNG of ACC over minutes. Sets without a test split have no panel.

    Args:
        devices: on which the runs were made, for the title.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    shown = [each for each in budgets if each.accuracies]
    sets = list(dict.fromkeys(each.images for each in shown))
    colors = {name: f"C{number}" for number, name in enumerate(_settings(shown))}
    figure = Figure(figsize=(4 * len(sets), 4), layout="constrained")
    for axes, images in zip(figure.subplots(1, len(sets), squeeze=False).flat, sets, strict=True):
        panel = [each for each in shown if each.images == images]
        for setting in _settings(panel):
            line = [each for each in panel if each.setting == setting]
            means = [statistics.mean(each.accuracies) for each in line]
            minutes = [each.minutes for each in line]
            axes.plot(minutes, means, color=colors[setting], label=setting)
            dots = [(each.minutes, value) for each in line for value in each.accuracies]
            axes.scatter(*zip(*dots, strict=True), color=colors[setting], s=12)
        axes.set_xscale("log")
        ticks = sorted({each.minutes for each in panel})
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(images, fontsize=10)
        axes.set_xlabel("minutes for all four stages")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("ACC of selflabel, test split")
    told = ["a dot for each seed, a line through the means", *devices]
    figure.suptitle("\n".join(told), fontsize=9)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))


def devices_of(folder: Path) -> list[str]:
    """What the runs below `folder` were computed on, each once."""
    return sorted({load_json(path)["device"] for path in folder.glob("*/*/*/seed*/machine.json")})


def write_picture(folder: Path) -> None:
    """`folder`/accuracy.png, where there is anything to show."""
    budgets = read_budgets(folder)
    if any(each.accuracies for each in budgets):
        save_plot(folder / PICTURE, budgets, devices_of(folder))
        print(f"{folder / PICTURE} written")


def _settings(budgets: list[Budget]) -> list[str]:
    return sorted({each.setting for each in budgets})


def _place(images: str) -> tuple[int, str]:
    return SETS.index(images) if images in SETS else len(SETS), images


if __name__ == "__main__":
    write_picture(FOLDER)
