"""Forget by a bounded pull towards a refusal (JensUn, Singh et al. 2025, arXiv 2509.02820, section 4)."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch.special import xlog1py

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class JensUn(Loss):
    """Jensen-Shannon divergence between the student and the one-hot tokens of a refusal.

    The mean over rows of the mean over the refusal's tokens; between 0 and log 2, so its gradient fades instead of
    exploding. Against a one-hot distribution only the probability p of its token counts:
    JS = log 2 + (p log p - (1 + p) log(1 + p)) / 2.
    Both weights are 1 in the authors' code (configs/trainer/JensUn.yaml).
    """

    name = "jensun"
    needs = {"idk": ()}
    refusals: ClassVar[tuple[str, ...]] = ("No idea",)
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_coeff=1.0, retain_loss="js")

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        refusal = views["idk"]
        logprob = refusal.logprob()
        p = logprob.exp()
        divergence = math.log(2) + (p * logprob - xlog1py(1 + p, p)) / 2
        return refusal.mean_over_rows(refusal.row_mean(divergence))
