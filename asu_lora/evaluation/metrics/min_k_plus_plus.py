"""Min-K%++: Min-K% on log-probabilities that are measured against all other words at their place."""

from collections.abc import Sequence

import torch

from asu_lora.evaluation.metrics.min_k import min_k

SMALLEST_VARIANCE = 1e-6  # as in open-unlearning's code: a sure prediction has none


def standardized(logits: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """``(log p(x_t) - mu_t) / sigma_t`` of each token, shape ``(t,)``.

    ``logits``: ``(t, V)``; ``logprobs``: of the true tokens under them, ``(t,)``, nats. ``mu_t`` and ``sigma_t``
    are mean and standard deviation of ``log p(z)`` with ``z`` drawn from the model's own distribution.
    """
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    squares = torch.where(p > 0, log_p.square() * p, 0.0)  # 0 for a word that is ruled out: its log is -inf
    mean = torch.where(p > 0, log_p * p, 0.0).sum(-1)
    variance = (squares.sum(-1) - mean.square()).clamp(min=SMALLEST_VARIANCE)
    return (logprobs - mean) / variance.sqrt()


def min_k_plus_plus(token_scores: torch.Tensor | Sequence[float], k: float = 0.4) -> float:
    """Mean of the ``k`` lowest :func:`standardized` scores of a text; higher means more likely a member.

    Arguments and errors as in :func:`~asu_lora.evaluation.metrics.min_k.min_k`. Zhang et al., "Min-K%++:
    Improved Baseline for Detecting Pre-Training Data" (arXiv 2404.02936), as open-unlearning computes it.
    """
    return min_k(token_scores, k)
