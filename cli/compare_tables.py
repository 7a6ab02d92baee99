"""How ``asu-lora compare`` shows what it found: tables in 80 columns, failures, where everything lies."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asu_lora.studies.compare.compare import Comparison
    from asu_lora.studies.compare.table import Table


def show(result: "Comparison", files: "Sequence[Path]") -> None:
    """The table, what failed, what is best, where everything lies."""
    from asu_lora.studies.compare.report import best_line
    from asu_lora.studies.compare.rows import seed_rows
    from asu_lora.studies.compare.table import paper_table, speaking_table

    kept = result.best
    print_compact("\nIn percent; best bold, second underlined, the base apart", paper_table(kept))
    if len(kept) < len(everything := seed_rows(result.results)):
        print_compact("\nAll settings", paper_table(everything))
    if (speaking := speaking_table(kept)).rows:
        print_compact("\nThose whose answers to kept questions are at least 95 % sentences", speaking)
    for failed in (each for each in result.results if not each.done):
        click.echo(f"{failed.title} failed: {failed.failure}")
    for note in result.notes:
        click.echo(note, err=True)
    if best := best_line(result):
        click.echo(f"\n{best}")
    click.echo("Files: " + ", ".join(str(file) for file in files))
    store = result.out / "adapters"
    click.echo(f"Adapters: asu-lora adapters list --store {store}")


def print_compact(title: str, table: "Table") -> None:
    """The table in 80 columns: every word of a heading on a line of its own."""
    from rich.table import Table
    from rich.text import Text

    from asu_lora.cli.console import stdout

    found = Table(title=title, title_justify="left", header_style="dim", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in table.columns:
        name, _, holds = column.partition(" (")
        for long, short in (
            ("probability", "prob."),
            ("gibberish,", "gib- berish"),
            ("repetition,", "repe- tition"),
            ("forgotten", "forg."),
            ("seconds", "s"),
        ):
            name = name.replace(long, short)
        heading = "\n".join([*name.split(), *holds.rstrip(")").rsplit(" ", 1)]).rstrip()
        found.add_column(heading, justify="left" if column == table.columns[0] else "right", no_wrap=True)
    styles = {"best": "bold", "second": "underline", None: ""}
    for row in table.rows:
        found.add_row(*(Text(cell.text, style=styles[cell.mark]) for cell in row))
    console = stdout()
    wide = console.measure(found, options=console.options.update(max_width=10_000)).maximum
    console.width = max(console.width, wide)  # rather folded by the terminal than cut off
    console.print(found)
