"""ROUGE-L recall: how much of the truth the model still says, in the truth's order."""

from functools import lru_cache

from rouge_score.rouge_scorer import RougeScorer


@lru_cache(maxsize=1)
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l_recall(prediction: str, reference: str) -> float:
    """``len(LCS(prediction, reference)) / len(reference)``, counted in stemmed words; in [0, 1].

    A word is a run of ``[a-z0-9]`` after lower-casing, Porter-stemmed when longer than three letters
    (Google's rouge-score). So a text in another script has no words at all, and the score is 0 wherever
    either side has none. "ROUGE" of "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025) and of TOFU.
    """
    return float(_scorer().score(reference, prediction)["rougeL"].recall)
