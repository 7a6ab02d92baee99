"""leak@k without bias, and bounds that hold for few trials too.

With c of n drawn answers leaking, the chance that at least one of k answers leaks is estimated without bias by

    leak@k = 1 - C(n - c, k) / C(n, k),    k <= n

(the pass@k of Chen et al., "Evaluating Large Language Models Trained on Code", 2021). Bounds on a probability are
those of Clopper and Pearson (1934), which cover it at least as often as they say.
"""

from math import prod

from scipy.stats import binomtest

from asu_lora.errors import SettingError

LEVEL = 0.95  # confidence


def leak_at_k(n: int, c: int, k: int) -> float:
    """The estimate above.

    Args:
        n: answers drawn.
        c: those of them that leak.
        k: answers that an attacker draws.

    Raises:
        SettingError: not ``0 <= c <= n`` and ``1 <= k <= n``.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise SettingError(f"leak@{k} can't be told of {c} leaks in {n} answers: it needs 1 <= k <= n.")
    return 1.0 - prod((n - c - i) / (n - i) for i in range(k)) if n - c >= k else 1.0


def clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """The exact interval of a probability of which ``hits`` of ``trials`` came true; (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(hits, trials).proportion_ci(LEVEL, "exact")
    return float(found.low), float(found.high)


def at_least_once(probability: float, k: int) -> float:
    """The chance that something of this probability comes true in ``k`` trials."""
    return 1.0 - (1.0 - probability) ** k


def enough_samples(limit: float, k: int) -> int:
    """Answers without a leak that show a row's chance of one in ``k`` to be at most ``limit``, at 95 % confidence.

    With none of n leaking, the upper bound on one answer's chance is ``1 - 0.05 ** (1 / n)`` (one-sided).
    """
    single = 1.0 - (1.0 - limit) ** (1.0 / k)
    n = 1
    while 1.0 - (1.0 - LEVEL) ** (1.0 / n) > single:
        n += 1
    return n
