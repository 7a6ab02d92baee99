"""Retain by learning the retain answers on: gradient descent."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class GD(Loss):
    """Cross-entropy of the answer tokens, the mean over all tokens of the batch (as transformers computes it)."""

    name = "gd"

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        return -views["answer"].mean_over_tokens(views["answer"].logprob())
