"""KL(base without what must not be said || student) on the student's own answers."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss
from asu_lora.losses.token_kl import token_kl

LAST = 16  # tokens: where an answer turns into a loop; what stands before it is well said


class OnPolicyKL(Loss):
    """Mean over rows of the mean over their last tokens of KL(base without the ruled-out tokens || student).

    The rows are the student's own answers to the batch's forget questions (:mod:`asu_lora.training.on_policy`),
    those without a loss counting as 0; the paper has no such term.
    """

    name = "own words"
    needs = {"answer": ("base", "ruled_out")}

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        references = answers.references
        kl = token_kl(answers, references["base"], ruled_out=references["ruled_out"])
        return answers.mean_over_rows(answers.row_mean(kl, answers.places_left() < LAST))
