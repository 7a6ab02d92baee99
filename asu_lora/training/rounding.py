"""Training through 4-bit rounding, so that what is forgotten stays forgotten in a merged and rounded model.

With the base's weight W, the adapters' update D and the rounding R to NF4, a merged model that is served in 4 bits
computes R(W + D) x. Where W lies on the grid of 4-bit numbers already, most entries of D are less than half a step and
fall back: the update is gone (docs/results/merge_durable.md). Here the student computes R(W + D) x in the forward pass,
and the backward pass takes R for the identity, as quantisation-aware training does (straight-through; Bengio et al.,
arXiv 1308.3432). So D grows where it has to. What is forgotten by unlearning comes back by rounding otherwise (Zhang et
al., arXiv 2410.16454).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from torch.nn.functional import linear
from transformers import TrainerCallback

from asu_lora.merging.nf4.quantization import Quantization, as_loaded, quantize
from asu_lora.models.frozen_adapters import NEW


class RoundedMap(nn.Module):
    """In the place of a linear map that adapters stand at: R(W + D) x - D x, to which PEFT adds D x; or the map itself.

    D x is subtracted without its gradient, so that the gradients by A and B are those of D x alone.

    Args:
        layer: the map.
        owner: PEFT's module around it.
        strength: what the new adapter's update is multiplied by in D.
        dtype: of the matrix products.
    """

    def __init__(self, layer: nn.Linear, owner: LoraLayer, strength: float, dtype: torch.dtype):
        super().__init__()
        # beneath torch's registry: the map's weights keep their names, the adapters' are not this module's
        self.__dict__["layer"], self.__dict__["owner"] = layer, owner
        self.strength, self.settings = strength, Quantization(compute_dtype=dtype)
        self.packed: torch.Tensor | None = None
        self.state: Any = None
        self.update: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    @torch.no_grad()
    def round(self) -> None:
        """Take W + D as it is now, and round it."""
        owner = cast(LoraLayer, self.__dict__["owner"])
        self.update = [
            (
                cast(torch.Tensor, owner.lora_A[name].weight).detach(),
                cast(torch.Tensor, owner.lora_B[name].weight).detach(),
                float(owner.scaling[name]) * (self.strength if name == NEW else 1.0),
            )
            for name in owner.active_adapters
            if name in owner.lora_A
        ]
        total = dequantize_module_weight(self.__dict__["layer"]).float()
        for a, b, scaling in self.update:
            total = torch.addmm(total, b.float(), a.float(), alpha=scaling)
        self.packed, self.state = quantize(as_loaded(total, self.settings), self.settings)

    def plain(self) -> None:
        """Be the map itself again."""
        self.packed, self.state, self.update = None, None, []

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer: nn.Linear = self.__dict__["layer"]
        if self.packed is None:
            return layer(states, *args, **kwargs)
        from bitsandbytes import matmul_4bit

        dtype = cast(torch.dtype, self.settings.compute_dtype)
        bias = layer.bias.to(dtype) if layer.bias is not None else None
        result = matmul_4bit(states.to(dtype), self.packed.t(), quant_state=self.state, bias=bias)
        for a, b, scaling in self.update:
            result = result - (linear(linear(states.to(a.dtype), a), b) * scaling).to(result.dtype)
        return result.to(states.dtype)


class ThroughRounding(TrainerCallback):
    """Rounds base and adapters anew before every step, from one step on.

    Args:
        maps: in place.
        since: the first step, counted from 0, that sees rounded weights.
    """

    def __init__(self, maps: Sequence[RoundedMap], since: int = 0):
        self.maps, self.since = maps, since

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= self.since:
            for each in self.maps:
                each.round()


@contextmanager
def rounded_maps(student: PeftModel, strength: float, dtype: torch.dtype) -> Iterator[list[RoundedMap]]:
    """Inside, the maps that the new adapter stands at can be rounded; none is yet.

    Maps that are no ``nn.Linear`` (embeddings, GPT-2's ``Conv1D``, experts in one tensor) stay as they are.

    Args:
        strength: of the new adapter in the sum that is rounded.
        dtype: of the matrix products.
    """
    owners = [
        module
        for module in student.modules()
        if isinstance(module, LoraLayer)
        and not isinstance(module, ParamWrapper)
        and NEW in module.lora_A
        and isinstance(module.base_layer, nn.Linear)
    ]
    maps = [RoundedMap(cast(nn.Linear, owner.base_layer), owner, strength, dtype) for owner in owners]
    try:
        for owner, each in zip(owners, maps, strict=True):
            owner.base_layer = each
        yield maps
    finally:
        for owner, each in zip(owners, maps, strict=True):
            owner.base_layer = each.__dict__["layer"]
