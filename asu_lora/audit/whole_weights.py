"""4-bit weights made whole once, for as long as an audit lasts.

On the CPU bitsandbytes makes a layer's weights whole for every token that is written: a quarter of the time of an
answer. Held whole they give the same products to the last bit, for two bytes a weight more; without room for that,
nothing changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from asu_lora.hardware.memory import free_memory
from asu_lora.merging.nf4.quantization import dequantize

SHARE = 0.25  # of the free memory that whole weights may take


@contextmanager
def whole_weights(model: torch.nn.Module) -> Iterator[int]:
    """Inside, 4-bit layers on the CPU multiply by weights that are held whole.

    Yields:
        How many layers do: none where they would not fit.
    """
    packed: list[Any] = [module for module in model.modules() if _is_packed(module)]
    needed = sum(module.in_features * module.out_features * module.compute_dtype.itemsize for module in packed)
    if needed > SHARE * free_memory(torch.device("cpu")):
        packed = []
    try:
        for module in packed:
            vars(module)["forward"] = _product(module)
        yield len(packed)
    finally:
        for module in packed:
            vars(module).pop("forward", None)


def _is_packed(module: Any) -> bool:
    """Whether a layer keeps 4-bit weights in the layout that is made whole at each pass."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return (
        state is not None
        and isinstance(getattr(module, "compute_dtype", None), torch.dtype)
        and module.weight.device.type == "cpu"
        and not getattr(state, "packing_format_for_cpu", False)
        and "forward" not in vars(module)
    )


def _product(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    dtype = module.compute_dtype
    weight = dequantize(module.weight.data, module.weight.quant_state, dtype).to(dtype)

    def forward(states: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias.to(dtype)
        return torch.nn.functional.linear(states.to(dtype), weight, bias).to(states.dtype)

    return forward
