"""Which weights adapters belong to: the original ones, or what NF4 left of them in training."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from asu_lora.adapters.compute_types import FOUR_BIT, compute_types
from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import Manifest
from asu_lora.bases.source import BaseSource
from asu_lora.errors import AdapterError, SettingError
from asu_lora.merging.nf4.quantization import Quantization
from asu_lora.models.copied_weights import refuse_changed_copies

ONTO = ("quantized", "original")
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# What each compute type holds without loss.
_EXACT = {torch.float32: FLOATS - {"F64"}, torch.bfloat16: frozenset({"BF16"}), torch.float16: frozenset({"F16"})}


def choose_onto(
    loras: Sequence[LoraFolder], stored: Quantization | None, onto: str | None, types: Collection[str] = ()
) -> tuple[str, Quantization]:
    """What to add the updates to, and with which 4-bit settings; by default those of training.

    An adapter trained on an NF4 base has learnt to correct the dequantised weights, so these reproduce it;
    one trained on bf16, fp16 or fp32, or of unknown origin, belongs to the original weights.

    Args:
        stored: how the checkpoint itself is quantised, None for full precision.
        onto: ``quantized``, ``original``, or None to choose.
        types: that the checkpoint's tensors are stored in, as safetensors names them.

    Raises:
        SettingError: the adapters disagree, or the original weights are asked of a base that has none.
    """
    if onto not in (None, *ONTO):
        raise SettingError(f"'{onto}' is neither quantized nor original.")
    known = [lora.manifest for lora in loras if lora.manifest]
    on_nf4 = [_trained_on(manifest) for manifest in known if manifest.base.precision in FOUR_BIT]
    settings = on_nf4[0] if on_nf4 else Quantization()
    if stored is not None:
        if onto == "original":
            # a manifest's adapter fits this checkpoint alone
            way_out = "" if known else ", or give the original checkpoint as base"
            raise SettingError(
                f"This base is stored in 4 bit and holds no original weights: merge onto the quantized ones{way_out}."
            )
        return "quantized", replace(stored, compute_dtype=settings.compute_dtype)
    if onto is None:
        precisions = {manifest.base.precision for manifest in known}
        kinds = {precision if precision in ("nf4", "mixed") else "original" for precision in precisions}
        if len(kinds) > 1 or "mixed" in kinds:
            raise SettingError(
                "Some of these adapters were trained on an NF4 base and some on the original "
                "weights: say which to merge onto with --onto quantized or --onto original."
            )
        onto = "quantized" if kinds == {"nf4"} else "original"
        if onto == "quantized":
            _refuse_two_compute_types(known, types)
    return onto, settings


def _trained_on(manifest: Manifest) -> Quantization:
    """The 4-bit settings of a training; older manifests name its compute type beside its other settings only."""
    return Quantization.from_dict(manifest.base.quantization, manifest.training.get("compute_dtype"))


def _refuse_two_compute_types(trained: Sequence[Manifest], types: Collection[str]) -> None:
    """In NF4 a base looks different after a cast to another compute type, unless the cast loses nothing."""
    named = {name for manifest in trained for name in compute_types(manifest)}
    computed = {dtype for name in named if isinstance(dtype := getattr(torch, name, None), torch.dtype)}
    if len(computed) > 1 and any(set(types) & FLOATS - _EXACT.get(dtype, frozenset()) for dtype in computed):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in computed))
        raise SettingError(
            f"These adapters were trained with different compute types ({names}), under which this base is not the "
            "same in NF4: merge those of one type, or say --onto quantized (as the first has it) or --onto original."
        )


def refuse_other_base(source: BaseSource, loras: Sequence[LoraFolder]) -> None:
    """Adapters with a manifest go onto the very weights they were trained on.

    Raises:
        AdapterError: the base's fingerprint is another one, or a copy of the base's weights in an adapter is changed.
    """
    for lora in loras:
        refuse_changed_copies(lora, source)
        if lora.manifest and not source.has_fingerprint(lora.manifest.base.fingerprint):
            named_alike = lora.base_id == source.name
            what = "other weights under the same name" if named_alike else f"the base {lora.base_id}"
            raise AdapterError(
                f"The adapter '{lora.name}' was trained on {what}: its fingerprint does not fit '{source.name}'."
            )
