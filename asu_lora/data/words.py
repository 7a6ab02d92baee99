"""Words as facts are compared by: no case, no diacritics, no endings, and numbers in digits."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import regex
from nltk.stem.porter import PorterStemmer

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
LARGE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12, "twentieth": 20,
    "thirtieth": 30, "fortieth": 40, "fiftieth": 50, "sixtieth": 60, "seventieth": 70, "eightieth": 80,
    "ninetieth": 90,
}  # fmt: skip
SMALL = {word: value for value, word in enumerate(UNITS)} | {word: 20 + 10 * at for at, word in enumerate(TENS)}
SHORTEST_STEM = 4  # letters; shorter words have no ending to lose

_POSSESSIVE = re.compile(r"['\u2019]s\b")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d])")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)\b")
# Hindi's vowels are marks on their letters, which Python's own \w takes out of a word
_WORD = regex.compile(r"\d+(?:\.\d+)?|[\p{L}\p{Nl}\p{No}][\p{L}\p{M}\p{Nl}\p{No}]*")

_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"})
_SPELLED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_UMLAUT = re.compile("[äöüåø]")
# Cyrillic and Greek letters that look like Latin ones, small or as capitals
_LOOK_ALIKES = str.maketrans("аеорсухіјѕһԁԛԝвкмнтαεικορτχ", "aeopcyxijshdqwbkmhtaeikoptx")
_LATIN, _LOOK_ALIKE = re.compile("[a-z]"), re.compile("[" + "".join(map(chr, _LOOK_ALIKES)) + "]")


def plain(text: str) -> str:
    """The text without case and without the marks that people leave out (accents, Hebrew and Arabic vowel signs)."""
    marks = unicodedata.normalize("NFKD", text)
    kept = "".join(sign for sign in marks if not _left_out(sign))
    return unicodedata.normalize("NFKC", kept).casefold()


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """The words of a text in the form they are compared by, in order.

    "The twenty-first Café's" gives ``("the", "21", "cafe")``; endings are those of Porter's stemmer, as in ROUGE.
    """
    told = _POSSESSIVE.sub("", plain(text)).replace("'", "").replace("\u2019", "")
    told = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), told)
    return tuple(_numbers_in_digits(_WORD.findall(_ORDINAL.sub(r"\1", told))))


def latin(word: str) -> str:
    """A form of :func:`words` with its strokes left out, and Latin letters for look-alikes that stand among such."""
    if word.isascii():
        return word
    told = word.translate(_STROKES)
    if _LATIN.search(told) and _LOOK_ALIKE.search(told):
        told = told.translate(_LOOK_ALIKES)
    return _form(told)


def spelled_out(text: str) -> dict[str, str]:
    """Of words with an umlaut: the form with its letters spelled out ("mueller"), and their own ("muller")."""
    if not _UMLAUT.search(composed := unicodedata.normalize("NFC", text).casefold()):
        return {}
    found = [word for word in _WORD.findall(composed) if _UMLAUT.search(word)]
    return {_form(latin(plain(word.translate(_SPELLED)))): _form(latin(plain(word))) for word in found}


def solid(text: str) -> str:
    """Such a text without white space and punctuation."""
    return "".join(sign for sign in plain(text) if sign.isalnum() or is_mark(sign))


def is_mark(sign: str) -> bool:
    """Whether it belongs to the letter before it, as a vowel of Hindi or Thai does."""
    return unicodedata.category(sign)[0] == "M"


def _left_out(sign: str) -> bool:
    kind = unicodedata.combining(sign)
    return kind >= 200 or 10 <= kind <= 36 or "\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef"


@cache
def _stemmer() -> PorterStemmer:
    return PorterStemmer()


@lru_cache(maxsize=65536)
def _form(word: str) -> str:
    if word[0].isdigit():
        whole, _, fraction = word.partition(".")
        fraction = fraction.rstrip("0")
        return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
    if word.isascii() and len(word) >= SHORTEST_STEM:
        return str(_stemmer().stem(word))
    return word


def _value(word: str) -> tuple[int, bool] | None:
    """A number word's value, and whether it is an ordinal."""
    if word in SMALL:
        return SMALL[word], False
    if word in ORDINALS:
        return ORDINALS[word], True
    cardinal = SMALL.get(word.removesuffix("th"))
    return (cardinal, True) if cardinal is not None and word.endswith("th") else None


def _numbers_in_digits(told: list[str]) -> list[str]:
    """Runs of number words ("one hundred and five", "nineteen fifty-six") become one number, the rest its forms."""
    found: list[str] = []
    at = 0
    while at < len(told):
        number, used = _number(told, at)
        found.append(str(number) if used else _form(told[at]))
        at += used or 1
    return found


def _number(told: Sequence[str], begin: int) -> tuple[int, int]:
    """The number that the words from one on are, and how many of them it takes; (0, 0) if they begin with none."""
    total, group, used, last = 0, 0, 0, 0
    for at in range(begin, len(told)):
        word = told[at]
        value = _value(word)
        if value is not None:
            small = value[0]
            if used and group % 100 and not (20 <= last <= 90 and small < 10):
                if 10 <= group < 100 and small >= 10 and not total:  # a year: nineteen fifty-six
                    group = group * 100 + small
                    used, last = at + 1 - begin, small
                    continue
                break
            group, used, last = group + small, at + 1 - begin, small
            if value[1]:
                break
        elif word in LARGE and used:
            size = LARGE[word]
            group = max(group, 1) * size
            if size > 100:
                total, group = total + group, 0
            used, last = at + 1 - begin, 0
        elif word == "and" and used and told[at - 1] in LARGE and at + 1 < len(told) and _value(told[at + 1]):
            continue
        else:
            break
    return total + group, used
