"""A user's own word on which parts of an answer are its facts: the field ``spans`` of a row."""

import json
import re
import unicodedata
from typing import Any, Literal

from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import list_in
from asu_lora.errors import DataError, quoted

Spelling = Literal["NFC", "NFKC"] | None
_SPELLINGS: tuple[Spelling, ...] = (None, "NFC", "NFKC")  # a text's own, and those in which tokenizers rewrite it
_SHAPE = "a list of texts that stand in the answer, or of [start, end] pairs of characters"


def fact_spans(example: Example, text: str, begin: int = 0) -> list[tuple[int, int]] | None:
    """Where the facts stand in ``text``, which is the answer, or a part of it, as its tokens spell it.

    Args:
        begin: about how many characters of the answer stand before the part.

    Returns:
        (start, end) pairs of characters; None where the row has no spans. A text is marked wherever it stands, and
        what is left of it where the part cuts it.

    Raises:
        DataError: spans of another shape, or that aren't in the answer; the row is named.
    """
    where = f"'spans' of row {example.row}" if example.row else "'spans'"
    spans = own_spans(example)
    if spans is None or spans == "":  # a CSV's empty field
        return None
    found: list[tuple[int, int]] = []
    place = _place(text, example, begin)
    for span in [spans] if isinstance(spans, str) else _as_list(spans, where):
        if isinstance(span, str) and span:
            if span not in example.answer:
                raise DataError(
                    f"{where}: the answer doesn't hold the text {quoted(span)}.",
                    f"{where}: the answer doesn't hold one of the texts.",
                )
            found += _standing(span, text) + (_cut(span, text, example, *place) if place else [])
        else:
            start, end = _pair(span, example, where)
            spelling, shift = _shift(place, where)
            start, end = (len(_spelt(example.answer[:at], spelling)) + shift for at in (start, end))
            found.append((max(0, start), max(0, end)))
    return found


def own_spans(example: Example) -> Any:
    """The field, of which a table's cell may hold a list as text."""
    spans = example.extra.get("spans")
    if not isinstance(spans, str) or spans in example.answer or not spans.lstrip().startswith("["):
        return spans
    try:
        return json.loads(spans)
    except (ValueError, RecursionError):
        listed = list_in(spans, "'spans'")
    return spans if listed is None else [span for span in listed if span is not None]


def _as_list(spans, where: str) -> list:
    if not isinstance(spans, (list, tuple)):
        raise DataError.plain(f"{where} should be {_SHAPE}, not {type(spans).__name__}.")
    return list(spans)


def _pair(span, example: Example, where: str) -> tuple[int, int]:
    whole = isinstance(span, (list, tuple)) and len(span) == 2 and all(type(number) is int for number in span)
    if not whole:
        wanted = f"{where} should be {_SHAPE}"
        raise DataError(f"{wanted}; {quoted(span)} is neither.", f"{wanted}; one is neither.")
    if not 0 <= span[0] < span[1] <= len(example.answer):
        raise DataError.plain(f"{where}: {list(span)} is no part of an answer of {len(example.answer)} characters.")
    return span[0], span[1]


def _spelt(text: str, spelling: Spelling) -> str:
    return unicodedata.normalize(spelling, text) if spelling else text


def _visible(text: str) -> str:
    return text.strip().strip("\ufffd")  # a cut answer may begin and end in the middle of a character


def _place(text: str, example: Example, begin: int) -> tuple[Spelling, int] | None:
    """The spelling of ``text``, and what to add to a place in the answer so spelt to get the same place in it.

    None where the tokenizer rewrites the answer in another way.
    """
    visible = _visible(text)
    for spelling in _SPELLINGS:
        places = [place.start() for place in re.finditer(f"(?={re.escape(visible)})", _spelt(example.answer, spelling))]
        if places:
            return spelling, text.find(visible) - min(places, key=lambda place: abs(place - begin))
    return None


def _shift(place: tuple[Spelling, int] | None, where: str) -> tuple[Spelling, int]:
    if place is None:
        raise DataError.plain(
            f"{where}: the base's tokenizer rewrites this answer, so that places in it are others: give "
            "the spans as texts."
        )
    return place


def _standing(span: str, text: str) -> list[tuple[int, int]]:
    """Where a span stands in a text, whole, in whatever spelling."""
    for spelling in _SPELLINGS:
        if found := [place.span() for place in re.finditer(re.escape(_spelt(span, spelling)), text)]:
            return found
    return []


def _cut(span: str, text: str, example: Example, spelling: Spelling, shift: int) -> list[tuple[int, int]]:
    """Where the part's beginning or end cuts a span that stands in the answer."""
    first = text.find(_visible(text))
    last = first + len(_visible(text))
    places = re.finditer(re.escape(_spelt(span, spelling)), _spelt(example.answer, spelling))
    found = [(place.start() + shift, place.end() + shift) for place in places]
    return [(max(start, first), min(end, last)) for start, end in found if start < first < end or start < last < end]
