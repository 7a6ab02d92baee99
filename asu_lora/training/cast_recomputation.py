"""Copies in fp32 that autograd would keep for the backward pass, kept as the 16-bit tensors they are copies of.

On a base in 16 bits, the fp32 adapter's layers cast their input up: the query, key and value maps each make, and
autograd each keeps, a copy of the same states, and so do normalisations. That is half of all that a training step
holds. A cast up loses nothing, so it can be made again from its source when the backward pass asks for it, and the
gradients are the same to the bit. The source mostly is there anyway, for another operation.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

CASTS = (torch.Tensor.to, torch.Tensor.float, torch.Tensor.type)
LOW = (torch.bfloat16, torch.float16)


@contextmanager
def recompute_casts() -> Iterator[None]:
    """Inside, what autograd saves of a cast from 16 bits to fp32 is the cast's source.

    Where gradient checkpointing has its own way with saved tensors, that one counts.
    """
    casts = _Casts()
    with casts, torch.autograd.graph.saved_tensors_hooks(casts.pack, _unpack):
        yield


@dataclass(frozen=True)
class _Cast:
    """How to make an fp32 copy again.

    Attributes:
        source, version: what was cast, without its history, and which of its versions.
        strides: the copy's; it is as large as the source and has its storage to itself.
        copy_version: the copy's, when it was made.
    """

    source: torch.Tensor
    version: int
    strides: tuple[int, ...]
    copy_version: int

    def again(self) -> torch.Tensor:
        if self.source._version != self.version:
            raise RuntimeError("What was cast to fp32 was then changed in place, and the backward pass needs it.")
        copy = torch.empty_strided(self.source.shape, self.strides, dtype=torch.float32, device=self.source.device)
        return copy.copy_(self.source)


@dataclass(frozen=True)
class _View:
    """What was saved: a copy, or a view of one."""

    cast: _Cast
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class _Casts(TorchFunctionMode):
    """Watches for casts, and forgets each with its copy.

    Saved tensors reach the hook without their history. A copy is known again by its storage, which it has to itself
    and which all views of it share, and by its version: once changed in place, it is no copy any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_storage: weakref.WeakKeyDictionary[torch.UntypedStorage, _Cast] = weakref.WeakKeyDictionary()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in CASTS and torch.is_grad_enabled() and isinstance(out, torch.Tensor) and _is_cast(args[0], out):
            self.by_storage[out.untyped_storage()] = _Cast(
                args[0].detach(), args[0]._version, out.stride(), out._version
            )
        return out

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | _View:
        cast = self.by_storage.get(tensor.untyped_storage())
        if (
            cast is None
            or tensor.dtype != torch.float32
            or (tensor._version, cast.source._version) != (cast.copy_version, cast.version)
        ):
            return tensor
        return _View(cast, tensor.shape, tensor.stride(), int(tensor.storage_offset()))


def _is_cast(source: torch.Tensor, copy: torch.Tensor) -> bool:
    """Whether the source can stand for it, and takes less memory even where it is a part of something larger."""
    return (
        copy.dtype == torch.float32
        and source.dtype in LOW
        and copy.device == source.device
        and copy.layout == source.layout == torch.strided
        and not source.is_inference()
        and source.untyped_storage().nbytes() < copy.untyped_storage().nbytes() == 4 * copy.numel()
    )


def _unpack(saved: torch.Tensor | _View) -> torch.Tensor:
    if isinstance(saved, _View):
        return saved.cast.again().as_strided(saved.shape, saved.strides, saved.offset)
    return saved
