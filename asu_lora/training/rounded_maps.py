"""The model as it is once its adapter is merged and rounded to 4 bits, without a merge.

With the base's weight W, the adapters' update D and the rounding R to NF4, a merged model that is served in 4 bits
computes R(W + D) x. Where W lies on the grid of 4-bit numbers already, most entries of D are less than half a step and
fall back: the update is gone (docs/results/merge_durable.md). Inside :func:`merged_and_rounded` the student computes
just that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from asu_lora.merging.nf4.quantization import Quantization, as_loaded, quantize
from asu_lora.models.frozen_adapters import NEW


class RoundedMap(nn.Module):
    """In the place of a linear map that adapters stand at: R(W + D) x - D x, to which PEFT adds D x.

    Args:
        owner: PEFT's module around the map.
        strength: what the new adapter's update is multiplied by in D; it must act at that dose.
        dtype: of the matrix products.
    """

    @torch.no_grad()
    def __init__(self, owner: LoraLayer, strength: float, dtype: torch.dtype):
        super().__init__()
        layer = cast(nn.Linear, owner.base_layer)
        self.__dict__["layer"] = layer  # beneath torch's registry: its weights keep their names
        self.dtype, settings = dtype, Quantization(compute_dtype=dtype)
        self.update = [
            (
                cast(torch.Tensor, owner.lora_A[name].weight),
                cast(torch.Tensor, owner.lora_B[name].weight),
                float(owner.scaling[name]) * (strength if name == NEW else 1.0),
            )
            for name in owner.active_adapters
            if name in owner.lora_A
        ]
        total = dequantize_module_weight(layer).float()
        if isinstance(layer, Conv1D):
            total = total.T
        for a, b, scaling in self.update:
            total = torch.addmm(total, b.float(), a.float(), alpha=scaling)
        self.packed, self.state = quantize(as_loaded(total, settings), settings)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        from bitsandbytes import matmul_4bit

        bias = self.layer.bias.to(self.dtype) if self.layer.bias is not None else None
        result = matmul_4bit(states.to(self.dtype), self.packed.t(), quant_state=self.state, bias=bias)
        for a, b, scaling in self.update:
            result = result - (linear(linear(states.to(a.dtype), a), b) * scaling).to(result.dtype)
        return result.to(states.dtype)


def rounded_owners(student: PeftModel) -> list[LoraLayer]:
    """PEFT's modules around the maps that are rounded: no embeddings, no experts in one tensor."""
    return [
        module
        for module in student.modules()
        if isinstance(module, LoraLayer)
        and not isinstance(module, ParamWrapper)
        and NEW in module.lora_A
        and isinstance(module.base_layer, (nn.Linear, Conv1D))
    ]


@contextmanager
def merged_and_rounded(student: PeftModel, strength: float, dtype: torch.dtype) -> Iterator[None]:
    """Inside, base and adapters act as if merged and rounded, where the new adapter gets ``strength`` for its dose.

    What is no linear map of its own (embeddings, experts in one tensor) stays as it is.

    Args:
        student: at its own strength; the dose is given inside.
        dtype: of the matrix products.
    """
    owners = rounded_owners(student)
    layers = [owner.base_layer for owner in owners]
    try:
        for owner in owners:
            owner.base_layer = RoundedMap(owner, strength, dtype)
        yield
    finally:
        for owner, layer in zip(owners, layers, strict=True):
            owner.base_layer = layer
