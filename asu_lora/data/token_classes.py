"""Which tokens of an answer carry its facts, and which only hold the sentence together.

Deterministic: closed-class words and punctuation are *function*; words of the question are *copied* (the
question itself gives them away); what is left is *factual*. Where a row names its facts itself (a field
``spans``, see :mod:`asu_lora.data.fact_spans`), they and nothing else are factual.
"""

import re
from collections.abc import Sequence
from enum import IntEnum

from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import fact_spans

FUNCTION_WORDS = frozenset(
    """a an the this that these those some any each every no both either neither another such
    i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our
    ours ourselves they them their theirs themselves who whom whose which what where when why how
    am is are was were be been being have has had having do does did doing will would shall should can could may
    might must ought and or but nor so yet for if then else because as until while of at by with about against
    between into through during before after above below to from up down in out on off over under again further
    once here there all few more most other own same than too very just also not only s t d ll m re ve
    however although though since unless whether upon within without among across along around via per
    well even still often always never ever""".split()
)
ENDINGS = ("", "s", "d", "ll", "m", "re", "ve")  # what may stand behind an apostrophe: "he'll", not "d'Artagnan"
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


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
    asked = {part for word in _WORD.findall(example.question.lower()) for part in _stems(word)}
    parts = pieces(item.answer_ids, tokenizer)
    text = "".join(piece for _, piece in parts)
    kinds = [TokenClass.FUNCTION] * (len(text) + 1)
    for match in _WORD.finditer(text):
        kind = _word_class(match.group().lower(), asked)
        kinds[match.start() : match.end()] = [kind] * (match.end() - match.start())
    spans = fact_spans(example, text)
    if spans is not None:
        kinds = [TokenClass.FUNCTION if kind == TokenClass.FACTUAL else kind for kind in kinds]
        for begin, end in spans:
            kinds[begin:end] = [TokenClass.FACTUAL] * len(kinds[begin:end])
    classes, start = [], 0
    for tokens, piece in parts:
        inside = next((i for i, letter in enumerate(piece) if letter.isalnum()), None)
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


def _word_class(word: str, asked: set[str]) -> TokenClass:
    start, _, ending = word.replace("\u2019", "'").partition("'")
    if start in FUNCTION_WORDS and ending in ENDINGS:
        return TokenClass.FUNCTION
    if ending == "t" and (start.removesuffix("n") in FUNCTION_WORDS or start in ("can", "won", "shan", "ain")):
        return TokenClass.FUNCTION
    return TokenClass.COPIED if _stems(word) & asked else TokenClass.FACTUAL


def _stems(word: str) -> set[str]:
    """A word and what is left of it without a possessive or plural ending."""
    bare = re.sub(r"['\u2019]s?$", "", word)
    return {word, bare} | ({bare[:-1]} if bare.endswith("s") and len(bare) > 3 else set())
