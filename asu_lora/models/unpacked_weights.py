"""4-bit weights that are unpacked once for many passes, on a CPU.

bitsandbytes unpacks a weight at every use there. Answers are written a token at a time, so that unpacking is much of
the work: SmolLM2 writes a single answer two and a half times as fast without, 32 at once 1.1 times. Of a training step
it is a twelfth (docs/results/whole_job.md). The products are the same to the bit, and so are the gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import chain
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from asu_lora.hardware.memory import free_memory

SHARE = 4  # a part of what memory is free
SHARE_OF_TRAINING = 16  # the same where a training step, which needs far more, is still to come


@contextmanager
def unpacked(*models: torch.nn.Module, share: int = SHARE) -> Iterator[None]:
    """Inside, the 4-bit layers of models on a CPU multiply with weights that lie unpacked in the compute type.

    As many layers, from the first, as fit into a part of the free memory: 0.42 GB for all of SmolLM2-135M in fp32.
    Elsewhere than on a CPU it changes nothing.

    Args:
        models: or parts of one.
        share: a quarter of the free memory is 4.
    """
    room = room_to_unpack(share)
    layers: Iterator[Any] = chain.from_iterable(model.modules() for model in models)
    changed: list[Any] = []
    try:
        for module in layers:
            if not _unpacks(module):
                continue
            room -= module.in_features * module.out_features * module.compute_dtype.itemsize
            if room < 0:
                break
            vars(module)["forward"] = partial(_multiply, module, _unpack(module))
            changed.append(module)
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def room_to_unpack(share: int) -> int:
    """Bytes that unpacked weights may take."""
    return free_memory(torch.device("cpu")) // share


def _unpacks(module: Any) -> bool:
    """Whether bitsandbytes would unpack this layer's weight at each use."""
    if not isinstance(module, Linear4bit) or "forward" in vars(module) or module.weight.device.type != "cpu":
        return False
    state = getattr(module.weight, "quant_state", None)
    repacked = getattr(state, "packing_format_for_cpu", False)
    plain = state is not None and tuple(state.shape) == (module.out_features, module.in_features)
    return plain and not repacked and module.compute_dtype is not None


def _unpack(module: Any) -> torch.Tensor:
    """(out, in) in the compute type, as bitsandbytes' product makes it."""
    state = copy(module.weight.quant_state)
    state.dtype = module.compute_dtype
    return dequantize_4bit(module.weight.data.view(-1, 1), state)


def _multiply(module: Any, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What ``Linear4bit.forward`` gives: (..., out) of (..., in), in the type of x."""
    bias = module.bias
    product = torch.nn.functional.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
    return product.to(x.dtype)
