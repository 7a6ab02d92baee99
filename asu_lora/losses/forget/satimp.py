"""Gradient ascent weighted by saturation and importance (Yang et al. 2025, arXiv 2505.11953, section 5)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class SatImp(Loss):
    """p^beta1 (1 - p)^beta2 log p of the answer tokens, the weight held fixed, the mean over all tokens of the batch.

    p^beta1 leaves alone what is forgotten already (saturation), (1 - p)^beta2 what any model would say (importance).
    The weights are those of OpenUnlearning (configs/trainer/SatImp.yaml), for forget quality and model utility. For the
    paper's own metric its page on the method has them the other way round (community/methods/SatImp/README.md).
    """

    name = "satimp"
    settings: ClassVar[Mapping[str, float]] = {"beta1": 5.0, "beta2": 1.0}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=0.1, retain_coeff=1.0, retain_loss="gd")

    def __init__(self, beta1: float = 5.0, beta2: float = 1.0):
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if value < 0:
                raise SettingError(f"The {name} of satimp is {value:g}; it must be at least 0.")
        self.beta1, self.beta2 = beta1, beta2

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        logprob = views["answer"].logprob()
        fixed = logprob.detach()
        weight = (self.beta1 * fixed).exp() * (-torch.expm1(fixed)).clamp(min=0) ** self.beta2
        return views["answer"].mean_over_tokens(weight * logprob)
