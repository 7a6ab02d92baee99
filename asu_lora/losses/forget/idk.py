"""Forget by learning to say "I don't know" (TOFU's IDK baseline, arXiv 2401.06121)."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class IDK(Loss):
    """Cross-entropy of an "I don't know" answer, the mean over all its tokens in the batch."""

    name = "idk"
    needs = {"idk": ()}

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        return -views["idk"].mean_over_tokens(views["idk"].logprob())
