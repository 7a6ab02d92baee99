"""Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301, section 4)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class WGA(Loss):
    """p^beta log p of the answer tokens, the weight p^beta held fixed, the mean over all tokens of the batch.

    What is forgotten already has a small weight, so the ascent slows down where plain GA (beta 0) speeds up. The
    paper's alpha is called beta here, as in the field's code. Both weights are 1 in OpenUnlearning
    (configs/trainer/WGA.yaml).
    """

    name = "wga"
    settings: ClassVar[Mapping[str, float]] = {"beta": 1.0}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_coeff=1.0, retain_loss="gd")

    def __init__(self, beta: float = 1.0):
        if beta < 0:
            raise SettingError(f"The beta of wga is {beta:g}; it must be at least 0 (0 is plain gradient ascent).")
        self.beta = beta

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        logprob = views["answer"].logprob()
        weight = (self.beta * logprob.detach()).exp()
        return views["answer"].mean_over_tokens(weight * logprob)
