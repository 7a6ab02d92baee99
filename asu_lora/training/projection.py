"""An A that keeps off some directions of its module's input: projected now, and after every optimizer step."""

from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback


class Projection(TrainerCallback):
    """A <- A - (A V) V^T for every module.

    Args:
        pairs: A, (r, in), and V, (in, k): an orthonormal basis of the directions that A keeps off.
    """

    def __init__(self, pairs: list[tuple[torch.nn.Parameter, torch.Tensor]]):
        self.pairs = pairs
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        for weight, basis in self.pairs:
            weight.sub_((weight @ basis) @ basis.T)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.project()


def lora_a(module: LoraLayer, name: str) -> torch.nn.Parameter:
    """The A, (r, in), of an adapter in a module."""
    return cast(torch.nn.Parameter, module.lora_A[name].weight)
