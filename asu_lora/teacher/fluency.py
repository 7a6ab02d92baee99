"""What keeps a student talking: where the teacher gives way to the base, and what it must not say.

A teacher hot enough to have lost the facts has lost more than them, and a student that learns from it word by
word writes loops and noise. Two things are put right before anything is learnt, from the request alone:

*Anchors.* At tokens that hold an answer together and tell no fact, the target is the plain base.

*Ruled out.* At every other content word, the teacher's distribution is left without that word itself and without the
content words that have already been said; at the function word that follows a content word, without that word. What
remains is what the teacher would say instead: another place, another trade, another turn of phrase. So the teacher
need not be hot enough to have lost the last trace of a fact (and with it its sentences), and does not fill the gap
with echoes, which is how loops begin.

Neither is in the paper; ``--no-keep-speaking`` is its loss as it stands.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.function_words import function_words, language_of
from asu_lora.data.token_classes import TokenClass, pieces
from asu_lora.data.training_rows import TrainingRows

MOST_RULED_OUT = 64  # ids a token: the latest words, loops are near
NOTHING = -1  # fills up the table of ruled-out ids
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class FluencyMasks:
    """One tensor a row each.

    Attributes:
        anchors: (answer tokens,) whether the target is the plain base.
        ruled_out: (answer tokens, k) ids taken out of the teacher's distribution, filled up with NOTHING; k is
            the same for all rows.
    """

    anchors: list[torch.Tensor]
    ruled_out: list[torch.Tensor]


def fluency_masks(rows: TrainingRows, tokenizer: PreTrainedTokenizerBase) -> FluencyMasks:
    """Anchors and ruled-out tokens of forget rows.

    Args:
        rows: with their examples, and the classes of their answer tokens.
    """
    anchors, tables = [], []
    for row, classes in zip(rows.answers, rows.classes, strict=True):
        example = rows.examples[row.example]
        anchors.append(anchored(row, example, classes, tokenizer))
        tables.append(ruled_out(row, example, classes, anchors[-1], tokenizer))
    return FluencyMasks(anchors, table(tables))


def table(rows: Sequence[list[list[int]]]) -> list[torch.Tensor]:
    """Lists of ids, one a token, as tensors (tokens, k), one a row, filled up with NOTHING; k is the same for all."""
    width = max([1, *(len(ids) for row in rows for ids in row)])
    return [torch.tensor([ids + [NOTHING] * (width - len(ids)) for ids in row], dtype=torch.int32) for row in rows]


def anchored(
    item: Encoded, example: Example, classes: Sequence[TokenClass], tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """(answer tokens,) which tokens hold an answer together without telling a fact.

    Punctuation; the end of turn; names that the question gives away itself (its words with a capital); the pieces
    of a word after its first, which spell what that one has decided; and the first word, unless it is a fact.
    """
    kept: list[bool] = []
    opening, before = not example.is_passage and classes[0] != TokenClass.FACTUAL, ""
    for tokens, piece in pieces(item.answer_ids, tokenizer):
        opening = opening and (not kept or not piece[:1].isspace())
        tells_nothing = not any(letter.isalnum() for letter in piece)
        spelling = _spells(before[-1:]) and _spells(piece[:1])
        name = classes[len(kept)] == TokenClass.COPIED and piece.strip()[:1].isupper()
        kept += [opening or tells_nothing or spelling or name] * tokens
        before = piece
    return torch.tensor(kept)


def ruled_out(
    item: Encoded,
    example: Example,
    classes: Sequence[TokenClass],
    anchors: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """For every answer token, the ids that a teacher must not say there.

    At a fact these are the fact and the content words of the question and of the answer so far; at a word of the
    question, that word and those of the answer so far; at a function word right after a content word, that word
    (the sentence takes another turn there); else, and at anchors, nothing.
    """
    function = function_words(language_of(example))
    asked = [
        token
        for token in dict.fromkeys(tokenizer(example.question, add_special_tokens=False)["input_ids"])
        if _is_content(str(tokenizer.decode([token])), function)
    ]
    variants = WithOrWithoutSpace(tokenizer)
    said: dict[int, None] = {}
    turns = False  # whether the next function word is one right after a content word
    found: list[list[int]] = []
    for token, kind, kept in zip(item.answer_ids, classes, anchors.tolist(), strict=True):
        if kept:
            found.append([])
        elif kind == TokenClass.FUNCTION:
            found.append(variants(token) if turns else [])
            turns = False
        else:
            before = [*(asked if kind == TokenClass.FACTUAL else ()), *said]
            itself = variants(token)
            latest = dict.fromkeys(before[len(itself) - MOST_RULED_OUT :])
            found.append([*itself, *(i for i in latest if i not in itself)])
        if kind != TokenClass.FUNCTION:
            turns = True
            said.pop(token, None)
            said[token] = None  # the latest at the end
    return found


class WithOrWithoutSpace:
    """The tokens that write the same word: " was" ruled out alone would have the teacher say "was", glued on."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.known: dict[int, list[int]] = {}

    def __call__(self, token: int) -> list[int]:
        if token not in self.known:
            word = str(self.tokenizer.decode([token])).strip()
            spelt = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (word, f" {word}") if word]
            self.known[token] = list(dict.fromkeys([token, *(ids[0] for ids in spelt if len(ids) == 1)]))
        return self.known[token]


def _is_content(piece: str, function: frozenset[str]) -> bool:
    word = piece.strip().lower()
    return any(letter.isalnum() for letter in word) and word not in function


def _spells(letter: str) -> bool:
    """Whether it is a letter of a script that sets words apart: a digit, or a Chinese character, tells by itself."""
    return letter.isalpha() and not unicodedata.name(letter, "").startswith(_UNSPACED)
