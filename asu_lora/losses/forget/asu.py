"""ASU: distil the base with smoothed attention into the student (arXiv 2603.01285, eq. 6-8)."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss
from asu_lora.losses.token_kl import token_kl


class ASU(Loss):
    """Mean over rows of the mean over answer tokens of KL(smoothed base || student).

    Args:
        forbidden: (F,) ids of the tokens that structure a conversation (end of turn, role marks). A hot
            teacher puts much of its mass on them (on SmolLM2-135M above tau 1.9 it answers with nothing at
            all), and a student would learn silence. Before an answer's last token they are taken out of the
            teacher's distribution. None is the paper's loss as it stands.
        rule_out: also take out, token by token, what the reference ``ruled_out`` names (see
            :mod:`asu_lora.teacher.fluency`).
        skip_first_token: leave each answer's first token without loss (used beside ``idk``).
    """

    name = "asu"
    needs = {"answer": ("teacher",)}

    def __init__(self, forbidden: torch.Tensor | None = None, rule_out: bool = False, skip_first_token: bool = False):
        self.forbidden = forbidden
        self.rule_out = rule_out
        if rule_out:
            self.needs = {"answer": ("teacher", "ruled_out")}
        self.skip_first_token = skip_first_token

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        kl = token_kl(
            answers,
            answers.references["teacher"],
            self.forbidden,
            answers.references["ruled_out"] if self.rule_out else None,
        )
        weight = ~answers.first() if self.skip_first_token else None
        return answers.mean_over_rows(answers.row_mean(kl, weight))
