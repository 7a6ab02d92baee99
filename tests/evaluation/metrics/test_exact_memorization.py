"""Extraction strength, exact memorization, Min-K%, AUC and privacy leakage."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.errors import DataError, SettingError
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.exact_memorization import exact_memorization
from asu_lora.evaluation.metrics.extraction_strength import extraction_strength
from asu_lora.evaluation.metrics.min_k import min_k
from asu_lora.evaluation.metrics.privacy_leakage import privacy_leakage

PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12)
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=15)


@pytest.mark.parametrize(
    ("predicted", "labels", "strength", "memorized"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0, 1.0),
        ([9, 2, 3, 4], [1, 2, 3, 4], 0.75, 0.75),  # one token given, the rest follows
        ([1, 2, 9, 4], [1, 2, 3, 4], 0.25, 0.75),
        ([1, 2, 3, 9], [1, 2, 3, 4], 0.0, 0.75),  # even the last token doesn't come
        ([9, 9, 9, 9], [1, 2, 3, 4], 0.0, 0.0),
        ([8, 8, 9, 2, 3, 4], [-100, -100, 1, 2, 3, 4], 0.75, 0.75),  # the prompt doesn't count
    ],
)
def test_memorization_by_hand(predicted, labels, strength, memorized):
    for convert in (list, torch.tensor):
        assert extraction_strength(convert(predicted), convert(labels)) == pytest.approx(strength)
        assert exact_memorization(convert(predicted), convert(labels)) == pytest.approx(memorized)


@pytest.mark.parametrize(("predicted", "labels"), [([1], [1, 2]), ([], []), ([3, 3], [-100, -100])])
def test_memorization_refuses(predicted, labels):
    for metric in (extraction_strength, exact_memorization):
        with pytest.raises(DataError):
            metric(predicted, labels)


@settings(deadline=None)
@given(PAIRS)
def test_extraction_strength_by_its_definition(pairs):
    predicted, labels = [p for p, _ in pairs], [y for _, y in pairs]
    shortest = next(k for k in range(len(pairs) + 1) if predicted[k:] == labels[k:])
    assert extraction_strength(predicted, labels) == pytest.approx(1 - shortest / len(pairs))
    assert extraction_strength(predicted, labels) <= exact_memorization(predicted, labels) <= 1.0


def test_min_k_by_hand():
    log_probs = [-0.1, -5.0, -0.2, -3.0, -0.3]
    assert min_k(log_probs, 0.4) == pytest.approx(-4.0)
    assert min_k(torch.tensor(log_probs)) == pytest.approx(-4.0)
    assert min_k(log_probs, 0.1) == pytest.approx(-5.0)  # at least one token
    assert min_k(log_probs, 1.0) == pytest.approx(-8.6 / 5)


def test_min_k_counts_whole_tokens():
    # 0.29 * 100 is 28.999... in floating point; 29 tokens are meant.
    assert min_k([-float(i) for i in range(1, 101)], 0.29) == pytest.approx(-sum(range(72, 101)) / 29)


def test_min_k_refuses():
    for k in (0.0, 1.1, -0.2, math.nan):
        with pytest.raises(SettingError):
            min_k([-1.0], k)
    for log_probs in ([], [math.nan]):
        with pytest.raises(DataError):
            min_k(log_probs)


def test_auc_by_hand():
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [3, 4]) == 0.0
    assert auc([1, 1], [1, 1, 1]) == 0.5
    assert auc([2, 0], [1, 2]) == pytest.approx((1 + 0.5) / 4)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_auc_by_counting_pairs(member, nonmember):
    won = sum((m > n) + (m == n) / 2 for m in member for n in nonmember)
    assert auc(member, nonmember) == pytest.approx(won / (len(member) * len(nonmember)))
    assert auc(member, nonmember) == pytest.approx(1 - auc(nonmember, member))


def test_auc_of_shifted_normals():
    # Two unit normals a distance of 1 apart: Phi(1 / sqrt 2) = 0.7602.
    draw = random.Random(0)
    member = [draw.gauss(1, 1) for _ in range(20000)]
    assert auc(member, [draw.gauss(0, 1) for _ in range(20000)]) == pytest.approx(0.7602, abs=0.01)


def test_auc_refuses():
    for member, nonmember in (([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.nan])):
        with pytest.raises(DataError):
            auc(member, nonmember)


def test_privacy_leakage_by_hand():
    assert privacy_leakage(0.5, 0.5) == 0.0
    assert privacy_leakage(1.0, 0.5) == pytest.approx(-100)  # still fully known
    assert privacy_leakage(0.0, 0.5) == pytest.approx(100)  # suspiciously unlikely
    # AUCs as MUSE counts them, with the forget set as non-members: 0.61 against 0.47.
    assert privacy_leakage(1 - 0.61, 1 - 0.47) == pytest.approx((0.61 - 0.47) / 0.47 * 100)


@pytest.mark.parametrize(("unlearned", "retrained"), [(0.5, 1.0), (1.2, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_privacy_leakage_refuses(unlearned, retrained):
    with pytest.raises(DataError):
        privacy_leakage(unlearned, retrained)
