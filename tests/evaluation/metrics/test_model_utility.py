"""The summaries and their labels."""

import dataclasses
import importlib
import math
import pkgutil
import statistics
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.errors import DataError
from asu_lora.evaluation import metrics
from asu_lora.evaluation.metrics.average import average
from asu_lora.evaluation.metrics.forget_efficacy import FORGET_METRICS, forget_efficacy
from asu_lora.evaluation.metrics.model_utility import SIX_METRICS, UTILITY_SETS, model_utility, tofu_model_utility
from asu_lora.evaluation.score import Score, harmonic_mean

UNIT = st.floats(0, 1, allow_subnormal=False)
FULL = {
    name: {metric: (1 + row * 6 + column) / 20 for column, metric in enumerate(SIX_METRICS)}
    for row, name in enumerate(UTILITY_SETS)
}  # 1/20 to 18/20
FORGET = dict(zip(FORGET_METRICS, (0.2, 0.1, 0.4, 0.9, 0.0), strict=True))


def without(scores, *metrics, sets=UTILITY_SETS):
    return {
        name: {m: (None if name in sets and m in metrics else v) for m, v in values.items()}
        for name, values in scores.items()
    }


def test_harmonic_mean_by_hand():
    assert harmonic_mean([1, 4, 4]) == pytest.approx(2)
    assert harmonic_mean([0.3]) == pytest.approx(0.3)
    assert harmonic_mean([0.5, 0.0, 1.0]) == 0.0


@settings(deadline=None)
@given(st.lists(st.fractions(Fraction(1, 10**6), 1), min_size=1, max_size=20))
def test_harmonic_mean_against_exact_fractions(values):
    exact = len(values) / sum(1 / value for value in values)
    assert harmonic_mean(map(float, values)) == pytest.approx(float(exact), rel=1e-12)


@settings(deadline=None)
@given(st.lists(UNIT, min_size=1, max_size=20))
def test_harmonic_mean_against_the_standard_library(values):
    mean = harmonic_mean(values)
    assert mean == pytest.approx(statistics.harmonic_mean(values), rel=1e-9, abs=1e-300)
    assert min(values) * (1 - 1e-12) <= mean <= statistics.fmean(values) * (1 + 1e-12) + 1e-300


@pytest.mark.parametrize("values", [[], [0.5, -0.1], [0.0, math.nan]])
def test_harmonic_mean_refuses(values):
    with pytest.raises(DataError):
        harmonic_mean(values)


def test_full_model_utility():
    score = model_utility(FULL)
    assert score.value == pytest.approx(float(18 / sum(Fraction(20, i) for i in range(1, 19))))
    assert (score.used, score.of, score.missing, score.complete) == (6, 6, (), True)
    assert score.label("MU") == "MU"


def test_tofu_model_utility_takes_its_own_nine():
    score = tofu_model_utility(FULL)
    taken = [1, 2, 3, 7, 8, 9, 13, 14, 15]
    assert score.value == pytest.approx(float(9 / sum(Fraction(20, i) for i in taken)))
    assert score.label("TOFU MU") == "TOFU MU"
    lacking = tofu_model_utility(without(FULL, "truth_ratio"))
    assert lacking.label("TOFU MU") == "TOFU MU (2 of 3 metrics)"


@pytest.mark.parametrize("empty", [without(FULL, "entailment"), {
    name: {m: v for m, v in values.items() if m != "entailment"} for name, values in FULL.items()
}])  # fmt: skip
def test_a_metric_missing_everywhere(empty):
    score = model_utility(empty)
    assert score.label("MU") == "MU (5 of 6 metrics)"
    assert score.missing == ("entailment",) and not score.complete
    assert score.value == pytest.approx(float(15 / sum(Fraction(20, i) for i in range(1, 19) if i % 6)))


def test_a_metric_missing_in_one_set():
    score = model_utility(without(FULL, "truth_ratio", sets=("retain",)))
    assert score.label("MU") == "MU (17 of 18 values)"
    assert score.missing == ("truth_ratio on retain",)
    assert score.value == pytest.approx(float(17 / sum(Fraction(20, i) for i in range(1, 19) if i != 3)))


def test_only_one_set():
    score = model_utility({"retain": FULL["retain"]})
    assert score.label("MU") == "MU (6 of 18 values)"
    assert "rouge on world_facts" in score.missing and len(score.missing) == 12


def test_nothing_there():
    assert model_utility({}) == Score(None, 0, 6, SIX_METRICS)
    assert forget_efficacy({}).label("FE") == "FE (0 of 5 metrics)"


def test_zero_on_one_value_is_zero():
    zero = {**FULL, "retain": {**FULL["retain"], "rouge": 0.0}}
    assert model_utility(zero).value == 0.0


def test_forget_efficacy_by_hand():
    # 1-0.2, 1-0.1, 1-0.4, 0.9 (entropy as it is), 1-0.
    expected = 5 / (1 / 0.8 + 1 / 0.9 + 1 / 0.6 + 1 / 0.9 + 1)
    score = forget_efficacy({**FORGET, "cosine_similarity": 0.7, "gibberish_rate": 0.3})
    assert score.value == pytest.approx(expected)
    assert score.label("FE") == "FE"


def test_forget_efficacy_without_entailment():
    score = forget_efficacy({**FORGET, "entailment": None})
    assert score.value == pytest.approx(4 / (1 / 0.8 + 1 / 0.9 + 1 / 0.6 + 1 / 0.9))
    assert score.label("FE") == "FE (4 of 5 metrics)" and score.missing == ("entailment",)


def test_untouched_model_forgets_nothing():
    assert forget_efficacy({**FORGET, "probability": 1.0}).value == 0.0


@settings(deadline=None)
@given(st.fixed_dictionaries({metric: UNIT for metric in FORGET_METRICS}))
def test_forget_efficacy_range(scores):
    score = forget_efficacy(scores)
    parts = [v if metric == "token_entropy" else 1 - v for metric, v in scores.items()]
    assert min(parts) * (1 - 1e-12) <= score.value <= max(parts) * (1 + 1e-12)


def test_average():
    full = average(model_utility(FULL), forget_efficacy(FORGET))
    assert full.value == pytest.approx((model_utility(FULL).value + forget_efficacy(FORGET).value) / 2)
    assert full.label("Avg") == "Avg"

    efficacy = forget_efficacy({**FORGET, "entailment": None})
    partial = average(model_utility(without(FULL, "entailment")), efficacy)
    assert partial.label("Avg") == "Avg (9 of 11 metrics)"
    assert partial.missing == ("entailment (MU)", "entailment (FE)")

    uneven = average(model_utility(without(FULL, "rouge", sets=("retain",))), forget_efficacy(FORGET))
    assert uneven.label("Avg") == "Avg (22 of 23 values)"

    lacking = average(model_utility({}), forget_efficacy(FORGET))
    assert lacking.value is None and not lacking.complete


@pytest.mark.parametrize("value", [1.2, -0.1, math.nan])
def test_refuses_values_outside_the_range(value):
    with pytest.raises(DataError, match="rouge on retain"):
        model_utility({**FULL, "retain": {**FULL["retain"], "rouge": value}})
    with pytest.raises(DataError, match="rouge on forget"):
        forget_efficacy({**FORGET, "rouge": value})


@pytest.mark.parametrize(
    "fields", [(0.5, 5, 6, ()), (0.5, 6, 6, ("rouge",)), (None, 6, 6, ()), (0.5, 7, 6, ()), (0.5, 0, 6, ("all",))]
)
def test_a_partial_score_cannot_pass_for_a_full_one(fields):
    with pytest.raises(DataError):
        Score(*fields)


def test_a_score_cannot_be_relabelled():
    with pytest.raises(dataclasses.FrozenInstanceError):
        model_utility(without(FULL, "rouge")).missing = ()


def test_the_registry_lists_every_metric_file():
    files = {module.name for module in pkgutil.iter_modules(metrics.__path__)}
    listed = {metric.path.split(".")[0] for metric in metrics.METRICS}
    assert files - listed == {"average"}  # of two scores, not of a set
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS)
    for metric in metrics.METRICS:
        module, function = metric.path.split(".")
        assert metric.function is getattr(importlib.import_module(f"{metrics.__name__}.{module}"), function)
        assert len(metric.function.__doc__) > 60
