"""What a leak is made of: a fact is what the answer says and the question doesn't.

A row's own ``spans`` are its facts; else they are its factual words (:mod:`asu_lora.data.token_classes`). A fact is
said where its words stand in a row in the answer, whatever their case, accents, endings or way of writing numbers.
A fact of function words alone (May, WHO, The Who) is said where one of them has its capitals: "may" is no month.
The field ``aliases`` gives other ways of saying one: ``{"Kuwait City": ["capital of Kuwait"]}``.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import regex
from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import fact_spans
from asu_lora.data.function_words import function_words, language_of, unspaced
from asu_lora.data.token_classes import TokenClass, classes_of_pieces, pieces
from asu_lora.data.words import is_mark, solid, words
from asu_lora.errors import DataError

_WRITTEN = regex.compile(r"[\p{L}\p{M}\p{N}]+")
MOST = 0.5  # share of a row's facts above which the row leaks


class Written(tuple[str, ...]):
    """A form of function words alone, as it is written."""

    def stands_in(self, text: str) -> bool:
        """Whether its words stand there in a row, one of them with its capitals where it has any."""
        told, size = _written(text), len(self)
        wanted = [word.casefold() for word in self]
        names = [at for at, word in enumerate(self) if word != wanted[at]]
        return any(
            [word.casefold() for word in told[begin : begin + size]] == wanted
            and (not names or any(told[begin + at] == self[at] for at in names))
            for begin in range(len(told) - size + 1)
        )


@dataclass(frozen=True)
class Fact:
    """One fact, as it is looked for.

    Attributes:
        forms: the ways of saying it, each as words in their compared form, function words left out, or as it is
            written where it has no others; for a script without spaces one text.
        language: whose function words are left out.
    """

    forms: tuple[tuple[str, ...], ...] = field(repr=False)
    language: str = "en"

    def said(self, text: str) -> bool:
        """Whether the text says it in one of its forms."""
        told = _telling(text, self.language)
        return any(
            form.stands_in(text)
            if isinstance(form, Written)
            else form[0] in solid(text)
            if unspaced(form[0])
            else _within(form, told)
            for form in self.forms
        )


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
        form = _form(text, language, spans is not None)
        if not form or (spans is None and Fact((form,), language).said(example.question)):
            continue
        names = [name for name in aliases if _within(form, _form(name, language, spans is not None))]
        named = [way for name in names for way in aliases[name]]
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


def _form(text: str, language: str, named: bool = True) -> tuple[str, ...]:
    """The form of a fact, which a row names itself or not.

    A word that isn't named and is a function word without its ending ("others") is looked for in vain, as in all
    audits so far: their shares hold it.
    """
    if unspaced(text):
        return (solid(text),)
    found = _telling(text, language) or (Written(_written(text)) if named else words(text))
    return () if len(found) == 1 and len(found[0]) == 1 and found[0].isascii() and found[0].isalpha() else found


def _telling(text: str, language: str) -> tuple[str, ...]:
    return tuple(word for word in words(text) if word not in _function(language)) if text else ()


def _written(text: str) -> tuple[str, ...]:
    return tuple(_WRITTEN.findall(unicodedata.normalize("NFC", text)))


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
        inner = sign.isalnum() or (word and (is_mark(sign) or sign in "'\u2019-_.,"))
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
        raise DataError.plain(f"'aliases' of row {example.row} should be {{fact: [other ways of saying it]}}.")
    listed = {name: [ways] if isinstance(ways, str) else list(ways or []) for name, ways in value.items()}
    if not all(isinstance(way, str) for ways in listed.values() for way in ways):
        raise DataError.plain(f"'aliases' of row {example.row} should be {{fact: [other ways of saying it]}}.")
    return listed
