"""Answer probability, probability among options, and truth ratio."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.probability import answer_probability, normalized_probability
from asu_lora.evaluation.metrics.truth_ratio import truth_ratio, truth_ratio_forget, truth_ratio_retain

NLL = st.lists(st.floats(0, 50), min_size=1, max_size=8)
RATIOS = st.lists(st.floats(0, allow_nan=False), min_size=1, max_size=20)


def test_probability_is_the_geometric_mean():
    # Tokens of probability 1/2, 1/4, 1/8: the cube root of 1/64.
    assert answer_probability([math.log(2), math.log(4), math.log(8)]) == pytest.approx(0.25)
    assert answer_probability(torch.tensor([[math.log(2)], [math.log(8)]])) == pytest.approx(0.25)


@pytest.mark.parametrize("nll", [[], [0.1, math.nan], torch.empty(0)])
def test_probability_refuses(nll):
    with pytest.raises(DataError):
        answer_probability(nll)


def test_probability_of_impossible_answer():
    assert answer_probability([math.inf, 1.0]) == 0.0


def test_normalized_probability_by_hand():
    # p(true) = 1/2; wrong: 1/4 and sqrt(1/2 * 1/8) = 1/4.
    wrong = [[math.log(4)], [math.log(2), math.log(8)]]
    assert normalized_probability([math.log(2)], wrong) == pytest.approx(0.5)


def test_normalized_probability_where_each_p_underflows():
    assert normalized_probability([2000.0], [[2000.0 + math.log(3)]]) == pytest.approx(0.75)
    assert normalized_probability([math.inf], [[1.0]]) == 0.0


@pytest.mark.parametrize(("true", "wrong"), [([1.0], []), ([math.inf], [[math.inf]]), ([1.0], [[]])])
def test_normalized_probability_refuses(true, wrong):
    with pytest.raises(DataError):
        normalized_probability(true, wrong)


@settings(deadline=None)
@given(NLL, st.lists(NLL, min_size=1, max_size=4))
def test_probability_ranges(true, wrong):
    assert 0.0 <= answer_probability(true) <= 1.0
    value = normalized_probability(true, wrong)
    plain = answer_probability(true)
    assert value == pytest.approx(plain / (plain + sum(answer_probability(w) for w in wrong)))


def test_truth_ratio_by_hand():
    # Wrong answers' mean losses 2 and 4 (mean 3), the truth's 1: exp(2).
    assert truth_ratio([0.5, 1.5], [[2.0], [3.0, 5.0]]) == pytest.approx(math.exp(2))
    assert truth_ratio([1.0, 1.0, 1.0], [[1.0]]) == 1.0


def test_truth_ratio_weighs_answers_not_tokens():
    # A long wrong answer counts as much as a short one: mean(1, 3), not the mean over its ten tokens.
    assert truth_ratio([0.0], [[1.0] * 9, [3.0]]) == pytest.approx(math.exp(2))


def test_truth_ratio_aggregates_by_hand():
    rs = [2.0, 0.5, 4.0]
    assert truth_ratio_forget(rs) == pytest.approx(1 - (1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert truth_ratio_retain(rs) == pytest.approx((1 / 2 + 0 + 3 / 4) / 3)


def test_truth_ratio_survives_overflow():
    huge, tiny = truth_ratio([0.0], [[5000.0]]), truth_ratio([5000.0], [[0.0]])
    assert math.isfinite(huge) and tiny > 0
    for rs in ([huge], [tiny], [math.inf], [0.0]):
        assert truth_ratio_forget(rs) == pytest.approx(1.0)
    assert truth_ratio_retain([huge]) == truth_ratio_retain([math.inf]) == 1.0
    assert truth_ratio_retain([tiny]) == truth_ratio_retain([0.0]) == 0.0


@pytest.mark.parametrize("rs", [[], [-1.0], [1.0, math.nan]])
def test_truth_ratio_refuses(rs):
    for aggregate in (truth_ratio_forget, truth_ratio_retain):
        with pytest.raises(DataError):
            aggregate(rs)


def test_truth_ratio_refuses_losses():
    for paraphrased, perturbed in ([1.0], []), ([], [[1.0]]), ([math.inf], [[math.inf]]):
        with pytest.raises(DataError):
            truth_ratio(paraphrased, perturbed)


@settings(deadline=None)
@given(st.lists(st.fractions(Fraction(1, 1000), 1000), min_size=1, max_size=20))
def test_truth_ratio_aggregates_against_exact_fractions(rs):
    forget = 1 - sum((r if r < 1 else 1 / r) for r in rs) / len(rs)
    retain = sum(((r - 1) / r if r > 1 else Fraction(0)) for r in rs) / len(rs)
    values = [float(r) for r in rs]
    assert truth_ratio_forget(values) == pytest.approx(float(forget), abs=1e-12)
    assert truth_ratio_retain(values) == pytest.approx(float(retain), abs=1e-12)


@settings(deadline=None)
@given(NLL, st.lists(NLL, min_size=1, max_size=5))
def test_truth_ratio_against_products_of_probabilities(paraphrased, perturbed):
    # The geometric mean of p(true) / p(wrong), one pair at a time.
    product = 1.0
    for wrong in perturbed:
        product *= (answer_probability(paraphrased) / answer_probability(wrong)) ** (1 / len(perturbed))
    assert truth_ratio(paraphrased, perturbed) == pytest.approx(product, rel=1e-9)


@settings(deadline=None)
@given(RATIOS)
def test_truth_ratio_ranges(rs):
    assert 0.0 <= truth_ratio_forget(rs) <= 1.0
    assert 0.0 <= truth_ratio_retain(rs) <= 1.0
