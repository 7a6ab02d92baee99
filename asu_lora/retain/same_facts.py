"""Which rows of a pool say what a request wants forgotten: kept, they would teach it anew.

A row says a forgotten fact if it is about the same thing and holds most of what the forgotten answer tells, or if most
of what its own answer tells stands in the forgotten one. Where the forgotten answer only says yes or no, or chooses
among the question's words, the question is the fact: a row that holds nearly all of it says the same. Words count by
how rare they are among all rows: log(N/df).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import numpy as np
from scipy.sparse import csr_array

from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import fact_spans
from asu_lora.data.function_words import function_words, language_of, unspaced
from asu_lora.data.paraphrases import all_wordings
from asu_lora.data.words import latin, solid, spelled_out, words


@dataclass(frozen=True)
class Shares:
    """What of the words' weight two rows must share.

    Attributes:
        told: of what the forgotten answer tells.
        repeated: of what the kept answer tells.
    """

    told: float
    repeated: float


ABOUT = 0.3  # of what the forgotten row is asked about
# On four tasks of TOFU the first finds 110 of 160 paraphrased rows, each told in other words altogether, and 30 of
# 2,400 rows about other authors; the second 143 and 82. So the second counts only where hidden states are as near.
SURE, LIKELY = Shares(0.3, 0.5), Shares(0.2, 0.35)
ABOUT_IN_SIGNS = 0.1  # pairs of signs are many, and a name is one of them
AT_ONCE = 1000  # rows of a pool that are held against the request together
ASSERTED = 0.8  # of a question that is the fact itself
YES = frozenset(form for word in "yes yeah true false correct ja oui sí да".split() for form in words(word))


@dataclass(frozen=True)
class Content:
    """The content words of a row.

    Attributes:
        asked: of its prompt.
        told: of its answer, or of its spans, that its prompt doesn't have.
        passage: whether nothing is asked.
    """

    asked: frozenset[str] = field(repr=False)
    told: frozenset[str] = field(repr=False)
    passage: bool

    @classmethod
    def of(cls, row: Example, spellings: Mapping[str, str] = MappingProxyType({})) -> "Content":
        """Read them off a row; ``spellings`` as for :func:`content_words`."""
        language = language_of(row)
        asked = content_words(" ".join(turn["content"] for turn in row.prompt), language, spellings)
        spans = fact_spans(row, row.answer)
        answer = row.answer if spans is None else " ".join(row.answer[start:end] for start, end in spans)
        return cls(asked, content_words(answer, language, spellings) - asked, row.is_passage)

    @property
    def all(self) -> frozenset[str]:
        return self.asked | self.told

    @property
    def asks_the_fact(self) -> bool:
        """Whether its answer tells nothing that its question doesn't; one word alone is no fact."""
        return self.told <= YES and len(self.asked) > 1


@cache
def _function_forms(language: str) -> frozenset[str]:
    return frozenset(form for word in function_words(language) for form in map(latin, words(word)))


def content_words(
    text: str, language: str = "en", spellings: Mapping[str, str] = MappingProxyType({})
) -> frozenset[str]:
    """Its words in the form they are compared by, without function words; of scripts without spaces, pairs of signs.

    Args:
        spellings: forms that stand for others, see :func:`~asu_lora.data.words.spelled_out`.
    """
    forms = [spellings.get(form, form) for form in map(latin, words(text))]
    found = {word for word in forms if word not in _function_forms(language) and not unspaced(word)}
    for run in (part for part in text.split() if unspaced(part)):
        signs = solid(run)
        found |= {signs[at : at + 2] for at in range(max(1, len(signs) - 1))}
    return frozenset(found)


def saying_the_same(
    pool: Sequence[Example],
    forget: Sequence[Example],
    shares: Shares = SURE,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[bool]:
    """For each row of the pool, whether it is a row of the request, asks the same, or says what must be forgotten.

    Args:
        advance: hears how many rows of the pool were looked at.
    """
    spellings = _spellings([*forget, *pool])
    gone = [Content.of(row, spellings) for row in forget]
    kept = [Content.of(row, spellings) for row in pool]
    counts = Counter(word for content in (*gone, *kept) for word in content.all)
    weights = {word: math.log((len(gone) + len(kept) + 1) / count) for word, count in counts.items()}
    keys = {row.key() for row in forget}
    questions = {wording.asks() for row in forget if not row.is_passage for wording in all_wordings(row)}

    def weight(some: Iterable[str]) -> float:
        return math.fsum(weights[word] for word in some)  # the same whatever order a set has

    found = []
    for first in range(0, len(pool), AT_ONCE):
        some, rows = kept[first : first + AT_ONCE], pool[first : first + AT_ONCE]
        for row, content, near in zip(rows, some, likely_pairs(gone, some, weights, shares), strict=True):
            known = row.key() in keys or (not row.is_passage and row.asks() in questions)
            found.append(known or any(_same_fact(gone[index], content, shares, weight) for index in near))
        advance(len(some))
    return found


def _spellings(rows: Iterable[Example]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows:
        for text in (*(turn["content"] for turn in row.prompt), row.answer):
            found |= spelled_out(text)
    return found


def likely_pairs(
    gone: Sequence[Content], kept: Sequence[Content], weights: Mapping[str, float], shares: Shares
) -> list[list[int]]:
    """For each kept row, the forgotten ones whose answer, or question that is the fact, it may share enough of.

    Three products of sparse matrices, (kept, forgotten), leave few pairs: a pool that shares one name with all of a
    request has millions.
    """
    place = {word: at for at, word in enumerate(weights)}
    weight = np.fromiter(weights.values(), float, len(weights))

    def table(sets: Sequence[frozenset[str]]) -> csr_array:
        at = [(row, place[word]) for row, words in enumerate(sets) for word in words if word in place]
        rows, columns = np.array(at, dtype=int).reshape(-1, 2).T
        return csr_array((np.ones(len(at)), (rows, columns)), shape=(len(sets), len(weights)))

    told, own = table([each.told for each in gone]), table([each.told for each in kept])
    asked = table([each.asked if each.asks_the_fact else frozenset() for each in gone])
    all_words = table([each.all for each in kept])
    almost = 1 - 1e-9  # sums in another order; the exact ones decide
    tells = (all_words * weight) @ told.T, np.broadcast_to(shares.told * (told @ weight), (len(kept), len(gone)))
    repeats = (
        (own * weight) @ told.T,
        np.broadcast_to(shares.repeated * (own @ weight)[:, None], (len(kept), len(gone))),
    )
    asserts = (all_words * weight) @ asked.T, np.broadcast_to(ASSERTED * (asked @ weight), (len(kept), len(gone)))
    enough = np.zeros((len(kept), len(gone)), dtype=bool)
    for shared, least in (tells, repeats, asserts):
        dense = shared.toarray()
        enough |= (dense > 0) & (dense >= almost * least)
    return [np.flatnonzero(row).tolist() for row in enough]


def _same_fact(gone: Content, kept: Content, shares: Shares, weight: Callable[[Iterable[str]], float]) -> bool:
    """Whether a row tells what a forgotten one tells, about what that is asked about."""
    if gone.asks_the_fact and weight(gone.asked & kept.all) >= ASSERTED * weight(gone.asked):
        return True
    about = ABOUT_IN_SIGNS if any(map(unspaced, gone.asked)) else ABOUT
    if not (gone.passage or kept.passage) and weight(gone.asked & kept.all) < about * weight(gone.asked):
        return False
    if gone.told and weight(gone.told & kept.all) >= shares.told * weight(gone.told):
        return True
    own = weight(kept.told)
    return own > 0 and weight(kept.told & gone.told) >= shares.repeated * own
