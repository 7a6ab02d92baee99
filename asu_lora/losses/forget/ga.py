"""Forget by gradient ascent on the forget answers (Jang et al. 2023, arXiv 2210.01504)."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class GA(Loss):
    """The negated cross-entropy of the answer tokens, the mean over all tokens of the batch. Unbounded below."""

    name = "ga"

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        return views["answer"].mean_over_tokens(views["answer"].logprob())
