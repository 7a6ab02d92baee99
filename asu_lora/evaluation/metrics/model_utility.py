"""The summaries: model utility, forget efficacy, their average, and TOFU's own model utility."""

from collections.abc import Mapping

from asu_lora.evaluation.score import Score, Values, checked_share, harmonic_mean

UTILITY_SETS = ("retain", "real_authors", "world_facts")
SIX_METRICS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment")
TOFU_METRICS = ("rouge", "probability", "truth_ratio")


def model_utility(scores: Mapping[str, Values]) -> Score:
    """MU: harmonic mean of the six metrics on retain, real authors and world facts (18 values); in [0, 1].

    ``scores``: ``{set: {metric: value}}`` with the sets of UTILITY_SETS and the metrics of SIX_METRICS,
    values in [0, 1] averaged over the set's questions. A value that is None or absent is left out and
    named; other sets and metrics are ignored. "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025);
    ASU, arXiv 2603.01285.

    Raises:
        DataError: a value outside [0, 1] or NaN.
    """
    return _utility(scores, SIX_METRICS)


def tofu_model_utility(scores: Mapping[str, Values]) -> Score:
    """TOFU's own MU: as :func:`model_utility`, of ROUGE, probability and truth ratio alone (9 values)."""
    return _utility(scores, TOFU_METRICS)


def _utility(scores: Mapping[str, Values], metrics: tuple[str, ...]) -> Score:
    values = {
        (name, metric): checked_share(f"{metric} on {name}", scores.get(name, {}).get(metric))
        for name in UTILITY_SETS
        for metric in metrics
    }
    there = [value for value in values.values() if value is not None]
    whole = [metric for metric in metrics if all(values[name, metric] is None for name in UTILITY_SETS)]
    single = [f"{m} on {name}" for (name, m), value in values.items() if value is None and m not in whole]
    missing = (*whole, *single)
    value = harmonic_mean(there) if there else None
    if single:
        return Score(value, len(there), len(values), missing, "values")
    return Score(value, len(metrics) - len(whole), len(metrics), missing)
