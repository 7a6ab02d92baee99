"""Words that hold a sentence together and tell no fact, language by language.

English has a list of its own, of closed classes alone. The others are those of the package ``stop-words``; some of
them hold numerals too, so where a number is the fact, a row's ``spans`` tell more. A language without a list has no
function words: all of its words may be facts.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

import regex

from asu_lora.data.examples import Example

ENGLISH = frozenset(
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
# which languages a script may be of, by the first word of its letters' Unicode names; any other: the Latin ones
SCRIPTS = {
    "ARABIC": ("ar", "fa"), "CYRILLIC": ("ru", "uk", "bg"), "GREEK": ("el",), "HEBREW": ("he",),
    "DEVANAGARI": ("hi",), "GUJARATI": ("gu",), "CJK": ("zh",), "HIRAGANA": ("ja",), "KATAKANA": ("ja",),
    "HANGUL": ("ko",), "THAI": ("th",), "LAO": ("lo",), "KHMER": ("km",), "MYANMAR": ("my",),
}  # fmt: skip
LATIN = tuple("de es fr it pt nl da nb sv fi pl cs sk ro hu tr id vi ca".split(" "))  # fmt: skip
SURE = 1.5  # how many times English's function words another language must find

# scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORD = regex.compile(r"[\p{L}\p{M}]+")


def unspaced(text: str) -> bool:
    """Whether the text is in a script without spaces, at least in part."""
    return bool(UNSPACED.search(text))


@cache
def function_words(language: str) -> frozenset[str]:
    """The function words of a language (ISO 639-1: ``de``), in lower case; none where there is no list."""
    if language == "en":
        return ENGLISH
    import stop_words

    try:
        listed = stop_words.get_stop_words(language)
    except stop_words.StopWordError:
        return frozenset()
    return frozenset(unicodedata.normalize("NFC", word).strip().lower() for word in listed)


def language_of(example: Example) -> str:
    """The language that a row is written in: its own field ``language`` where it has one (``de``, ``de_AT``,
    ``German``), else told by its words.

    Told by the script of most letters; among the languages of one script by the function words that question and
    answer hold. English is taken where no other finds clearly more.
    """
    if _names_one(example):
        own = example.extra["language"].strip().lower().replace("_", "-").split("-")[0]
        return _codes().get(own, own)
    return _told(_said(example))


def told_language(example: Example) -> str | None:
    """The same, and None where English is taken only because no language's function words were found."""
    language = language_of(example)
    return (
        None if language == "en" and not _names_one(example) and not _hits(_words(_said(example)), "en") else language
    )


def _names_one(example: Example) -> bool:
    """Whether the row has a field that tells its language."""
    own = example.extra.get("language")
    return isinstance(own, str) and bool(own.strip())


@cache
def _codes() -> dict[str, str]:
    """The languages' codes by their English names."""
    import stop_words

    return {name: code for code, name in stop_words.LANGUAGE_MAPPING.items()}


def _said(example: Example) -> str:
    return f"{example.question} {example.answer}"


def languages_note(examples: Iterable[Example]) -> str | None:
    """Says whose function words are in use; None where all rows are English."""
    found = Counter(language_of(example) for example in examples)
    if set(found) <= {"en"}:
        return None
    rows = ", ".join(f"{language} ({count} row{'s' * (count > 1)})" for language, count in found.most_common())
    note = f"Function words are those of {rows}."
    if without := sorted(language for language in found if not function_words(language)):
        note += (
            f" There is no list for {', '.join(without)}: every word there may be a fact; mark the facts in a column "
            "'spans'."
        )
    return note


@cache
def _told(text: str) -> str:
    scripts: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, text)).items():
        scripts[unicodedata.name(letter, "").split(" ")[0]] += count
    if scripts["HIRAGANA"] + scripts["KATAKANA"]:
        scripts["HIRAGANA"] += scripts.pop("CJK", 0)  # Japanese holds Chinese characters too
    script = scripts.most_common(1)[0][0] if scripts else "LATIN"
    if script in SCRIPTS:
        return _most(text, SCRIPTS[script])
    told = _words(text)
    best = _most(text, LATIN)
    return best if _hits(told, best) > max(1, SURE * _hits(told, "en")) else "en"


def _most(text: str, languages: tuple[str, ...]) -> str:
    """The language of most function words, the first of equal ones."""
    told = _words(text)
    return max(languages, key=lambda language: _hits(told, language))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _hits(told: list[str], language: str) -> int:
    # a letter alone is an initial or a list's mark as often as a word
    listed = function_words(language)
    return sum(word in listed and (len(word) > 1 or unspaced(word)) for word in told)
