"""Forget efficacy (FE): how little of the forget set is left, over the metrics that fall."""

from asu_lora.evaluation.score import Score, Values, checked_share, harmonic_mean

FORGET_METRICS = ("rouge", "probability", "truth_ratio", "token_entropy", "entailment")


def forget_efficacy(scores: Values) -> Score:
    """FE: harmonic mean of 1-ROUGE, 1-probability, 1-truth ratio, token entropy, 1-entailment; in [0, 1].

    ``scores``: ``{metric: value}`` of the forget set, as measured (not yet subtracted from 1), with the
    metrics of FORGET_METRICS. ASU, arXiv 2603.01285. The code of "A Closer Look" has another "forget
    efficacy", 1 - the arithmetic mean of ROUGE, probability, truth ratio, cosine similarity and
    entailment: figures of the two must not be compared. Missing values and errors as in
    :func:`model_utility`.
    """
    values = {metric: checked_share(f"{metric} on forget", scores.get(metric)) for metric in FORGET_METRICS}
    there = [v if metric == "token_entropy" else 1 - v for metric, v in values.items() if v is not None]
    missing = tuple(metric for metric, value in values.items() if value is None)
    return Score(harmonic_mean(there) if there else None, len(there), len(FORGET_METRICS), missing)
