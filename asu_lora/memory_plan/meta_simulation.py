"""The bytes that code would hold, found by running it on the meta device: shapes pass through, no number is made.

Torch tells of every tensor that an operation makes; its storage is counted until it is freed. What autograd
saves, what checkpointing drops and recomputes, what a cast copies: all of it is there because the real code runs,
whatever the architecture. Three things are stood in for, since the meta device has other kernels than a CPU or GPU:
attention (memory linear in the length, as in flash attention), matrix products with 4-bit weights, and those of
experts (the meta device knows these in bf16 alone).
"""

import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from asu_lora.errors import BaseModelError

P = ParamSpec("P")
R = TypeVar("R")


class NotSimulated(BaseModelError):
    """The base's own code needs numbers where the meta device has shapes alone."""


def of_shapes_alone(function: Callable[P, R]) -> Callable[P, R]:
    """Say in a sentence that a function's simulation needs numbers (JetMoE asks how many tokens an expert gets).

    Raises:
        NotSimulated: instead of torch's error.
    """

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error).lower():
                raise
            raise NotSimulated(
                "The memory of this base's forward passes can't be planned: its code looks at numbers, and a plan has "
                "shapes alone."
            ) from error

    return told


def on_meta(batch: Any) -> Any:
    """A batch of shapes alone."""
    return tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, batch)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the ``with`` block, as long as they live.

    Args:
        vocabulary: tensors whose last dimension has this size are logits.

    Attributes:
        logits, others: bytes of live logits and of everything else that lives now.
        peak: ``(others, logits)`` at the moment at which their sum was largest.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.live = {"logits": 0, "others": 0}
        self.peak = (0, 0)
        self._known: set[int] = set()

    def ignore(self, tensors) -> None:
        """Count these tensors (weights, adapter) nowhere: they are parts of their own."""
        for tensor in tensors:
            self._known.add(id(tensor.untyped_storage()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False  # "is there no padding?": there nearly always is, and a mask with it
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        kind = "logits" if tensor.dim() and tensor.shape[-1] == self.vocabulary else "others"
        self._known.add(key)
        weakref.finalize(storage, self._free, key, kind, size)
        self.live[kind] += size
        if sum(self.live.values()) > sum(self.peak):
            self.peak = (self.live["others"], self.live["logits"])

    def _free(self, key: int, kind: str, size: int) -> None:
        self._known.discard(key)
        self.live[kind] -= size


@contextmanager
def kernels(quantised: Collection[int]) -> Iterator[None]:
    """Stand in for the kernels that the meta device doesn't have, inside the ``with`` block.

    Replaced in ``torch.nn.functional`` itself: a function mode would be off while the backward pass recomputes.

    Args:
        quantised: ids of the weights that are held in 4 bits and made whole for each product.
    """
    attention, linear, addmm = F.scaled_dot_product_attention, F.linear, torch.addmm
    grouped = getattr(F, "grouped_mm", None)  # of torch 2.10

    def flash(query, key, value, attn_mask=None, *args, **kwargs):
        return _FlashAttention.apply(query, key, value, attn_mask)

    def product(x, weight, bias=None):
        if id(weight) not in quantised:
            return linear(x, weight, bias)
        out = _QuantisedLinear.apply(x, weight, linear)
        return out if bias is None else out + bias

    def of_gpt2(bias, x, weight, **kwargs):
        if id(weight) not in quantised:
            return addmm(bias, x, weight, **kwargs)
        return _QuantisedLinear.apply(x, weight.T, linear) + bias  # loading turns it round, into a linear layer

    def experts(x, weight, **kwargs):
        return _ExpertProduct.apply(x, weight)

    F.scaled_dot_product_attention, F.linear = flash, product
    vars(torch).update(addmm=of_gpt2)
    if grouped is not None:
        vars(F).update(grouped_mm=experts)
    try:
        yield
    finally:
        F.scaled_dot_product_attention, F.linear = attention, linear
        vars(torch).update(addmm=addmm)
        if grouped is not None:
            vars(F).update(grouped_mm=grouped)


class _FlashAttention(torch.autograd.Function):
    """What flash attention holds: queries, keys, values, output, one number a query; a mask in full."""

    @staticmethod
    def forward(ctx, query, key, value, mask):
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.empty_like(mask, dtype=query.dtype)  # torch makes an additive one of it, in every layer
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums, mask)
        return out

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


class _QuantisedLinear(torch.autograd.Function):
    """x W^T with W made whole for the product, forward and backward; the input is not saved, W is frozen."""

    @staticmethod
    def forward(ctx, x, weight, linear):
        ctx.weight = weight
        return linear(x, torch.empty_like(weight))

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ torch.empty_like(ctx.weight), None, None


class _ExpertProduct(torch.autograd.Function):
    """Every row times the matrix of its expert, (rows, in) x (experts, in, out); the weights are frozen."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.input = x.shape
        return x.new_empty(x.shape[0], weight.shape[-1])

    @staticmethod
    def backward(ctx, gradient):
        return gradient.new_empty(ctx.input), None
