"""Retain by staying close to the base in the answers: KL(base || student) on the retain answers."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss
from asu_lora.losses.token_kl import token_kl


class KLAnswers(Loss):
    """Mean over rows of the mean over answer tokens of KL(base || student): ASU's own loss at tau 1."""

    name = "kl-answers"
    needs = {"answer": ("base",)}

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        return answers.mean_over_rows(answers.row_mean(token_kl(answers, answers.references["base"])))
