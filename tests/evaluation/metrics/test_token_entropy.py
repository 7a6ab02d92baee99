"""Token entropy against hand-computed values and a count over sorted runs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.evaluation.metrics.token_entropy import token_entropy


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0.0),
        ([7], 0.0),
        ([7, 7, 7, 7], 0.0),
        ([1, 2, 3, 4], 1.0),
        ([1, 1, 2, 2], 0.5),  # 1 bit of log2(4) = 2
        ([1, 1, 2, 3], 0.75),  # 1.5 bits of 2
        (["a", "a", "a", "b", "c", "d", "e", "f"], (3 / 8 * np.log2(8 / 3) + 5 / 8 * 3) / 3),
    ],
)
def test_by_hand(tokens, expected):
    assert token_entropy(tokens) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=60))
def test_same_as_runs(tokens):
    runs = np.array([len(list(run)) for _, run in itertools.groupby(sorted(tokens))])
    # In nats, and as log n - mean of log counts: another route to the same entropy.
    nats = np.log(len(tokens)) - (runs * np.log(runs)).sum() / len(tokens)
    assert token_entropy(tokens) == pytest.approx(nats / np.log(len(tokens)), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=80))
def test_range_and_order(tokens):
    assert 0.0 <= token_entropy(tokens) <= 1.0
    assert token_entropy(tokens) == pytest.approx(token_entropy(tokens[::-1]))
