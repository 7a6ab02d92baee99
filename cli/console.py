"""Where the commands write: tables and progress on a terminal, JSON on request.

Results go to stdout, progress and notes to stderr, so that ``--json`` output can be piped. What a stream's encoding
doesn't have is written as an escape (``\\u03c4``): a legacy terminal never ends a run.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console

FOLDED = 24  # columns that a column which may fold keeps at least


def never_fail_to_encode() -> None:
    """Make stdout and stderr write escapes for characters that their encoding doesn't have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def encodes(stream: Any, text: str) -> bool:
    """Whether the stream's encoding has every character of the text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def readable(word: str) -> str:
    """A typed word as text: bytes that the locale couldn't read are read as UTF-8, or replaced by U+FFFD."""
    try:
        return word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # half a character that no byte stands for
        return word.encode("utf-8", "replace").decode()


def stdout() -> "Console":
    """The rich console for results."""
    from rich.console import Console

    return Console(highlight=False, color_system=_colors())


def stderr() -> "Console":
    """The rich console for progress, notes and warnings."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, color_system=_colors())


def _colors() -> "Literal['auto'] | None":
    """With NO_COLOR nothing is bold either: rich takes colours alone away, and leaves the escapes of other styles."""
    return None if os.environ.get("NO_COLOR") else "auto"


def ask_first(question: str) -> None:
    """Ask before something is taken away; any other answer than yes ends the command.

    Raises:
        UsageError: there is nobody who could answer (a script, a pipe at its end).
    """
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            click.echo(err=True)
            raise click.UsageError("Nobody answered, and nothing was removed: --yes does it without asking.") from error
        raise


def print_json(value: Any) -> None:
    """Print JSON that can be read back whatever the encoding: escapes where it lacks a character, null for NaN."""
    value = json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not encodes(sys.stdout, text):
        text = json.dumps(value, indent=2)
    click.echo(text)


def print_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> None:
    """Print rows under columns; indices in ``right`` are right-aligned, those in ``wrap`` may fold.

    A terminal narrower than the columns folds lines itself: no digit is cut off.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    needed = 1
    for index, column in enumerate(columns):
        folds = not wrap or index in wrap
        table.add_column(column, justify="right" if index in right else "left", overflow="fold", no_wrap=not folds)
        widest = max([*(len(line) for line in column.split("\n")), *(row[index].cell_len for row in cells)])
        needed += 3 + (min(widest, FOLDED) if folds else widest)
    for row in cells:
        table.add_row(*row)
    console = stdout()
    console.width = max(console.width, needed)
    console.print(table)
