"""How a base's weights are stored: as floats, in bitsandbytes' 4 or 8 bit, or in a format that isn't used here."""

from collections.abc import Mapping
from typing import Any

from asu_lora.bases.checkpoint_files import StoredTensor
from asu_lora.errors import BaseModelError

NF4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}  # what a base is quantised to on loading

# What a manifest records of a base that is stored quantised; the rest of its settings is for other formats.
_RECORDED = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
_DEFAULTS = {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}  # bitsandbytes' own


_FLOATS = ("F64", "F32", "F16", "BF16")
# Formats that vendors publish in, with what transformers reads them into floats by.
_READ_AS_FLOATS = {
    "mxfp4": "Mxfp4Config",
    "fp8": "FineGrainedFP8Config",
    "compressed-tensors": "CompressedTensorsConfig",
}


def stored_settings(config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The ``quantization_config`` of a ``config.json``, wherever it stands there; None for floats.

    Raises:
        BaseModelError: it makes no sense.
    """
    inner = config.get("text_config")
    found = [config.get("quantization_config"), config.get("compression_config")]
    found.append(inner.get("quantization_config") if isinstance(inner, dict) else None)
    settings = next((entry for entry in found if entry), None)
    if settings is not None and not isinstance(settings, dict):
        raise BaseModelError(f"The config.json of '{name}' is damaged: its quantization_config is no JSON object.")
    return settings


def stored_format(config: dict[str, Any], name: str) -> str | None:
    """``nf4``, ``fp4`` or ``int8`` in bitsandbytes' layout, another format by its own name, or None for floats.

    Raises:
        BaseModelError: the ``quantization_config`` makes no sense.
    """
    settings = stored_settings(config, name)
    if settings is None:
        return None
    if settings.get("load_in_8bit"):
        return "int8"
    if settings.get("load_in_4bit"):
        return str(settings.get("bnb_4bit_quant_type") or _DEFAULTS["bnb_4bit_quant_type"])
    return str(settings.get("quant_method") or "an unknown format")


def usable_format(config: dict[str, Any], name: str) -> str | None:
    """:func:`stored_format`, of a base that can be asked and trained on.

    Raises:
        BaseModelError: it is stored in a format of another library (GPTQ, AWQ, FP8, ...).
    """
    stored = stored_format(config, name)
    if stored not in (None, "nf4", "fp4", "int8"):
        raise BaseModelError(
            f"'{name}' is stored as {stored}, which can be neither asked nor trained on here: use {in_floats(stored)}, "
            "or one in bitsandbytes' 4 or 8 bit."
        )
    return stored


def refuse_unnamed_format(tensors: Mapping[str, StoredTensor], config: dict[str, Any], name: str) -> None:
    """Refuse weights that are no floats where the config names no format: their scales would be left out in silence.

    Raises:
        BaseModelError: naming the first of them.
    """
    if stored_format(config, name) is not None:
        return
    for tensor, stored in tensors.items():
        if tensor.endswith(".weight") and len(stored.info.shape) > 1 and stored.info.dtype not in _FLOATS:
            raise BaseModelError(
                f"'{name}' holds {tensor} as {stored.info.dtype}, and its config.json names no quantisation: use a "
                "checkpoint in floats, or one whose config has its quantization_config."
            )


def in_floats(stored: str | None) -> str:
    """Which checkpoint holds the same base in floats, in words; of gpt-oss (MXFP4), say, it has to be made."""
    if stored in _READ_AS_FLOATS:
        return (
            f"a copy in floats (from_pretrained with {_READ_AS_FLOATS[stored]}(dequantize=True), then save_pretrained)"
        )
    return "the original checkpoint"


def recorded_settings(config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """What a manifest says of a base that is stored quantised, with what is left out there spelled out."""
    settings = stored_settings(config, name)
    if settings is None:
        return None
    defaults = _DEFAULTS if settings.get("load_in_4bit") else {}
    return defaults | {key: settings[key] for key in _RECORDED if settings.get(key) is not None}
