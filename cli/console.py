"""Where the commands write: tables and progress on a terminal, JSON on request.

Results go to stdout, progress and notes to stderr, so that ``--json`` output can be piped.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def stdout():
    """The rich console for results."""
    from rich.console import Console

    return Console(highlight=False)


def stderr():
    """The rich console for progress, notes and warnings."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> None:
    """Print rows under columns; indices in ``right`` are right-aligned, those in ``wrap`` may fold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if index in right else "left",
            overflow="fold",
            no_wrap=not wrap or index not in wrap,
        )
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    stdout().print(table)
