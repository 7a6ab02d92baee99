"""A row's other answers: the truth in other words, and wrong ones, however people's files write them.

TOFU has a list of wrong answers; people's own sets have one, as text; tables have a list as text ("['a', 'b']" and,
of an array, "['a' 'b']", as pandas writes it); and lists have nulls in them. Nulls and empty texts are no answers.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from asu_lora.data.examples import Example
from asu_lora.errors import DataError

PARAPHRASED, PERTURBED, ORIGINAL = "paraphrased_answer", "perturbed_answer", "original_answer"
_TEXT = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ENTRY = rf"(?:{_TEXT}|None|null|nan|NaN|\.\.\.)"
_LIST = re.compile(rf"\[\s*(?:{_ENTRY}(?:(?:\s*,\s*|\s+){_ENTRY})*\s*,?\s*)?\]", re.DOTALL)
_HALF = re.compile(r"[\ud800-\udfff]")
ASKED_AGAIN = "paraphrased_question"  # the column of a question in other words


def reference_answers(example: Example, column: str) -> tuple[str, ...]:
    """The answers of one column: none, one or several.

    Raises:
        DataError: the column holds something that is neither text nor a list of texts.
    """
    return texts_of(example.extra, column, f"row {example.row}")


def texts_of(row: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
    """The texts of one column of a row: none, one or several.

    Args:
        where: what the row is called in messages.

    Raises:
        DataError: the column holds something that is neither text nor a list of texts.
    """
    value = row.get(column)
    if isinstance(value, str) and (listed := list_in(value, f"{where}: '{column}'")) is not None:
        value = listed
    entries = [value] if isinstance(value, str) or value is None else value
    if not isinstance(entries, list | tuple) or not all(entry is None or isinstance(entry, str) for entry in entries):
        raise DataError.plain(f"{where}: '{column}' should be text or a list of texts, not {_kind(entries)}.")
    if any(_HALF.search(entry) for entry in entries if entry):  # JSON can write it, and no tokenizer takes it
        raise DataError.plain(f"{where}: '{column}' holds half a character (a broken emoji, perhaps): mend it.")
    return tuple(entry for entry in entries if entry and entry.strip())


def check_reference_answers(examples: Iterable[Example]) -> None:
    """Refuse answers that can't be read, before anything heavy is loaded.

    Raises:
        DataError: as :func:`reference_answers`.
    """
    for example in examples:
        for column in (PARAPHRASED, PERTURBED, ORIGINAL):
            reference_answers(example, column)


def list_in(text: str, where: str) -> list[str | None] | None:
    """A list of texts that stands in a table's cell, as JSON, Python or numpy writes it; None for any other text."""
    told = text.strip()
    if not _LIST.fullmatch(told):
        return None
    try:
        return [entry if isinstance(entry, str) else None for entry in json.loads(told)]
    except ValueError:
        entries = re.findall(_ENTRY, told, re.DOTALL)
    if "..." in entries:
        raise DataError.plain(f"{where} is a list with '...' in it, whose middle is lost: write the whole list.")
    try:
        return [ast.literal_eval(entry) if entry[0] in "'\"" else None for entry in entries]
    except (ValueError, SyntaxError):  # a line break inside a text
        return None


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        wrong = next(entry for entry in value if entry is not None and not isinstance(entry, str))
        return f"a list with {type(wrong).__name__} in it"
    return type(value).__name__
