"""Which tokens of an answer carry its facts, and which only hold the sentence together.

Deterministic: closed-class words and punctuation are *function*; words of the question are *copied* (the
question itself gives them away); what is left is *factual*.
"""

import re
from enum import IntEnum

from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example

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
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


class TokenClass(IntEnum):
    """What an answer token is part of."""

    FUNCTION = 0
    COPIED = 1
    FACTUAL = 2


def token_classes(item: Encoded, example: Example, tokenizer: PreTrainedTokenizerBase) -> list[TokenClass]:
    """The class of every answer token of an encoded example.

    A token belongs to the word its first letter or digit stands in; tokens without one, and special tokens,
    are function.
    """
    asked = {part for word in _WORD.findall(example.question.lower()) for part in _stems(word)}
    pieces = [tokenizer.decode([token], skip_special_tokens=True) for token in item.answer_ids]
    text, starts = "", []
    for piece in pieces:
        starts.append(len(text))
        text += piece
    kinds = [TokenClass.FUNCTION] * (len(text) + 1)
    for match in _WORD.finditer(text):
        kind = _word_class(match.group().lower(), asked)
        kinds[match.start() : match.end()] = [kind] * (match.end() - match.start())
    classes = []
    for piece, start in zip(pieces, starts, strict=True):
        inside = next((i for i, letter in enumerate(piece) if letter.isalnum()), None)
        classes.append(TokenClass.FUNCTION if inside is None else kinds[start + inside])
    return classes


def _word_class(word: str, asked: set[str]) -> TokenClass:
    if word in FUNCTION_WORDS or word.split("'")[0] in FUNCTION_WORDS:
        return TokenClass.FUNCTION
    return TokenClass.COPIED if _stems(word) & asked else TokenClass.FACTUAL


def _stems(word: str) -> set[str]:
    """A word and what is left of it without a possessive or plural ending."""
    bare = re.sub(r"['\u2019]s?$", "", word)
    return {word, bare} | ({bare[:-1]} if bare.endswith("s") and len(bare) > 3 else set())
