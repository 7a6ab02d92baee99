"""ROUGE-L: how much of the truth the model still says, in the truth's order."""

from functools import lru_cache

import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from asu_lora.data.function_words import unspaced
from asu_lora.data.words import plain

_LETTER, _OTHER = regex.compile(r"\p{L}"), regex.compile(r"(?V1)[\p{L}--\p{Latin}]")
_GOOGLES = regex.compile(r"[a-z0-9]")
_WORD, _SIGN = regex.compile(r"[\p{L}\p{N}][\p{L}\p{M}\p{N}]*"), regex.compile(r"\X")


class AnyScript(Tokenizer):
    """Words of letters and digits of any script, without case and accents; single signs where no spaces are written."""

    def tokenize(self, text: str) -> list[str]:
        words = _WORD.findall(plain(text))
        return [part for word in words for part in (_SIGN.findall(word) if unspaced(word) else [word])]


@lru_cache(maxsize=2)
def _scorer(stemmed: bool) -> RougeScorer:
    # its own default, given: else it says so through absl, which puts a handler on the caller's root logger
    return RougeScorer(["rougeL"], tokenizer=DefaultTokenizer(stemmed))


@lru_cache(maxsize=1)
def _any_script() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=AnyScript())


def rouge_l_recall(prediction: str, reference: str) -> float:
    """``len(LCS(prediction, reference)) / len(reference)``, counted in stemmed words; in [0, 1].

    A word is a run of ``[a-z0-9]`` after lower-casing, Porter-stemmed when longer than three letters
    (Google's rouge-score); the score is 0 wherever either side has none. "ROUGE" of "A Closer Look at Machine
    Unlearning for LLMs" (ICLR 2025) and of TOFU. A reference most of whose letters are not Latin, or that has none of
    these signs (a year in Arabic numerals), would have no words: there they are those of :class:`AnyScript`.
    """
    foreign = 2 * len(_OTHER.findall(reference)) > len(_LETTER.findall(reference))
    foreign = foreign or not _GOOGLES.search(reference.lower())
    return float((_any_script() if foreign else _scorer(True)).score(reference, prediction)["rougeL"].recall)


def rouge_l_f1(prediction: str, reference: str) -> float:
    """``2 P R / (P + R)`` of the longest common subsequence's precision and recall, in words as they stand; in [0, 1].

    Words as in :func:`rouge_l_recall`, not stemmed. Verbatim and knowledge memorization of MUSE (arXiv 2407.06460).
    """
    return float(_scorer(False).score(reference, prediction)["rougeL"].fmeasure)
