"""Min-K%: tells what a model was trained on by its least likely tokens; and the AUC that rates the test."""

import math
from collections.abc import Sequence

import torch

from asu_lora.errors import DataError, SettingError


def min_k(token_log_probs: torch.Tensor | Sequence[float], k: float = 0.4) -> float:
    """Mean log-probability of the ``k`` least likely tokens of a text, in nats.

    ``max(1, floor(k * n))`` tokens count. ``token_log_probs``: ``log p(token | tokens before)``,
    shape ``(n,)``. ``k``: a share in (0, 1]; MUSE takes 0.4. Higher means more likely a member. Shi et
    al., "Detecting Pretraining Data from Large Language Models" (ICLR 2024).

    Raises:
        SettingError: ``k`` outside (0, 1].
        DataError: no tokens, or a NaN.
    """
    if not 0 < k <= 1:
        raise SettingError(f"Min-K% takes a share in (0, 1], not {k}.")
    values = torch.as_tensor(token_log_probs, dtype=torch.float64).flatten()
    if values.numel() == 0 or bool(values.isnan().any()):
        raise DataError("Min-K% needs at least one token's log-probability, and none that is NaN.")
    # 1e-9: 0.29 * 100 is 28.999999999999996 in floating point.
    count = max(1, math.floor(k * values.numel() + 1e-9))
    return float(values.sort().values[:count].mean())
