"""Retain by staying close to the base everywhere: KL(base || student) as the ASU authors' code has it."""

from collections.abc import Mapping

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss
from asu_lora.losses.token_kl import token_kl


class KL(Loss):
    """Mean over every position of KL(base || student): prompt, answer and padding (arXiv 2603.01285, released code).

    The authors pad every row to 500 tokens. Here rows are padded to the longest retain row of the request: the number
    of positions is the same for all rows, so the loss does not depend on how a step is shared out.
    """

    name = "kl"
    needs = {"positions": ("base",)}

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        positions = views["positions"]
        return positions.mean_over_tokens(token_kl(positions, positions.references["base"]))
