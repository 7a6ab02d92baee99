"""Which weights adapters belong to: the original ones, or what NF4 left of them in training."""

from collections.abc import Sequence

from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.bases.source import BaseSource
from asu_lora.errors import AdapterError, SettingError
from asu_lora.merging.nf4.quantization import Quantization

ONTO = ("quantized", "original")


def choose_onto(loras: Sequence[LoraFolder], stored: Quantization | None, onto: str | None) -> tuple[str, Quantization]:
    """What to add the updates to, and with which 4-bit settings; by default those of training.

    An adapter trained on an NF4 base has learnt to correct the dequantised weights, so these reproduce it;
    one trained on bf16, fp16 or fp32, or of unknown origin, belongs to the original weights.

    Args:
        stored: how the checkpoint itself is quantised, None for full precision.
        onto: ``quantized``, ``original``, or None to choose.

    Raises:
        SettingError: the adapters disagree, or the original weights are asked of a base that has none.
    """
    if onto not in (None, *ONTO):
        raise SettingError(f"'{onto}' is neither quantized nor original.")
    known = [lora.manifest.base for lora in loras if lora.manifest]
    if stored is not None:
        if onto == "original":
            raise SettingError(
                "This base is stored in 4 bit and holds no original weights: merge onto the "
                "quantized ones, or give the original checkpoint as base."
            )
        return "quantized", stored
    settings = next(
        (Quantization.from_dict(base.quantization) for base in known if base.precision == "nf4"), Quantization()
    )
    if onto is None:
        kinds = {base.precision if base.precision in ("nf4", "mixed") else "original" for base in known}
        if len(kinds) > 1 or "mixed" in kinds:
            raise SettingError(
                "Some of these adapters were trained on an NF4 base and some on the original "
                "weights: say which to merge onto with --onto quantized or --onto original."
            )
        onto = "quantized" if kinds == {"nf4"} else "original"
    return onto, settings


def refuse_other_base(source: BaseSource, loras: Sequence[LoraFolder]) -> None:
    """Adapters with a manifest go onto the very weights they were trained on.

    Raises:
        AdapterError: the base's fingerprint is another one.
    """
    for lora in loras:
        if lora.manifest and not source.has_fingerprint(lora.manifest.base.fingerprint):
            named_alike = lora.base_id == source.name
            what = "other weights under the same name" if named_alike else f"the base {lora.base_id}"
            raise AdapterError(
                f"The adapter '{lora.name}' was trained on {what}: its fingerprint does not fit '{source.name}'."
            )
