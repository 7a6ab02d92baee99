"""Retain by leaving a layer's states where the base has them (RMU's retain loss, arXiv 2403.03218, section 4)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.forget.rmu import whole_layer
from asu_lora.losses.loss import Loss


class RMURetain(Loss):
    """|h - h_base|^2 / H of the states that leave the layer: mean over rows of the mean over answer tokens.

    The paper weighs it with 1200 on Zephyr-7B (``--retain-coeff``). For ``layer`` see
    :class:`asu_lora.losses.forget.rmu.RMU`.
    """

    name = "rmu"
    needs = {"answer": ("inner",)}
    settings: ClassVar[Mapping[str, float]] = {"layer": -1}

    def __init__(self, layer: float = -1):
        self.layer = whole_layer(layer)

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        moved = answers.inner_states().float() - answers.references["inner"].float()
        return answers.mean_over_rows(answers.row_mean((moved**2).mean(1)))
