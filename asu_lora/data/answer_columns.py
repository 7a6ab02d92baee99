"""The columns that scores need beside question and answer, as people write them.

TOFU has a list of wrong answers a row. Others have one as text, lists with null in them, several paraphrases, or
a list that a CSV file holds as text.
"""

import ast
import json
from typing import Any

from asu_lora.data.examples import Example
from asu_lora.errors import DataError

PARAPHRASED, WRONG, FULL, ASKED_AGAIN = (
    "paraphrased_answer",
    "perturbed_answer",
    "original_answer",
    "paraphrased_question",
)


def texts_of(example: Example, column: str) -> list[str]:
    """The texts of a column: one, several or none.

    A text is one answer. A text that is a list in JSON or Python, as CSV files hold it, is that list. Nulls and
    empty texts are left out.

    Raises:
        DataError: the column holds something that is no text; the row is named.
    """
    value = example.extra.get(column)
    entries = _entries(value)
    wrong = next((entry for entry in entries if not isinstance(entry, str)), None)
    if wrong is not None:
        where = f"row {example.row}" if example.row else "a row"
        raise DataError(
            f"'{column}' of {where} should be a text or a list of texts; it holds {type(wrong).__name__} "
            f"({str(wrong)[:40]})."
        )
    return [entry for entry in entries if entry.strip()]


def full_answer(example: Example) -> str:
    """The truth as a full sentence, where a row has one (TOFU's ``original_answer``); else the answer."""
    return next(iter(texts_of(example, FULL)), example.answer)


def _entries(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = _listed(value) or [value]
    if isinstance(value, (list, tuple)):
        return [entry for entry in value if not _missing(entry)]
    return [] if _missing(value) else [value]


def _listed(text: str) -> list[Any] | None:
    """The list that a text spells, in JSON or as Python prints it; None for another text."""
    if not (text.lstrip().startswith("[") and text.rstrip().endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # "[1]" may be a citation; a list of answers holds texts
        if isinstance(found, list) and all(entry is None or isinstance(entry, str) for entry in found):
            return found
    return None


def _missing(value: Any) -> bool:
    """None, and the NaN that pandas writes for an empty cell."""
    return value is None or (isinstance(value, float) and value != value)
