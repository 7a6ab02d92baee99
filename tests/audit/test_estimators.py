"""leak@k and its bounds, against computations of another kind."""

from itertools import combinations
from math import comb

import pytest
from scipy.stats import beta, binom

from asu_lora.audit.estimators import at_least_once, clopper_pearson, enough_samples, leak_at_k
from asu_lora.audit.readings import rate, recovered
from asu_lora.audit.results import Rate
from asu_lora.errors import SettingError


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_leak_at_k_is_the_mean_over_all_subsets(n):
    for leaks in range(n + 1):
        answers = [True] * leaks + [False] * (n - leaks)
        for k in range(1, n + 1):
            subsets = list(combinations(answers, k))
            assert leak_at_k(n, leaks, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_leak_at_k_is_unbiased():
    n, k, p = 16, 4, 0.07
    expected = sum(binom.pmf(c, n, p) * leak_at_k(n, c, k) for c in range(n + 1))
    assert expected == pytest.approx(at_least_once(p, k))
    plugged_in = sum(binom.pmf(c, n, p) * at_least_once(c / n, k) for c in range(n + 1))
    assert abs(plugged_in - at_least_once(p, k)) > 0.01  # what the estimator is there to avoid


def test_leak_at_k_holds_for_many_samples():
    assert leak_at_k(10_000, 3, 64) == pytest.approx(1 - comb(9_997, 64) / comb(10_000, 64))
    assert leak_at_k(64, 1, 64) == 1 and leak_at_k(64, 0, 64) == 0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(SettingError):
        leak_at_k(n, c, k)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 20), (3, 20), (20, 20), (1, 640)])
def test_clopper_pearson_is_the_beta_quantiles(hits, trials):
    low, high = clopper_pearson(hits, trials)
    assert low == pytest.approx(beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0, abs=1e-9)


def test_clopper_pearson_covers_as_often_as_it_says():
    trials, p = 25, 0.08
    covered = sum(
        binom.pmf(hits, trials, p)
        for hits in range(trials + 1)
        if clopper_pearson(hits, trials)[0] <= p <= clopper_pearson(hits, trials)[1]
    )
    assert covered >= 0.95


def test_enough_samples_are_just_enough():
    n = enough_samples(limit=0.1, k=64)
    for samples, enough in ((n, True), (n - 1, False)):
        upper = beta.ppf(0.95, 1, samples)  # none of them leaked, one-sided
        assert bool(at_least_once(upper, 64) <= 0.1) is enough


def test_rates_of_rows_that_are_all_alike_are_not_certain():
    found = rate({row: 0.0 for row in range(20)})
    assert found is not None and found.value == found.low == 0 and found.high == pytest.approx(0.168, abs=1e-3)
    assert rate({0: None}) is None
    mixed = rate({0: 0.25, 1: 0.75, 2: None, 3: 0.5})
    assert mixed is not None and mixed.rows == 3 and mixed.low < 0.5 < mixed.high


def test_recovered_needs_a_gap_and_is_never_below_zero():
    def of(value):
        return Rate(value=value, low=value, high=value, rows=10)

    assert recovered(of(0.5), of(0.9), of(0.1)) == pytest.approx(0.5)
    assert recovered(of(0.05), of(0.9), of(0.1)) == 0
    assert recovered(of(0.5), of(0.14), of(0.1)) is None
    assert recovered(of(0.5), None, of(0.1)) is None
