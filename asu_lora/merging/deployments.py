"""The ways a merged folder may be put to use, each as plain transformers loads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from asu_lora.bases.quantization import NF4
from asu_lora.bases.source import BaseSource
from asu_lora.errors import BaseModelError
from asu_lora.hardware.precision import TYPES, fast_compute_dtype
from asu_lora.merging.durable.residual_adapter import FOLDER
from asu_lora.models.adapter_stack import stack_adapters
from asu_lora.models.loading import compute_in, feed_head_contiguously, hold_in, keep_trainable_layout
from asu_lora.models.prepared_base import causal_lm_config


@dataclass(frozen=True)
class Deployment:
    """One way.

    Attributes:
        precision: what the weights are held in.
        written: it is the one that was asked for.
        note: what is done to run it.
        open: loads the model; raises where that can't be done here.
    """

    precision: str
    written: bool
    note: str
    open: Callable[[], torch.nn.Module]


def deployments(source: BaseSource, written: str, target: torch.device, trust: bool = False) -> list[Deployment]:
    """All ways for a folder that was merged to the precision ``written``, that one first."""
    if written in TYPES:
        compute = runnable(written, target)
        four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=fast_compute_dtype(target), **NF4)
        return [
            Deployment(
                written,
                True,
                "" if compute == written else f"computed in {compute}",
                lambda: _open(source, target, trust, dtype=TYPES[compute]),
            ),
            Deployment(
                "int8",
                False,
                "LLM.int8, quantised on loading",
                lambda: _open(source, target, trust, quantization_config=BitsAndBytesConfig(load_in_8bit=True)),
            ),
            Deployment(
                "nf4",
                False,
                "quantised on loading, to nearest",
                lambda: _open(source, target, trust, quantization_config=four_bit),
            ),
        ]
    found, residual, full = [], source.path / FOLDER, runnable("bf16", target)
    if residual.is_dir():
        found.append(
            Deployment(
                f"{written} + {FOLDER}",
                True,
                "",
                lambda: stack_adapters(_open(source, target, trust), [(residual, 1.0)]),
            )
        )
    found.append(
        Deployment(
            written, not found, "without its residual adapter" if found else "", lambda: _open(source, target, trust)
        )
    )
    found.append(
        Deployment(
            full,
            False,
            "the 4-bit weights dequantised",
            lambda: _dequantised(_open(source, target, trust), TYPES[full]),
        )
    )
    found.append(Deployment("int8", False, "", _no_int8))
    return found


def runnable(precision: str, target: torch.device) -> str:
    """The precision to compute in that shows weights of this precision as they are, and is fast here."""
    if target.type == "cpu" and (precision == "fp16" or fast_compute_dtype(target) != torch.bfloat16):
        return "fp32"
    return precision if precision in TYPES else "bf16"


def _open(source: BaseSource, target: torch.device, trust: bool, **loading: Any) -> PreTrainedModel:
    """Load it as plain transformers does, with products in the type that is fast here: a 4-bit folder names its own."""
    stored_quantized = not loading
    loading.setdefault("dtype", fast_compute_dtype(target))
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        source.path, config=causal_lm_config(source, trust), device_map={"": target}, trust_remote_code=trust, **loading
    )
    model.requires_grad_(False).eval()
    compute_in(model, fast_compute_dtype(target))
    if stored_quantized:
        hold_in(model, fast_compute_dtype(target))
    keep_trainable_layout(model)
    feed_head_contiguously(model)
    return model


def _dequantised(model: PreTrainedModel, dtype: torch.dtype) -> torch.nn.Module:
    whole = model.dequantize(dtype).to(dtype).eval()
    feed_head_contiguously(whole)
    return whole


def _no_int8() -> torch.nn.Module:
    raise BaseModelError("it is stored in 4 bit, and bitsandbytes quantises full weights only; merge to bf16 for int8")
