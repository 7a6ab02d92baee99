"""The exact two-sample KS test against every ordering, and against fixed figures."""

import itertools
import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.forget_quality import forget_quality, ks_two_sample

SAMPLES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=5)


def statistic(first, second) -> float:
    def share(sample, x):
        return sum(value <= x for value in sample) / len(sample)

    return max(abs(share(first, x) - share(second, x)) for x in [*first, *second])


def by_every_ordering(first, second) -> float:
    n, m = len(first), len(second)
    observed, extreme = statistic(first, second), 0
    for places in itertools.combinations(range(n + m), n):
        rest = [place for place in range(n + m) if place not in places]
        extreme += statistic(places, rest) >= observed - 1e-9
    return extreme / math.comb(n + m, n)


def test_by_hand():
    # Three below three: of the 20 orderings only the two fully separated ones have D = 1.
    assert ks_two_sample([1, 2, 3], [4, 5, 6]) == pytest.approx((1.0, 2 / 20))
    assert ks_two_sample([1, 2], [1, 2]) == pytest.approx((0.0, 1.0))
    assert forget_quality([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)


@settings(deadline=None, max_examples=60)
@given(SAMPLES, SAMPLES)
def test_by_every_ordering(first, second):
    d, p = ks_two_sample(first, second)
    assert d == pytest.approx(statistic(first, second))
    assert p == pytest.approx(by_every_ordering(first, second))
    assert (d, p) == pytest.approx(ks_two_sample(second, first))


def draws(seed: int, n: int, shift: float) -> list[float]:
    draw = random.Random(seed)
    return [round(draw.gauss(shift, 1), 1) for _ in range(n)]  # rounded: ties


# scipy 1.17.1: scipy.stats.ks_2samp(draws(1, n, 0), draws(2, m, shift), method="exact")
SCIPY = [
    (7, 5, 0.5, 0.5142857142857142, 0.3282828282828283),
    (40, 40, 0.0, 0.35, 0.01430154804770646),
    (40, 40, 1.5, 0.55, 6.608193292756245e-06),
    (40, 30, 0.7, 0.225, 0.3104742295811527),
    (300, 300, 0.1, 0.04, 0.9704671760269938),
    (400, 120, 2.0, 0.6641666666666667, 1.7257279984290528e-39),
]


@pytest.mark.parametrize(("n", "m", "shift", "d", "p"), SCIPY)
def test_figures_of_scipy(n, m, shift, d, p):
    assert ks_two_sample(draws(1, n, 0), draws(2, m, shift)) == pytest.approx((d, p), rel=1e-9)


def test_tiny_p_values_keep_their_digits():
    # Fully separated samples: 2 orderings of C(400, 200).
    p = forget_quality(list(range(200)), list(range(200, 400)))
    assert p == pytest.approx(2 / math.comb(400, 200), rel=1e-9)
    assert 0 < p < 1e-100


def test_ratio_or_its_inverse_is_the_same():
    first, second = [0.2, 0.9, 3.0, 8.0], [1.1, 2.0, 5.0]
    inverse = forget_quality([1 / r for r in first], [1 / r for r in second])
    assert forget_quality(first, second) == pytest.approx(inverse)


def test_size_of_a_real_split_is_quick():
    started = time.perf_counter()
    forget_quality(draws(5, 2000, 0), draws(6, 2000, 0.1))
    assert time.perf_counter() - started < 5


def test_refuses():
    for first, second in (([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0], [math.nan, 1.0])):
        with pytest.raises(DataError):
            ks_two_sample(first, second)


def test_draws_of_one_distance_have_scipy_s_figures():
    """What is kept of one pair of samples is given for another only where both figures are the same."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        first, second = (rng.integers(0, rng.integers(2, 30), rng.integers(1, 25)).tolist() for _ in range(2))
        found = ks_2samp(first, second)
        assert ks_two_sample(first, second) == (found.statistic, found.pvalue)
        assert ks_two_sample(second, first)[1] == ks_2samp(second, first).pvalue
