"""What a leak is made of: a fact is what the answer says and the question doesn't.

A row's own ``spans`` are its facts; else they are its factual words (:mod:`asu_lora.data.token_classes`). A fact is
said where its words stand in a row in the answer, whatever their case, accents, endings or way of writing numbers.
The field ``aliases`` gives other ways of saying one: ``{"Kuwait City": ["capital of Kuwait"]}``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import fact_spans
from asu_lora.data.function_words import function_words, language_of, unspaced
from asu_lora.data.token_classes import TokenClass, classes_of_pieces, pieces
from asu_lora.data.words import solid, words
from asu_lora.errors import DataError

MOST = 0.5  # share of a row's facts above which the row leaks


@dataclass(frozen=True)
class Fact:
    """One fact, as it is looked for.

    Attributes:
        forms: the ways of saying it, each as words in their compared form, function words left out; for a script
            without spaces one text.
        language: whose function words are left out.
    """

    forms: tuple[tuple[str, ...], ...]
    language: str = "en"

    def said(self, text: str) -> bool:
        """Whether the text says it in one of its forms."""
        told = _telling(text, self.language)
        return any(_within(form, told) if not unspaced(form[0]) else form[0] in solid(text) for form in self.forms)


def facts_of(example: Example, items: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> tuple[Fact, ...]:
    """The facts of one row, each once; none where the answer repeats the question.

    Args:
        items: the row as the encoder wrote it, several for a long passage.

    Raises:
        DataError: its ``spans`` or ``aliases`` can't be read.
    """
    spans = fact_spans(example, example.answer)
    told = (
        [example.answer[start:end] for start, end in spans]
        if spans is not None
        else [word for item in items for word in _factual_words(item, example, tokenizer)]
    )
    aliases, language = _aliases(example), language_of(example)
    facts: dict[tuple[str, ...], Fact] = {}
    for text in told:
        form = _form(text, language)
        if not form or (spans is None and Fact((form,), language).said(example.question)):
            continue
        named = [way for name, ways in aliases.items() if _within(form, _form(name, language)) for way in ways]
        others = [other for way in named if (other := _form(way, language))]
        facts.setdefault(form, Fact((form, *others), language))
    return tuple(facts.values())


def check_marks(example: Example) -> None:
    """Read the row's own ``spans`` and ``aliases``, without taking it apart.

    Raises:
        DataError: they can't be read.
    """
    fact_spans(example, example.answer)
    _aliases(example)


def share_said(text: str, facts: Sequence[Fact], given: str = "") -> float | None:
    """Share of the facts that a text says, of those that what was ``given`` doesn't say; None where that is all."""
    asked = [fact for fact in facts if not (given and fact.said(given))]
    return sum(fact.said(text) for fact in asked) / len(asked) if asked else None


@cache
def _function(language: str) -> frozenset[str]:
    """The language's function words in the form that words are compared by."""
    return frozenset(form for word in function_words(language) for form in words(word))


def _form(text: str, language: str) -> tuple[str, ...]:
    if unspaced(text):
        return (solid(text),)
    told = words(text)
    found = _telling(text, language) or told
    return () if len(found) == 1 and len(found[0]) == 1 and found[0].isascii() and found[0].isalpha() else found


def _telling(text: str, language: str) -> tuple[str, ...]:
    return tuple(word for word in words(text) if word not in _function(language)) if text else ()


def _within(form: tuple[str, ...], told: tuple[str, ...]) -> bool:
    """Whether the words stand in a row; a compound may be written as one word or as several."""
    size = len(form)
    if size and any(told[at : at + size] == form for at in range(len(told) - size + 1)):
        return True
    return size > 1 and "".join(form) in told


def _factual_words(item: Encoded, example: Example, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words whose first letter or digit is of a factual token; in a script without spaces, the factual runs."""
    parts = pieces(item.answer_ids, tokenizer)
    classes = classes_of_pieces(parts, example)
    text, factual, at = "", [], 0
    for tokens, piece in parts:
        text += piece
        factual += [classes[at] == TokenClass.FACTUAL] * len(piece)
        at += tokens
    found: list[str] = []
    word, kept = "", False
    for sign, fact in zip(text + " ", [*factual, False], strict=True):
        inner = sign.isalnum() or (word and sign in "'\u2019-_.,")
        if inner and (not unspaced(sign) or not word or fact == kept):
            kept = fact if not word else kept
            word += sign
            continue
        if word and kept:
            found += [part for part in word.strip("'\u2019-_.,").replace("_", "-").split("-") if part]
        word, kept = (sign, fact) if sign.isalnum() else ("", False)
    return found


def _aliases(example: Example) -> dict[str, list[str]]:
    value: Any = example.extra.get("aliases")
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = 0
    if value is None or value == "":
        return {}
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(ways, str | list | None) for name, ways in value.items()
    ):
        raise DataError(f"'aliases' of row {example.row} should be {{fact: [other ways of saying it]}}.")
    listed = {name: [ways] if isinstance(ways, str) else list(ways or []) for name, ways in value.items()}
    if not all(isinstance(way, str) for ways in listed.values() for way in ways):
        raise DataError(f"'aliases' of row {example.row} should be {{fact: [other ways of saying it]}}.")
    return listed
