"""ROUGE-L: how much of the truth the model still says, in the truth's order."""

from functools import lru_cache

from rouge_score.rouge_scorer import RougeScorer


@lru_cache(maxsize=2)
def _scorer(stemmed: bool) -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=stemmed)


def rouge_l_recall(prediction: str, reference: str) -> float:
    """``len(LCS(prediction, reference)) / len(reference)``, counted in stemmed words; in [0, 1].

    A word is a run of ``[a-z0-9]`` after lower-casing, Porter-stemmed when longer than three letters
    (Google's rouge-score). So a text in another script has no words at all, and the score is 0 wherever
    either side has none. "ROUGE" of "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025) and of TOFU.
    """
    return float(_scorer(True).score(reference, prediction)["rougeL"].recall)


def rouge_l_f1(prediction: str, reference: str) -> float:
    """``2 P R / (P + R)`` of the longest common subsequence's precision and recall, in words as they stand; in [0, 1].

    Words as in :func:`rouge_l_recall`, not stemmed. Verbatim and knowledge memorization of MUSE (arXiv 2407.06460).
    """
    return float(_scorer(False).score(reference, prediction)["rougeL"].fmeasure)
