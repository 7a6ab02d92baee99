"""Forget by maximising entropy (A Closer Look at Machine Unlearning for LLMs, ICLR 2025, eq. 5)."""

import math
from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class ME(Loss):
    """KL(uniform || student) over the vocabulary, the mean over all answer tokens of the batch."""

    name = "me"

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        return answers.mean_over_tokens(answers.head.per_token(kl_from_uniform, answers.hidden))


def kl_from_uniform(logits: torch.Tensor) -> torch.Tensor:
    """(t,) KL(uniform || softmax(logits)) of logits (t, V): -log V - mean log p."""
    return -math.log(logits.shape[1]) - logits.mean(1) + logits.logsumexp(1)
