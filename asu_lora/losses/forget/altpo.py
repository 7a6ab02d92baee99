"""Alternate preference optimisation (AltPO, Mekala et al. 2024, arXiv 2409.13474, eq. 4)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch.nn.functional import logsigmoid

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class AltPO(Loss):
    """-(2/beta) log sigmoid(beta (log-ratio of an alternate answer - log-ratio of the answer)), the mean over rows.

    DPO with another plausible answer in the place of a refusal. The alternate is the row's own ``alternate_answer``, or
    what the base writes when it is asked to change the facts. (The paper draws several an answer; here it is one.)
    Both weights are 1 in the authors' code (config/unlearn_llama2.yaml); OpenUnlearning searches 1, 2 and 5 for the
    retain loss (community/methods/AltPO/run.sh).
    """

    name = "altpo"
    needs = {"answer": ("base_logprob",), "alternate": ("base_logprob",)}
    settings: ClassVar[Mapping[str, float]] = {"beta": 0.1}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_coeff=1.0, retain_loss="gd")

    def __init__(self, beta: float = 0.1):
        if beta <= 0:
            raise SettingError(f"The beta of altpo is {beta:g}; it must be greater than 0.")
        self.beta = beta

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        ratio = {name: view.row_sum(view.logprob() - view.references["base_logprob"]) for name, view in views.items()}
        value = logsigmoid(self.beta * (ratio["alternate"] - ratio["answer"]))
        return -views["answer"].mean_over_rows(value) * 2 / self.beta
