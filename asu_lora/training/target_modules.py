"""Which modules of a base get a LoRA: linear maps of the text decoder, and of nothing else.

Two kinds of base need care. A vision or audio tower often names its layers as the decoder does, and must stay out:
servers refuse adapters on it. And mixtures of experts hold their experts as bare three-dimensional parameters, which
a LoRA on modules doesn't reach. PEFT would adapt these in a form that nothing here merges; so they are left out, and
that is said.
"""

import math
import re
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers.pytorch_utils import Conv1D

from asu_lora.config import ALL_LINEAR
from asu_lora.errors import SettingError
from asu_lora.models.decoder import base_model, decoder_and_layers


@dataclass(frozen=True)
class TargetModules:
    """What PEFT is told.

    Attributes:
        names: the last parts of the modules' names (``q_proj``), in a form that every inference server reads.
        exclude: a pattern of whole names beside the decoder that end in one of them; None where there are none.
    """

    names: list[str]
    exclude: str | None


def target_modules(model: torch.nn.Module, wanted: str | list[str]) -> TargetModules:
    """The modules to adapt.

    Args:
        model: a causal LM, adapters on it or not.
        wanted: ``all-linear``, or names.

    Raises:
        SettingError: a name stands for experts, which can't be adapted as modules.
    """
    everything = wanted == ALL_LINEAR
    names = linear_names(model) if isinstance(wanted, str) else wanted
    fused = _taken_for_experts(model, names)
    if fused and not everything:
        raise SettingError(
            f"The target modules {', '.join(fused)} are taken for the experts of {type(base_model(model)).__name__}, "
            "which are bare parameters and no modules: name others, or take all-linear, which leaves these out."
        )
    names = [name for name in names if name not in fused]
    return TargetModules(names, _beside_the_decoder(model, names))


def linear_names(model: torch.nn.Module) -> list[str]:
    """The names (``q_proj``, ``up_proj``, ...) of the linear maps inside the decoder's layers."""
    _, layers = decoder_and_layers(model)
    found = set()
    for layer in layers:
        wrapped = {name: module for name, module in layer.named_modules() if isinstance(module, BaseTunerLayer)}
        inside = tuple(f"{name}." for name in wrapped)  # of an adapter beneath: not the base's
        for name, module in layer.named_modules():
            plain = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            if isinstance(plain, torch.nn.Linear | Conv1D) and not name.startswith(inside):
                found.add(name.rpartition(".")[2])
    return sorted(found)


def left_out(student: PeftModel) -> list[str]:
    """The weights of the decoder's layers that no adapter reaches, since the base is a mixture of experts.

    Returns:
        their names below a layer (``mlp.experts.down_proj``), sorted; none for a dense base.
    """
    return sorted(name for name, (_, reached) in _weights(student.get_base_model()).items() if not reached)


def note_left_out(student: PeftModel) -> str | None:
    """The same as one sentence for a person, with the share of the layers' weights that it is."""
    weights = _weights(student.get_base_model())
    names = left_out(student)
    if not names:
        return None
    share = sum(weights[name][0] for name in names) / sum(size for size, _ in weights.values())
    return (
        f"This base is a mixture of experts: {', '.join(names)} ({share:.0%} of its layers' weights) get no adapter, "
        "so what only they hold is forgotten through the other layers; look at the figures after the run."
    )


def _weights(base: torch.nn.Module) -> dict[str, tuple[int, bool]]:
    """{name below a layer: (its size in all layers, whether a LoRA on modules can reach it)}."""
    fused = _taken_for_experts(base, linear_names(base))
    found: dict[str, tuple[int, bool]] = {}
    for layer in decoder_and_layers(base)[1]:
        for name, parameter in layer.named_parameters():
            short = re.sub(r"\.(base_layer|original_module)\b", "", name).removesuffix(".weight")
            if "lora_" in name:
                continue
            state = getattr(parameter, "quant_state", None)  # of four bit: knows the shape that was packed
            size = math.prod(state.shape) if state is not None else parameter.numel()
            experts = parameter.dim() > 2 and "conv" not in short
            reached = not experts and short.rpartition(".")[2] not in fused
            found[short] = (found.get(short, (0, True))[0] + size, reached)
    return found


def _taken_for_experts(model: torch.nn.Module, names: list[str]) -> list[str]:
    """The names that PEFT turns into ``target_parameters``, ignoring the layers asked for."""
    converted = LoraConfig(target_modules=list(names))
    try:
        convert_peft_config_for_transformers(converted, base_model(model), None)
    except ValueError:  # gate_proj without up_proj: both are meant
        return [name for name in names if name in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate")]
    return [name for name in names if name not in (converted.target_modules or ())]


def _beside_the_decoder(model: torch.nn.Module, names: list[str]) -> str | None:
    """A pattern of the towers beside the decoder in which a name would match too."""
    base = base_model(model)
    decoder, head = decoder_and_layers(model)[0], base.get_output_embeddings()
    path = next((name for name, module in base.named_modules() if module is decoder), "")
    towers = set()
    for name, module in base.named_modules():
        if module is head or not any(name == wanted or name.endswith(f".{wanted}") for wanted in names):
            continue
        if path and not name.startswith(f"{path}."):
            own, decoders = name.split("."), path.split(".")
            shared = next((i for i, part in enumerate(own) if i >= len(decoders) or part != decoders[i]), 0)
            towers.add(".".join(own[: shared + 1]))
    return "|".join(rf"{re.escape(tower)}(\..*)?" for tower in sorted(towers)) or None
