"""Gibberish: answers that are no answer at all, told apart from wrong or refusing ones by fixed rules.

Forgetting that ends in loops and noise is damage, and ROUGE, probability and truth ratio all reward it. The
rules here are plain and deterministic, so that a flagged answer can be argued with; :func:`gibberish_reason`
says which one it met. They are this project's own; no paper of the field defines the rate.
"""

import re
import unicodedata
from collections.abc import Iterable

# A number with its separators ("1,000,000", "08/09/1956") is one word, and so is "Al-Kuwaiti's".
_WORD = re.compile(r"\d+(?:[.,:/-]\d+)+|\w+(?:['’-]\w+)*")
_ROLE = r"(?:user|assistant|system|human)"
_ROLE_LEAK = re.compile(
    rf"\A\s*{_ROLE}\s*(?:\n|:)|\A\s*(?:user|assistant)\s*\Z|\n\s*{_ROLE}\s*(?:\n|:)"
    r"|<\|\w+\|>|<(?:start|end)_of_turn>|\[/?INST\]|###\s*Instruction",
    re.IGNORECASE,
)
# One letter five times in a row ("aaaaa"), or a piece of 2 to 24 characters four times ("akhakhakhakh").
_CHARACTER_LOOP = re.compile(r"([^\W\d_])\1{4}|(\S.{0,22}?\S)\2{3}", re.DOTALL)

LONGEST_LOOP = 12  # words; a longer repeated passage is caught by its trigrams
REPETITION_LIMIT = 0.35  # share of repeated word trigrams; TOFU's most repetitive answer has 0.25
DIVERSITY_LIMIT = 0.3  # distinct words / words, from DIVERSITY_FROM words on
DIVERSITY_FROM = 20
SYMBOL_LIMIT = 0.5  # share of letters and digits among visible characters, from SYMBOLS_FROM on
SYMBOLS_FROM = 8
LETTERED_LIMIT = 0.25  # share of words with a letter, from LETTERED_FROM words on
LETTERED_FROM = 10


def words(text: str) -> list[str]:
    """The text's words, lower-cased: runs of letters and digits with inner apostrophes and hyphens."""
    return _WORD.findall(text.lower())


def repetition(answer: str) -> float:
    """Share of word trigrams that an earlier one already said, ``1 - distinct / all``; in [0, 1), 0 for none.

    The complement of "distinct-3" (Li et al., "A Diversity-Promoting Objective Function for Neural
    Conversation Models", NAACL 2016), on :func:`words`.
    """
    text = words(answer)
    trigrams = list(zip(text, text[1:], text[2:], strict=False))
    return 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _word_loop(text: list[str]) -> bool:
    """One word four times running, or a phrase of 2 to LONGEST_LOOP words three times running."""
    for size in range(1, min(LONGEST_LOOP, len(text) // 2) + 1):
        same, wanted = 0, size * (3 if size == 1 else 2)
        for earlier, later in zip(text, text[size:], strict=False):
            same = same + 1 if earlier == later else 0
            if same >= wanted:
                return True
    return False


def _character_loop(answer: str) -> bool:
    """A loop of characters that holds a letter; "1000000" and "....." are none."""
    return any(any(c.isalpha() for c in found.group()) for found in _CHARACTER_LOOP.finditer(answer.lower()))


def gibberish_reason(answer: str) -> str | None:
    """Which rule makes the answer gibberish, in a few words, or None where it reads as an answer."""
    visible = [c for c in answer if not c.isspace()]
    # Letters, digits, and the marks that other scripts put on letters.
    readable = sum(unicodedata.category(c)[0] in "LNM" for c in visible)
    if readable == 0:
        return "empty"
    if _ROLE_LEAK.search(answer):
        return "role leak"
    if len(visible) >= SYMBOLS_FROM and readable < SYMBOL_LIMIT * len(visible):
        return "mostly symbols"
    if _character_loop(answer):
        return "character loop"
    text = words(answer)
    if _word_loop(text):
        return "word loop"
    if repetition(answer) > REPETITION_LIMIT:
        return "repeated phrases"
    if len(text) >= DIVERSITY_FROM and len(set(text)) < DIVERSITY_LIMIT * len(text):
        return "few distinct words"
    lettered = sum(any(c.isalpha() for c in word) for word in text)
    if len(text) >= LETTERED_FROM and lettered < LETTERED_LIMIT * len(text):
        return "few words with letters"
    return None


def is_gibberish(answer: str) -> bool:
    """Whether the answer is empty, a leaked role, a loop, or mostly symbols; see :func:`gibberish_reason`."""
    return gibberish_reason(answer) is not None


def gibberish_rate(answers: Iterable[str]) -> float:
    """Share of the answers that are gibberish; in [0, 1], 0 for no answers."""
    flags = [is_gibberish(answer) for answer in answers]
    return sum(flags) / len(flags) if flags else 0.0
