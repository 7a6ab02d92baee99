"""Retain by staying close to the base in the answers: KL(base || student) on the retain answers."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss
from asu_lora.losses.token_kl import token_kl


class KLAnswers(Loss):
    """Mean over rows of the mean over answer tokens of KL(base || student): ASU's own loss at tau 1.

    Args:
        temperature: of both; see :func:`~asu_lora.losses.token_kl.token_kl`.
    """

    name = "kl-answers"
    needs = {"answer": ("base",)}

    def __init__(self, temperature: float = 1.0):
        self.temperature = temperature

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        kl = token_kl(answers, answers.references["base"], temperature=self.temperature)
        return answers.mean_over_rows(answers.row_mean(kl))
