"""Probability: how likely the model still finds the right answer, a token at a time."""

import math
from collections.abc import Sequence

import torch

from asu_lora.errors import DataError

TokenNLL = torch.Tensor | Sequence[float]


def mean_nll(token_nll: TokenNLL) -> float:
    """Mean of one answer's token losses, any shape, in nats; :class:`DataError` for none or for a NaN."""
    values = torch.as_tensor(token_nll, dtype=torch.float64).flatten()
    if values.numel() == 0:
        raise DataError.plain("An answer without tokens has no probability: the list of token losses is empty.")
    mean = float(values.mean())
    if math.isnan(mean):
        raise DataError.plain("An answer's token losses hold NaN, so it has no probability; the logits are broken.")
    return mean


def answer_probability(token_nll: TokenNLL) -> float:
    """``exp(-mean(token_nll))``, the geometric mean of the answer's token probabilities; in [0, 1].

    ``token_nll``: one answer's token losses ``-log p(token | question, tokens before)``, shape
    ``(tokens,)``, in nats, the end-of-turn token included if the caller includes it. "Probability" of
    TOFU and of "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025), on the forget and the retain
    set.
    """
    return math.exp(-max(mean_nll(token_nll), 0.0))


def normalized_probability(true_nll: TokenNLL, wrong_nlls: Sequence[TokenNLL]) -> float:
    """``p(true) / (p(true) + sum of p(wrong))`` with ``p`` = :func:`answer_probability`; in [0, 1].

    ``true_nll``: the right option's token losses; ``wrong_nlls``: one such list for each wrong option.
    Computed from the mean losses as a softmax, so it holds where every ``p`` underflows. "Probability" on
    real authors and world facts, same sources. :class:`DataError` without a wrong option: any model has 1.
    """
    if len(wrong_nlls) == 0:
        raise DataError.plain("The normalized probability needs at least one wrong option beside the right one.")
    means = [mean_nll(true_nll), *(mean_nll(wrong) for wrong in wrong_nlls)]
    log_p = -torch.tensor(means, dtype=torch.float64)
    if torch.isinf(log_p).all():
        raise DataError.plain("Every option has probability 0, so none can be preferred; the logits are broken.")
    return float(torch.softmax(log_p, dim=0)[0])
