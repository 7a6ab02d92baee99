"""Which tokens of an answer carry its facts, and which only hold the sentence together.

Deterministic: closed-class words (of the row's language, :mod:`asu_lora.data.function_words`) and punctuation are
*function*; words of the question are *copied* (the question itself gives them away); what is left is *factual*. In a
script without spaces, what the tokenizer takes for a piece is a word. Where a row names its facts itself (a field
``spans``, see :mod:`asu_lora.data.fact_spans`), they and nothing else are factual.
"""

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise

import regex
from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import fact_spans
from asu_lora.data.function_words import ENGLISH, function_words, language_of, unspaced

ENDINGS = ("", "s", "d", "ll", "m", "re", "ve")  # what may stand behind an apostrophe: "he'll", not "d'Artagnan"
# vowel signs belong to their word, which Python's own \w takes them out of
_WORD = regex.compile(r"[\w\p{M}]+(?:['\u2019-][\w\p{M}]+)*")
_HAN = regex.compile(r"\p{Han}")


class TokenClass(IntEnum):
    """What an answer token is part of."""

    FUNCTION = 0
    COPIED = 1
    FACTUAL = 2


def token_classes(item: Encoded, example: Example, tokenizer: PreTrainedTokenizerBase) -> list[TokenClass]:
    """The class of every answer token of an encoded example.

    A token belongs to the word its first letter or digit stands in; tokens without one, and special tokens,
    are function, unless the row's own spans hold them.

    Raises:
        DataError: the row's spans can't be read.
    """
    begin = 0
    if item.begin and example.extra.get("spans"):
        before = tokenizer(example.answer, add_special_tokens=False).input_ids[: item.begin]
        begin = len(tokenizer.decode(before, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return classes_of_pieces(pieces(item.answer_ids, tokenizer), example, begin)


def classes_of_pieces(parts: Sequence[tuple[int, str]], example: Example, begin: int = 0) -> list[TokenClass]:
    """:func:`token_classes` of an answer whose :func:`pieces` are known.

    Args:
        begin: about how many characters of the answer stand before them.
    """
    question, function = example.question.lower(), function_words(language_of(example))
    asked = {part for word in _WORD.findall(question) for part in _stems(word)}
    text = "".join(piece for _, piece in parts)
    kinds = [TokenClass.FUNCTION] * (len(text) + 1)
    for start, end, known in _words(text, parts, question):
        word = text[start:end].lower()
        known = known or bool(_stems(word) & asked)
        kinds[start:end] = [_word_class(word, known, function)] * (end - start)
    spans = fact_spans(example, text, begin)
    if spans is not None:
        kinds = [TokenClass.FUNCTION if kind == TokenClass.FACTUAL else kind for kind in kinds]
        for begin, end in spans:
            kinds[begin:end] = [TokenClass.FACTUAL] * len(kinds[begin:end])
    classes, start = [], 0
    for tokens, piece in parts:
        inside = next((i for i, letter in enumerate(piece) if _WORD.match(letter) and letter != "_"), None)
        if inside is None and spans:  # a full stop inside a fact
            inside = next((i for i, letter in enumerate(piece) if kinds[start + i] == TokenClass.FACTUAL), None)
        classes += [TokenClass.FUNCTION if inside is None else kinds[start + inside]] * tokens
        start += len(piece)
    return classes


def pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, str]]:
    """The text of an answer in pieces, each with the number of tokens that make it.

    A token's text is what it adds after the token before it: decoded alone, many tokenizers' tokens lose the
    space in front. Several tokens that only together are a character are one piece.
    """

    def decode(start: int, end: int) -> str:
        return str(tokenizer.decode(list(ids[start:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    found = []
    before, start = 0, 0
    for end in range(1, len(ids) + 1):
        known, text = decode(before, start), decode(before, end)
        if text.endswith("\ufffd") and end < len(ids):  # in the middle of a character
            continue
        found.append((end - start, text[len(known) :]))
        before, start = start, end
    return found


def _words(text: str, parts: Sequence[tuple[int, str]], question: str) -> Iterator[tuple[int, int, bool]]:
    """Where the words stand, and whether the question holds them, as far as that is not told word by word.

    In a script without spaces the pieces are the words, and the question holds one that is part of a run of signs (2
    of Chinese, 4 of letters) that stands in it.
    """
    edges = set(accumulate((len(piece) for _, piece in parts), initial=0))
    for match in _WORD.finditer(text):
        if not unspaced(match.group()):
            yield match.start(), match.end(), False
            continue
        run, first = match.group().lower(), match.start()
        size = 2 if _HAN.search(run) else 4
        known = [False] * len(run)
        for at in range(len(run) - size + 1):
            if run[at : at + size] in question:
                known[at : at + size] = [True] * size
        cuts = [first, *(at for at in range(first + 1, match.end()) if at in edges), match.end()]
        for start, end in pairwise(cuts):
            yield start, end, all(known[start - first : end - first])


def _word_class(word: str, known: bool, function: frozenset[str]) -> TokenClass:
    """The class of a word in lower case that the question holds, or doesn't."""
    start, _, ending = word.replace("\u2019", "'").partition("'")
    if word in function or (start in function and ending in (ENDINGS if function is ENGLISH else function)):
        return TokenClass.FUNCTION
    if function is ENGLISH and ending == "t" and _negates(start):
        return TokenClass.FUNCTION
    return TokenClass.COPIED if known else TokenClass.FACTUAL


def _negates(start: str) -> bool:
    """Whether "n't" may end in this word's place: "isn", "can"."""
    return start.removesuffix("n") in ENGLISH or start in ("can", "won", "shan", "ain")


def _stems(word: str) -> set[str]:
    """A word and what is left of it without a possessive or plural ending."""
    bare = re.sub(r"['\u2019]s?$", "", word)
    return {word, bare} | ({bare[:-1]} if bare.endswith("s") and len(bare) > 3 else set())
