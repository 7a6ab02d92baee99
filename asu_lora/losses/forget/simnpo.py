"""Simple negative preference optimisation, without a reference model (Fan et al. 2024, arXiv 2410.07163, eq. 4)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch.nn.functional import logsigmoid

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class SimNPO(Loss):
    """-(2/beta) log sigmoid(-(beta/|y|) log p(y|x) - gamma), the mean over rows.

    NPO's log-ratio becomes the mean log-probability of the answer's tokens, so that short answers aren't forgotten at
    the expense of long ones. The defaults and the weights are those of the authors' code for TOFU, which
    OpenUnlearning has too (configs/trainer/SimNPO.yaml).
    """

    name = "simnpo"
    settings: ClassVar[Mapping[str, float]] = {"beta": 4.5, "gamma": 0.0}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=0.125, retain_coeff=1.0, retain_loss="gd")

    def __init__(self, beta: float = 4.5, gamma: float = 0.0):
        if beta <= 0:
            raise SettingError(f"The beta of simnpo is {beta:g}; it must be greater than 0.")
        self.beta, self.gamma = beta, gamma

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        margin = -self.beta * answers.row_mean(answers.logprob()) - self.gamma
        return -answers.mean_over_rows(logsigmoid(margin)) * 2 / self.beta
