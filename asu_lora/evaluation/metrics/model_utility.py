"""The summaries: model utility, forget efficacy, their average, and TOFU's own model utility."""

import math
from collections.abc import Iterable, Mapping

from asu_lora.errors import DataError
from asu_lora.evaluation.score import Score

UTILITY_SETS = ("retain", "real_authors", "world_facts")
SIX_METRICS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment")
TOFU_METRICS = ("rouge", "probability", "truth_ratio")
FORGET_METRICS = ("rouge", "probability", "truth_ratio", "token_entropy", "entailment")

Values = Mapping[str, float | None]


def harmonic_mean(values: Iterable[float]) -> float:
    """``n / sum(1 / v)``; 0 if any value is 0. :class:`DataError` for no values, a negative one, or a NaN."""
    values = [float(value) for value in values]
    if not values:
        raise DataError("The harmonic mean of no values is undefined.")
    wrong = next((value for value in values if not value >= 0), None)
    if wrong is not None:
        raise DataError(f"A harmonic mean takes values of at least 0, not {wrong}.")
    smallest = min(values)
    if smallest == 0:
        return 0.0
    # Scaled by the smallest, so that 1 / 1e-308 doesn't overflow.
    return smallest * (len(values) / math.fsum(smallest / value for value in values))


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


def forget_efficacy(scores: Values) -> Score:
    """FE: harmonic mean of 1-ROUGE, 1-probability, 1-truth ratio, token entropy, 1-entailment; in [0, 1].

    ``scores``: ``{metric: value}`` of the forget set, as measured (not yet subtracted from 1), with the
    metrics of FORGET_METRICS. ASU, arXiv 2603.01285. The code of "A Closer Look" has another "forget
    efficacy", 1 - the arithmetic mean of ROUGE, probability, truth ratio, cosine similarity and
    entailment: figures of the two must not be compared. Missing values and errors as in
    :func:`model_utility`.
    """
    values = {metric: _checked(f"{metric} on forget", scores.get(metric)) for metric in FORGET_METRICS}
    there = [v if metric == "token_entropy" else 1 - v for metric, v in values.items() if v is not None]
    missing = tuple(metric for metric, value in values.items() if value is None)
    return Score(harmonic_mean(there) if there else None, len(there), len(FORGET_METRICS), missing)


def average(utility: Score, efficacy: Score) -> Score:
    """Avg: ``(MU + FE) / 2``, None where either is; partial, and so labelled, where either is partial."""
    missing = (*(f"{name} (MU)" for name in utility.missing), *(f"{name} (FE)" for name in efficacy.missing))
    unit = "metrics" if utility.unit == efficacy.unit == "metrics" else "values"
    used, of = utility.used + efficacy.used, utility.of + efficacy.of
    if utility.value is None or efficacy.value is None:
        return Score(None, 0, of, missing, unit)
    return Score((utility.value + efficacy.value) / 2, used, of, missing, unit)


def _utility(scores: Mapping[str, Values], metrics: tuple[str, ...]) -> Score:
    values = {
        (name, metric): _checked(f"{metric} on {name}", scores.get(name, {}).get(metric))
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


def _checked(name: str, value: float | None) -> float | None:
    """The value within [0, 1] (rounding forgiven), or None."""
    if value is None:
        return None
    if not -1e-9 <= value <= 1 + 1e-9:
        raise DataError(f"{name} is {value}; a score lies in [0, 1].")
    return min(max(float(value), 0.0), 1.0)
