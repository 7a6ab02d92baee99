"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868, eq. 3)."""

from collections.abc import Mapping

import torch
from torch.nn.functional import logsigmoid

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class NPO(Loss):
    """-(2/beta) log sigmoid(-beta log(student / base)), answers' log-probabilities summed, the mean over rows."""

    name = "npo"
    needs = {"answer": ("base_logprob",)}

    def __init__(self, beta: float = 0.1):
        self.beta = beta

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        ratio = answers.row_sum(answers.logprob() - answers.references["base_logprob"])
        return -answers.mean_over_rows(logsigmoid(-self.beta * ratio)) * 2 / self.beta
