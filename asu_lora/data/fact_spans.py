"""A user's own word on which parts of an answer are its facts: the field ``spans`` of a row."""

from asu_lora.data.examples import Example
from asu_lora.errors import DataError, quoted

_SHAPE = "a list of texts that stand in the answer, or of [start, end] pairs of characters"


def fact_spans(example: Example, text: str) -> list[tuple[int, int]] | None:
    """Where the facts stand in ``text``, which is the answer, or a part of it, as its tokens spell it.

    Returns:
        (start, end) pairs of characters; None where the row has no spans. A text is marked wherever it stands.

    Raises:
        DataError: spans of another shape, or that aren't in the answer; the row is named.
    """
    spans = example.extra.get("spans")
    if spans is None or spans == "":  # a CSV's empty field
        return None
    where = f"'spans' of row {example.row}" if example.row else "'spans'"
    found: list[tuple[int, int]] = []
    for span in [spans] if isinstance(spans, str) else _as_list(spans, where):
        if isinstance(span, str) and span:
            if span not in example.answer:
                raise DataError(
                    f"{where}: the answer doesn't hold the text {quoted(span)}.",
                    f"{where}: the answer doesn't hold one of the texts.",
                )
            at = text.find(span)
            while at >= 0:
                found.append((at, at + len(span)))
                at = text.find(span, at + len(span))
        else:
            start, end = _pair(span, example, where)
            shift = _shift(text, example, where)
            found.append((max(0, start + shift), max(0, end + shift)))
    return found


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


def _shift(text: str, example: Example, where: str) -> int:
    """What to add to a place in the answer to get the same place in ``text``."""
    visible = text.strip().rstrip("\ufffd")  # a cut answer may end in the middle of a character
    at = example.answer.find(visible)
    if at < 0:
        raise DataError.plain(
            f"{where}: the base's tokenizer rewrites this answer, so that places in it are others: give "
            "the spans as texts."
        )
    return text.find(visible) - at
