"""What the reports of comparing, probing and histories share: figures, tables, files that are never half there."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def number(value: float | None, digits: int = 2) -> str:
    """A figure in a table, a dash for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as the tables of scores have it: percent, two decimals."""
    return "missing" if value is None else f"{100 * value:.2f}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file's text; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
