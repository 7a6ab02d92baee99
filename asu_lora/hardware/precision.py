"""The type matrix products run in, by precision and device."""

import os

import torch

from asu_lora.errors import SettingError

FORCED = "ASU_LORA_NF4_COMPUTE"  # fp32 or bf16: for tests and debugging, on a machine that would choose the other
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type matrix products run in.

    Raises:
        SettingError: a precision that the device can't compute in.
    """
    if precision == "fp16" and device.type == "cpu":
        raise SettingError("fp16 arithmetic is not made for CPUs: use nf4, bf16 or fp32, or a GPU.")
    if precision == "nf4" and device.type not in ("cpu", "cuda", "xpu"):
        raise SettingError(f"bitsandbytes has no 4-bit kernels for '{device.type}': use --precision bf16 or fp32.")
    return TYPES[precision] if precision in TYPES else fast_compute_dtype(device)


def fast_compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the machine has units for it, else fp32 (CPU) or fp16 (old GPUs).

    A CPU without bf16 units emulates them, about 25 times slower than fp32. ``ASU_LORA_NF4_COMPUTE`` overrides the
    choice, so that both kinds of CPU can be tried on either.

    Raises:
        SettingError: ``ASU_LORA_NF4_COMPUTE`` is neither fp32 nor bf16.
    """
    forced = os.environ.get(FORCED)
    if forced and forced not in ("fp32", "bf16"):
        raise SettingError(f"{FORCED} is '{forced}': set it to fp32 or bf16, or unset it.")
    if forced:
        return TYPES[forced]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        flags = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return torch.bfloat16 if any(flag() for flag in flags if flag) else torch.float32
    return torch.bfloat16 if device.type == "xpu" else torch.float32
