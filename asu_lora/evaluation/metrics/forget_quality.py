"""TOFU's forget quality: can the unlearned model be told from one that never saw the forget set?"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import ks_2samp

from asu_lora.errors import DataError

# Figures by sizes and distance, which they follow from: an interval draws a thousand pairs, most alike, and scipy's
# test takes a millisecond.
_KNOWN: dict[tuple[int, int, int], tuple[float, float]] = {}
MOST_KNOWN = 100_000


def ks_two_sample(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Two-sided, two-sample Kolmogorov-Smirnov test: ``(D, p)``, ``D = max |F1 - F2|``; scipy's.

    ``p`` is exact up to 10,000 values a sample, as TOFU and open-unlearning have it, asymptotic above.

    Raises:
        DataError: an empty list, or a NaN.
    """
    if not first or not second:
        raise DataError("A KS test needs two samples; one of the two lists is empty.")
    if any(math.isnan(value) for value in (*first, *second)):
        raise DataError("A KS test can't order a value that is NaN.")
    one, other = np.sort(np.asarray(first, dtype=np.float64)), np.sort(np.asarray(second, dtype=np.float64))
    places = np.concatenate([one, other])
    # by how many of the pairs the shares of the two below a place differ
    apart = np.searchsorted(one, places, side="right") * len(other) - np.searchsorted(other, places, "right") * len(one)
    key = (len(one), len(other), int(np.abs(apart).max()))
    if key not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = _by_scipy(one, other)
    return _KNOWN[key]


def _by_scipy(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it tells where it turns to the asymptotic p: D = 0, p = 1
        found = ks_2samp(first, second)
    return float(found.statistic), float(found.pvalue)


def forget_quality(unlearned_ratios: Sequence[float], retain_ratios: Sequence[float]) -> float:
    """The KS test's p-value between the forget set's truth ratios of two models; in (0, 1], higher is better.

    ``unlearned_ratios``, ``retain_ratios``: one
    :func:`~asu_lora.evaluation.metrics.truth_ratio.truth_ratio` a question, of the unlearned model and of
    one trained without the forget set. ``r`` and ``1/r`` give the same value. TOFU, "forget quality".
    Errors as in :func:`ks_two_sample`.
    """
    return ks_two_sample(unlearned_ratios, retain_ratios)[1]
