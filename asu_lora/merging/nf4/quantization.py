"""NF4 weights as bitsandbytes makes, keeps and stores them (QLoRA, arXiv 2305.14314)."""

from dataclasses import dataclass
from typing import Any

import torch

from asu_lora.bases.quantization import in_floats, recorded_settings, stored_format
from asu_lora.errors import BaseModelError
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader

_STATE = ".quant_state.bitsandbytes__"
_STATISTICS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", _STATE + "nf4", _STATE + "fp4")


@dataclass(frozen=True)
class Quantization:
    """The settings that decide which 4-bit numbers come out, and what a forward pass makes of them.

    Attributes:
        double_quant: the blocks' absolute maxima are themselves kept in 8 bit.
        compute_dtype: the type that matrix products ran in. Loading casts a weight to it before it is quantised, and a
            forward pass makes the 4-bit numbers whole in it. None where it is not known: nothing is cast.
        quant_type: ``nf4``; ``fp4`` only where a base is stored so.
    """

    double_quant: bool = True
    compute_dtype: torch.dtype | None = None
    quant_type: str = "nf4"

    @classmethod
    def from_dict(cls, settings: dict[str, Any] | None, compute_dtype: str | None = None) -> "Quantization":
        """From what a manifest records, or :func:`~asu_lora.bases.quantization.recorded_settings` found in a config.

        Args:
            compute_dtype: for settings that don't name it, such as ``bfloat16``.
        """
        settings = settings or {}
        name = str(settings.get("bnb_4bit_compute_dtype") or compute_dtype or "").removeprefix("torch.")
        dtype = getattr(torch, name, None)
        return cls(
            bool(settings.get("bnb_4bit_use_double_quant", True)),
            dtype if isinstance(dtype, torch.dtype) else None,
            settings.get("bnb_4bit_quant_type", "nf4"),
        )


def quantize(weight: torch.Tensor, settings: Quantization) -> tuple[torch.Tensor, Any]:
    """(out, in) floats -> packed uint8 (out*in/2, 1) and bitsandbytes' ``QuantState``, blocks of 64."""
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(
        weight.contiguous(), blocksize=64, compress_statistics=settings.double_quant, quant_type=settings.quant_type
    )


def dequantize(packed: torch.Tensor, state: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weights (out, in) that 4-bit numbers stand for: made whole in ``dtype``, given in fp32."""
    from bitsandbytes.functional import dequantize_4bit

    own, state.dtype = state.dtype, dtype
    try:
        return dequantize_4bit(packed, state).to(torch.float32)
    finally:
        state.dtype = own


def as_loaded(weight: torch.Tensor, settings: Quantization) -> torch.Tensor:
    """A weight after the cast that comes before quantisation when a model is loaded."""
    return weight if settings.compute_dtype is None else weight.to(settings.compute_dtype)


def seen_through_nf4(weight: torch.Tensor, settings: Quantization) -> torch.Tensor:
    """What a weight (out, in) becomes in a model loaded with these settings, in fp32."""
    packed, state = quantize(as_loaded(weight, settings), settings)
    return dequantize(packed, state, settings.compute_dtype or torch.float32)


def stored_tensors(name: str, packed: torch.Tensor, state: Any, settings: Quantization) -> dict[str, torch.Tensor]:
    """The tensors that ``from_pretrained`` reads for one 4-bit weight called ``name``."""
    state.dtype = settings.compute_dtype or torch.float32
    return {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}


def statistics_of(name: str, tensors: dict[str, Any]) -> list[str]:
    """The names of the tensors stored beside a weight that is in 4 bit already; empty for any other."""
    found = [name + suffix for suffix in _STATISTICS if name + suffix in tensors]
    return found if any(_STATE in other for other in found) else []


def read_state(reader: LazyTensorReader, name: str) -> tuple[torch.Tensor, Any]:
    """A tensor that the checkpoint keeps in 4 bit, as :func:`quantize` gives one.

    Raises:
        BaseModelError: the statistics stored beside it make no sense.
    """
    from bitsandbytes.functional import QuantState

    prefix = len(name) + 1
    try:
        parts = {other[prefix:]: reader.read(other) for other in statistics_of(name, reader.tensors)}
        return reader.read(name).reshape(-1, 1), QuantState.from_dict(parts, torch.device("cpu"))
    except (ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise BaseModelError(f"The 4-bit tensor {name} of the base is damaged: {error}.") from error


def read_packed(reader: LazyTensorReader, name: str, settings: Quantization) -> torch.Tensor:
    """What a forward pass makes of a tensor that the checkpoint keeps in 4 bit: (out, in), in fp32.

    It is made whole in the compute type, whatever the checkpoint names, as bitsandbytes' product does from 0.50 on.

    Raises:
        BaseModelError: what is stored makes no sense.
    """
    packed, state = read_state(reader, name)
    try:
        return dequantize(packed, state, settings.compute_dtype or state.dtype)
    except (ValueError, RuntimeError) as error:
        raise BaseModelError(f"The 4-bit tensor {name} of the base is damaged: {error}.") from error


def stored_quantization(config: dict[str, Any], name: str) -> Quantization | None:
    """How the base is stored in 4 bit, None when it is not.

    Raises:
        BaseModelError: it is stored in another quantised format.
    """
    stored = stored_format(config, name)
    if stored in ("nf4", "fp4"):
        return Quantization.from_dict(recorded_settings(config, name))
    if stored == "int8":  # its adapters fit no other checkpoint: their fingerprint is this one's
        raise BaseModelError(
            f"'{name}' is stored as int8, which adapters can't be merged into: serve the adapter beside it, or train "
            "one on the original checkpoint and merge that."
        )
    if stored is not None:
        raise BaseModelError(
            f"'{name}' is stored as {stored}, which adapters can't be merged into: use {in_floats(stored)}."
        )
    return None
