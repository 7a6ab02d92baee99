"""Retain by staying close to the base, bounded (JensUn's retain loss, arXiv 2509.02820, section 4)."""

import math
from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class JS(Loss):
    """Jensen-Shannon divergence between base and student: mean over rows of the mean over answer tokens."""

    name = "js"
    needs = {"answer": ("base",)}

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        head = answers.head

        def divergence(logits: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                log_p = head.logits(base).log_softmax(1)
            log_q = logits.log_softmax(1)
            middle = torch.logaddexp(log_p, log_q) - math.log(2)
            return ((log_p.exp() * (log_p - middle)).sum(1) + (log_q.exp() * (log_q - middle)).sum(1)) / 2

        value = head.per_token(divergence, answers.hidden, answers.references["base"])
        return answers.mean_over_rows(answers.row_mean(value))
