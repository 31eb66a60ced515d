"""Tables as CSV files that are whole, and safe to open in a spreadsheet."""

import csv
from collections.abc import Iterable
from pathlib import Path

from src_py.run.addresses import as_text
from src_py.run.files import write_atomically

FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
HERE, APOSTROPHE = "./", "'"
PATH_COLUMNS = ("path", "duplicate_of")


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    """Writes a CSV file with a header, all or nothing.

    No cell is a formula when a spreadsheet opens it: see `path_from_cell` for the columns of paths;
    other text that begins like one gets an apostrophe.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(header)
            for row in rows:
                table.writerow(map(_inert, header, row))

    write_atomically(path, write)


def path_from_cell(cell: str) -> str:
    """The path in a column of paths: one that begins like a formula was written as ./PATH, which
    is the same file."""
    inner = cell.removeprefix(HERE)
    return inner if inner.startswith(FORMULA_MARKS) else cell


def _inert(column: str, cell: object) -> object:
    """What a table holds in the place of a cell that a spreadsheet would calculate."""
    cell = as_text(cell) if isinstance(cell, Path) else cell
    text = str(cell)
    if not isinstance(cell, str) or not text.startswith(FORMULA_MARKS):
        return cell
    return f"{HERE if column in PATH_COLUMNS else APOSTROPHE}{text}"
