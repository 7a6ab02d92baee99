"""TOFU's forget quality: can the unlearned model be told from one that never saw the forget set?"""

from collections.abc import Sequence

import torch

from asu_lora.errors import DataError


def ks_two_sample(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Two-sided, two-sample Kolmogorov-Smirnov test: ``(D, p)``, ``D = max |F1 - F2|``, ``p`` exact.

    ``p`` is the share of the ``C(n + m, n)`` orderings of ``n`` and ``m`` draws from one distribution
    whose ``D`` is at least the observed one (ties counted as scipy's ``ks_2samp(method="exact")`` counts
    them). With ``q(i, j)`` the share among the first ``i`` and ``j`` draws: 1 where ``|i/n - j/m| >= D``,
    else ``(i q(i-1, j) + j q(i, j-1)) / (i + j)``. Sums of positive terms only, so a ``p`` of 1e-200
    keeps its digits. Time ``O(n m)``, one row operation for each ``i + j``.

    Raises:
        DataError: an empty list, or a NaN.
    """
    a = torch.as_tensor(first, dtype=torch.float64).flatten().sort().values
    b = torch.as_tensor(second, dtype=torch.float64).flatten().sort().values
    n, m = a.numel(), b.numel()
    if min(n, m) == 0:
        raise DataError("A KS test needs two samples; one of the two lists is empty.")
    if bool(a.isnan().any()) or bool(b.isnan().any()):
        raise DataError("A KS test can't order a value that is NaN.")
    pooled = torch.cat([a, b])
    # Whole numbers: D * n * m, so that "at least the observed one" is decided without rounding.
    gaps = m * torch.searchsorted(a, pooled, right=True) - n * torch.searchsorted(b, pooled, right=True)
    observed = int(gaps.abs().max())

    i = torch.arange(n + 1)
    row = torch.zeros(n + 1, dtype=torch.float64)  # q(i, total - i) for the current total, by i
    for total in range(n + m + 1):
        j = total - i
        if total > 0:
            from_i = torch.cat([row.new_zeros(1), row[:-1]])
            row = (i * from_i + j * row) / total
        row = torch.where((i * m - j * n).abs() >= observed, torch.ones_like(row), row)
        row = torch.where((j < 0) | (j > m), torch.zeros_like(row), row)
    return observed / (n * m), min(1.0, float(row[n]))


def forget_quality(unlearned_ratios: Sequence[float], retain_ratios: Sequence[float]) -> float:
    """The KS test's p-value between the forget set's truth ratios of two models; in (0, 1], higher is better.

    ``unlearned_ratios``, ``retain_ratios``: one
    :func:`~asu_lora.evaluation.metrics.truth_ratio.truth_ratio` a question, of the unlearned model and of
    one trained without the forget set. ``r`` and ``1/r`` give the same value. TOFU, "forget quality".
    Errors as in :func:`ks_two_sample`.
    """
    return ks_two_sample(unlearned_ratios, retain_ratios)[1]
