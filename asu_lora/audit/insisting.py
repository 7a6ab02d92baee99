"""Ways of insisting on an answer: the written list, ``insisting.jsonl``, and a user's own."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from asu_lora.data.examples import refuse_surrogates
from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError

INSISTING = "insisting.jsonl"


@dataclass(frozen=True)
class Insisting:
    """One way of insisting.

    Attributes:
        kind: in a word or two.
        user: the turn, with ``{question}`` in it.
        system: a system turn, or None.
        begin: the first words of the answer.
    """

    kind: str
    user: str
    system: str | None = None
    begin: str = ""


@cache
def insisting() -> tuple[Insisting, ...]:
    """The written list, one kind a line of ``insisting.jsonl``."""
    text = (resources.files("asu_lora.audit") / INSISTING).read_text(encoding="utf-8")
    return tuple(Insisting(**json.loads(line)) for line in text.splitlines() if line.strip())


def read_insisting(path: str | Path) -> tuple[Insisting, ...]:
    """A user's own list: rows with ``user``, ``{question}`` in it, and if need be ``kind``, ``system`` and ``begin``.

    Raises:
        DataError: a row has no ``user`` with ``{question}``, or something else than text; the row is named.
    """
    return tuple(_from_row(row, number, path) for number, row in enumerate(read_rows(path), start=1))


def _from_row(row: dict[str, Any], number: int, path: str | Path) -> Insisting:
    given = {name: row[name] for name in ("kind", "user", "system", "begin") if row.get(name) not in (None, "")}
    for name, text in given.items():
        if not isinstance(text, str):
            raise DataError.about(path, f", row {number}: '{name}' should be text, not {type(text).__name__}.")
        refuse_surrogates(text, name, number, str(path))
    if "{question}" not in given.get("user", ""):
        fault = "a row needs 'user', with {question} where the question is to stand."
        raise DataError.about(path, f", row {number}: {fault}")
    return Insisting(**{"kind": f"your own {number}", **given})
