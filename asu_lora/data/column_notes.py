"""What a person should hear of the columns of rows: those that are left out, and those that may be typed wrongly."""

from collections.abc import Sequence
from difflib import get_close_matches

from asu_lora.data.examples import Example, left_out_note
from asu_lora.errors import quoted

# columns that a row may have; any other is left alone
OPTIONAL = (
    "aliases", "alternate_answer", "language", "original_answer", "paraphrased_answer", "paraphrased_question",
    "perturbed_answer", "spans", "translated_question",
)  # fmt: skip
NEAR = 0.83  # 'alias' is as near to 'aliases'; 'translated_answer', somebody's own, has 0.79


def columns_note(examples: Sequence[Example]) -> str | None:
    """What is left out of a conversation, and what may be typed wrongly; None where there is neither."""
    return " ".join(filter(None, (left_out_note(examples), _mistyped_note(examples)))) or None


def _mistyped_note(examples: Sequence[Example]) -> str | None:
    """Names columns that nothing reads, each beside the optional one that it comes close to."""
    found: dict[str, str] = {}
    rows = set()
    for example in examples:
        for column, cell in example.extra.items():
            near = _near(column) if cell is not None and cell != "" else None
            if near and example.extra.get(near) in (None, ""):
                found[column] = near
                rows.add(example.row)
    if not found:
        return None
    named = ", ".join(f"{quoted(column, 40)} (did you mean '{near}'?)" for column, near in found.items())
    return f"{len(rows)} {'row has' if len(rows) == 1 else 'rows have'} {named}, which nothing reads."


def _near(column: object) -> str | None:
    if not isinstance(column, str) or column in OPTIONAL:
        return None
    return next(iter(get_close_matches(column.casefold(), OPTIONAL, n=1, cutoff=NEAR)), None)
