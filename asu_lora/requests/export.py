"""The ledger for other programs: JSON Lines or CSV, of the history's lines or of the requests."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import Line, Request, canonical

FORMATS = ("jsonl", "csv")
TABLES: dict[str, type] = {"history": Line, "requests": Request}


def export(ledger: Ledger, what: str = "history", format: str = "jsonl") -> Iterator[str]:
    """The lines of a file.

    Args:
        what: of :data:`TABLES`.
        format: of :data:`FORMATS`.
    """
    rows = map(asdict, ledger.history() if what == "history" else ledger.requests())
    if format == "jsonl":
        return (json.dumps(row, ensure_ascii=False) for row in rows)
    return _csv([field.name for field in fields(TABLES[what])], rows)


def _csv(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield _line(columns)
    for row in rows:
        yield _line([_cell(row[column]) for column in columns])


def _line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cell(value: Any) -> str:
    """A value as text; what a spreadsheet would take for a formula gets an apostrophe before it."""
    text = "" if value is None else canonical(value) if isinstance(value, dict) else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
