"""ASU beside "I don't know": the refusal opens the answer, the smoothed base guides the rest."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.idk import IDK
from asu_lora.losses.loss import Loss


class ASUWithIDK(Loss):
    """ASU without each answer's first token, plus IDK (arXiv 2603.01285, section 4.3)."""

    name = "asu+idk"
    needs = {"answer": ("teacher",), "idk": ()}

    def __init__(self, forbidden: torch.Tensor | None = None, rule_out: bool = False):
        self.asu = ASU(forbidden, rule_out, skip_first_token=True)
        self.needs = {**self.asu.needs, "idk": ()}
        self.idk = IDK()

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        return self.asu(views) + self.idk(views)
