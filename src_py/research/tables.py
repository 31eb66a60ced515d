"""The tables of results in the texts, and a picture, written from the files under results/.

    python -m src_py.research.tables

Writes results/<set>/table.md, and what stands between the markers <!-- results --> and <!-- end -->
in README.md (a row for each set and recipe, and for the minutes that ABOUT has) and in
results/README.md (every score). Accuracy against minutes (minutes_plot) has a table and a picture
there, once it is measured.
"""

from pathlib import Path

from src_py.research.ablation import as_headlines, as_table, summarize
from src_py.research.minutes_plot import FOLDER, as_section, read_budgets, write_picture

PROJECT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- results -->\n", "<!-- end -->"

# What the figures of a set are, in the order of the tables. A set that is not here comes last, and
# minutes that are not here have no row in README.md.
ABOUT = {
    "digits": "Scikit-learn's digits, 1,437 to train on and 360 held out, at 16 px, "
    "`make demo` on one CPU thread (`make results-digits`).",
    "digits-2-threads": "The same on two threads.",
    "parts": "Both recipes on digits, and each part of `best` left out in turn "
    "(`make results-parts`).",
    "side-by-side": "The same digits in colour with CIFAR-10's views, 20 + 10 + 10 epochs; "
    "`best` has its own network, optimizer, views (`make results-side-by-side`).",
    "digits-png": "All 1,797 digits as 8 px PNG files, nothing but `--data` given; scored on "
    "themselves (`make results-folder`).",
    "digits-long-tail": "Digits of which the most frequent is ten times as frequent as the rarest "
    "(`make results-digits-long-tail`).",
    "fashion_mnist": "Fashion-MNIST at 20 px and width 16, `--minutes 30` on one CPU thread "
    "(`make results-fashion-mnist`).",
    "minutes/cifar10/60": "CIFAR-10 re-encoded as JPEG (quality 75), so not CIFAR-10 to the bit, "
    "at 24 px and width 32, `--minutes 60` on one CPU thread (`make results-minutes`); `compact` "
    "is `best` there.",
    "minutes/cifar10/30": "Likewise, `--minutes 30`.",
    "cifar10-jpeg-h200": "The same at 32 px and width 64, 5.5 minutes of an H200.",
    "flowers12": "Twelve kinds of flowers, 720 photos and 240 held out, reduced to 160 px from a "
    "part of Oxford Flowers, `--init efficientnet_lite0` (`make results-photos`).",
    "scenes15": "Fifteen kinds of scenes, 1,500 grey photos and 750 held out, reduced to 128 px "
    "from a part of Scene-15, likewise.",
    "trashnet": "Six kinds of waste, 2,527 photos of TrashNet reduced to 128 px, likewise, scored "
    "on themselves.",
}
HEADER = """\
| images | recipe | seeds | k-means on the features | scan | selflabel | worst selflabel |
|---|---|---|---|---|---|---|
"""


def measured_sets(results: Path) -> list[str]:
    """The folders of `results` that hold scores: those of ABOUT, in its order, and other sets."""
    scores = "*/seed*/evaluation.json"
    measured = {path.parents[2].name for path in results.glob(f"*/{scores}")}
    described = [name for name in ABOUT if any((results / name).glob(scores))]
    return [*described, *sorted(measured - ABOUT.keys())]


def between_markers(text: str, content: str) -> str:
    """`text` with `content` in the place of what stands between the markers."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + content + END + rest.split(END, 1)[1]


def render(project: Path = PROJECT) -> dict[Path, str]:
    """Every file that holds a table, and its text as the results want it."""
    results = project / "results"
    texts, rows, abouts, sections = {}, [], [], []
    for name in measured_sets(results):
        summary = summarize(results / name)
        table, about = as_table(summary), ABOUT.get(name, "")
        texts[results / name / "table.md"] = table
        rows += as_headlines(name, summary)
        abouts.append(f"- **{name}.** {about}")
        if (results / name).parent == results:  # all minutes are in one section
            sections.append(f"## {name}\n\n{about}\n\n{table}\n")
    sections.append(as_section(read_budgets(project / FOLDER)))
    short = HEADER + "\n".join(rows) + "\n\n" + "\n".join(abouts) + "\n"
    for page, content in ((project, short), (results, "\n" + "".join(sections))):
        path = page / "README.md"
        texts[path] = between_markers(path.read_text(encoding="utf-8"), content)
    return texts


def main() -> None:
    for path, text in render().items():
        path.write_text(text, encoding="utf-8", newline="\n")
    write_picture(PROJECT / FOLDER)


if __name__ == "__main__":
    main()
