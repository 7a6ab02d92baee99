"""NF4 weights as bitsandbytes makes, keeps and stores them (QLoRA, arXiv 2305.14314)."""

from dataclasses import dataclass
from typing import Any

import torch

from asu_lora.errors import BaseModelError
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader

_STATE = ".quant_state.bitsandbytes__"
_STATISTICS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", _STATE + "nf4", _STATE + "fp4")


@dataclass(frozen=True)
class Quantization:
    """The settings that decide which 4-bit numbers come out.

    Attributes:
        double_quant: the blocks' absolute maxima are themselves kept in 8 bit.
        source_dtype: the type weights were cast to before they were quantised: that of the model as it was
            loaded.
        quant_type: ``nf4``; ``fp4`` only where a base is stored so.
    """

    double_quant: bool = True
    source_dtype: torch.dtype | None = None
    quant_type: str = "nf4"

    @classmethod
    def from_dict(cls, settings: dict[str, Any] | None) -> "Quantization":
        """From a ``quantization_config`` or what a manifest records of it."""
        settings = settings or {}
        dtype = getattr(torch, str(settings.get("bnb_4bit_compute_dtype", "")).removeprefix("torch."), None)
        double = settings.get("bnb_4bit_use_double_quant", True)
        return cls(
            bool(double), dtype if isinstance(dtype, torch.dtype) else None, settings.get("bnb_4bit_quant_type", "nf4")
        )


def quantize(weight: torch.Tensor, settings: Quantization) -> tuple[torch.Tensor, Any]:
    """(out, in) floats -> packed uint8 (out*in/2, 1) and bitsandbytes' ``QuantState``, blocks of 64."""
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(
        weight.contiguous(), blocksize=64, compress_statistics=settings.double_quant, quant_type=settings.quant_type
    )


def dequantize(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """The fp32 weights (out, in) that 4-bit numbers stand for."""
    from bitsandbytes.functional import dequantize_4bit

    state.dtype = torch.float32
    return dequantize_4bit(packed, state)


def as_loaded(weight: torch.Tensor, settings: Quantization) -> torch.Tensor:
    """An fp32 weight after the cast that comes before quantisation when a model is loaded, in fp32 again."""
    return weight if settings.source_dtype is None else weight.to(settings.source_dtype).to(torch.float32)


def seen_through_nf4(weight: torch.Tensor, settings: Quantization) -> torch.Tensor:
    """What an fp32 weight (out, in) becomes in a model loaded with these settings, in fp32."""
    return dequantize(*quantize(as_loaded(weight, settings), settings))


def stored_tensors(name: str, packed: torch.Tensor, state: Any) -> dict[str, torch.Tensor]:
    """The tensors that ``from_pretrained`` reads for one 4-bit weight called ``name``."""
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


def read_packed(reader: LazyTensorReader, name: str) -> torch.Tensor:
    """The fp32 weights (out, in) of a tensor that the checkpoint keeps in 4 bit.

    Raises:
        BaseModelError: what is stored makes no sense.
    """
    packed, state = read_state(reader, name)
    try:
        return dequantize(packed, state)
    except (ValueError, RuntimeError) as error:
        raise BaseModelError(f"The 4-bit tensor {name} of the base is damaged: {error}.") from error


def stored_quantization(config: dict[str, Any], name: str) -> Quantization | None:
    """How the base is stored in 4 bit, None when it is not.

    Raises:
        BaseModelError: it is stored in another quantised format.
    """
    stored = config.get("quantization_config")
    if not stored:
        return None
    if stored.get("quant_method") == "bitsandbytes" and stored.get("load_in_4bit"):
        return Quantization.from_dict(stored)
    kind = "int8" if stored.get("load_in_8bit") else stored.get("quant_method", "an unknown format")
    raise BaseModelError(
        f"'{name}' is stored as {kind}, which adapters can't be merged into: use the original checkpoint."
    )
