"""Avg: the mean of model utility and forget efficacy, the headline of the paper's tables."""

from asu_lora.evaluation.score import Score


def average(utility: Score, efficacy: Score) -> Score:
    """Avg: ``(MU + FE) / 2``, None where either is; partial, and so labelled, where either is partial."""
    missing = (*(f"{name} (MU)" for name in utility.missing), *(f"{name} (FE)" for name in efficacy.missing))
    unit = "metrics" if utility.unit == efficacy.unit == "metrics" else "values"
    used, of = utility.used + efficacy.used, utility.of + efficacy.of
    if utility.value is None or efficacy.value is None:
        return Score(None, 0, of, missing, unit)
    return Score((utility.value + efficacy.value) / 2, used, of, missing, unit)
