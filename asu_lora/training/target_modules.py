"""Which modules of a base get a LoRA: linear maps of the text decoder, and of nothing else.

Four kinds of module need care. A vision or audio tower often names its layers as the decoder does, and must stay out:
servers refuse adapters on it. Mixtures of experts hold their experts as bare three-dimensional parameters, which a LoRA
on modules doesn't reach; PEFT would adapt these in a form that nothing here merges. Their routers choose experts, and
an adapter on one would reroute every token; some give two tensors rather than one, on which PEFT crashes. And PEFT
refuses modules whose weights a fused kernel reads past their forward pass (Mamba's ``out_proj``). All are left out,
and what that leaves untouched is said.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer, _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers.pytorch_utils import Conv1D

from asu_lora.config import ALL_LINEAR
from asu_lora.errors import SettingError
from asu_lora.models.decoder import base_model, decoder_and_layers
from asu_lora.models.frozen_adapters import NEW

# What routers are called: mlp.router (Llama 4), router.layer (JetMoE), gate.wg (Hunyuan), shared_expert_gate (Qwen 2).
_ROUTER = re.compile(r"(?:^|[._])router(?:$|[._])|(?:^|\.)\w+_expert_gate$")
_GATE = re.compile(r"(?:^|\.)(?:gate|gating)(?:$|\.)")  # and of an MLP without experts, where it widens
_EXPERT = re.compile("expert", re.IGNORECASE)


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
    if isinstance(wanted, str):
        names = linear_names(model)
    else:
        names = wanted
        _refuse_bent(model, names)
    fused = _taken_for_experts(model, names)
    if fused and not everything:
        raise SettingError(
            f"The target modules {', '.join(fused)} are taken for the experts of {type(base_model(model)).__name__}, "
            "which are bare parameters and no modules: name others, or take all-linear, which leaves these out."
        )
    names = [name for name in names if name not in fused]
    out = [*_towers_beside(model, names), *(_left_alone(model, names) if everything else ())]
    return TargetModules(names, "|".join(sorted(out)) or None)


def linear_names(model: torch.nn.Module) -> list[str]:
    """The names (``q_proj``, ``up_proj``, ...) of the linear maps inside the decoder's layers that can be adapted."""
    return sorted({name for name in _names(model).values() if name is not None})


def without_adapter(student: PeftModel, names: Sequence[str]) -> list[str]:
    """The names that no module with the new adapter has: PEFT looks for one match, and is content with it."""
    found = [f".{path}" for path, module in student.named_modules() if NEW in getattr(module, "lora_A", ())]
    return [name for name in names if not any(path.endswith(f".{name}") for path in found)]


def _names(model: torch.nn.Module) -> dict[str, str | None]:
    """{path below a layer of each linear map that is no router: the name it is targeted by, None where PEFT can't}.

    The name is the path's last part; more of them where that names another kind of module too (``mlp.0``, for PEFT
    would also take ``layers.0``).
    """
    linear = {path: module for path, module in _linear_maps(model) if not _is_router(path, module)}
    others = [
        f".{path}"
        for path, module in base_model(model).named_modules()
        if not isinstance(module, torch.nn.Linear | Conv1D | BaseTunerLayer)
    ]
    lasts = {other.rpartition(".")[2] for other in others}
    found: dict[str, str | None] = {}
    for path in linear:
        parts = path.split(".")
        if parts[-1] not in lasts:
            found[path] = None if _refused_by_peft(model, parts[-1]) else parts[-1]
            continue
        ends = (".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1))
        name = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), None)
        found[path] = None if name is None or _refused_by_peft(model, parts[-1]) else name
    return found


def _linear_maps(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Each linear map of the base, by its path below a layer, adapters beneath or not."""
    for layer in decoder_and_layers(model)[1]:
        wrapped = {name: module for name, module in layer.named_modules() if isinstance(module, BaseTunerLayer)}
        inside = tuple(f"{name}." for name in wrapped)  # of an adapter beneath: not the base's
        for name, module in layer.named_modules():
            plain = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            if isinstance(plain, torch.nn.Linear | Conv1D) and not name.startswith(inside):
                yield name, plain


def _is_router(path: str, module: torch.nn.Module) -> bool:
    narrows = getattr(module, "out_features", math.inf) < getattr(module, "in_features", 0)
    return bool(_ROUTER.search(path)) or bool(narrows and _GATE.search(path)) or _is_bent(module)


def _is_bent(module: torch.nn.Module) -> bool:
    """Whether a class that calls itself linear gives anything but x W^T + b: tried on two rows of shapes alone."""
    kind = type(module)
    if not isinstance(module, torch.nn.Linear) or kind.forward is torch.nn.Linear.forward:
        return False
    if kind.__module__.startswith("bitsandbytes."):  # the same map, in 4 or 8 bit
        return False
    try:
        with torch.device("meta"):
            shape = module.weight.shape
            found = torch.func.functional_call(
                module,
                {name: torch.empty_like(value, device="meta") for name, value in module.named_parameters()},
                (torch.empty(2, shape[1], dtype=module.weight.dtype),),
            )
    except Exception:  # a model's own code raises errors of every kind
        return True
    return not isinstance(found, torch.Tensor) or found.shape != (2, shape[0])


def _refuse_bent(model: torch.nn.Module, names: list[str]) -> None:
    """Refuse a named module that is called linear and isn't.

    Raises:
        SettingError: a LoRA on it would crash in the first forward pass.
    """
    for path, module in _linear_maps(model):
        if path.rpartition(".")[2] in names and _is_bent(module):
            raise SettingError(
                f"The target module {path} of {type(base_model(model)).__name__} is a {type(module).__name__}, which "
                "is no plain linear map, so no LoRA fits it: name others, or take all-linear, which leaves it out."
            )


def _refused_by_peft(model: torch.nn.Module, name: str) -> bool:
    """Whether a fused kernel of this base reads the module's weight itself, past any adapter."""
    try:
        _check_lora_target_modules_mamba(LoraConfig(), base_model(model), name)
    except ValueError:
        return True
    return False


def _left_alone(model: torch.nn.Module, names: list[str]) -> list[str]:
    """Patterns of the routers that end in one of these names, as other modules do."""
    found = {path for path, module in _linear_maps(model) if _is_router(path, module)}
    ends = tuple(f".{name}" for name in names)
    return [rf"(.*\.)?{re.escape(path)}" for path in found if f".{path}".endswith(ends)]


def left_out(student: PeftModel) -> list[str]:
    """The weights of the decoder's layers that no adapter of all-linear reaches, routers aside.

    Returns:
        their names below a layer (``mlp.experts.down_proj``), sorted; none for most bases.
    """
    return _unreached(_weights(student.get_base_model()))


def note_left_out(student: PeftModel) -> str | None:
    """The same as one sentence for a person, with the share of the layers' weights that it is."""
    weights = _weights(student.get_base_model())
    names = _unreached(weights)
    if not names:
        return None
    share = sum(weights[name][0] for name in names) / sum(size for size, _ in weights.values())
    kind = "This base is a mixture of experts" if any(map(_EXPERT.search, names)) else "Not all of this base is reached"
    return (
        f"{kind}: {', '.join(names)} ({share:.0%} of its layers' weights) get no adapter, "
        "so what only they hold is forgotten through the other layers; look at the figures after the run."
    )


def _unreached(weights: dict[str, tuple[int, bool]]) -> list[str]:
    return sorted(name for name, (_, reached) in weights.items() if not reached)


def _weights(base: torch.nn.Module) -> dict[str, tuple[int, bool]]:
    """{name below a layer: (its size in all layers, whether a LoRA on modules can reach it)}.

    What is no matrix (a norm, a mixing vector, a convolution along time) counts as reached: it holds no facts.
    """
    names = _names(base)
    beyond = {None, *_taken_for_experts(base, sorted({name for name in names.values() if name}))}
    found: dict[str, tuple[int, bool]] = {}
    for layer in decoder_and_layers(base)[1]:
        for name, parameter in layer.named_parameters():
            short = re.sub(r"\.(base_layer|original_module)\b", "", name).removesuffix(".weight")
            if "lora_" in name:
                continue
            state = getattr(parameter, "quant_state", None)  # of four bit: knows the shape that was packed
            shape = state.shape if state is not None else parameter.shape
            size = math.prod(shape)
            stacked = sum(side > 1 for side in shape) > 2 and "conv" not in short
            lost = short in names and names[short] in beyond
            before = found.get(short, (0, True))
            found[short] = (before[0] + size, before[1] and not stacked and not lost)
    return found


def _taken_for_experts(model: torch.nn.Module, names: list[str]) -> list[str]:
    """The names that PEFT turns into ``target_parameters``, ignoring the layers asked for."""
    converted = LoraConfig(target_modules=list(names))
    try:
        convert_peft_config_for_transformers(converted, base_model(model), None)
    except ValueError:  # gate_proj without up_proj: both are meant
        return [name for name in names if name in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate")]
    return [name for name in names if name not in (converted.target_modules or ())]


def _towers_beside(model: torch.nn.Module, names: list[str]) -> list[str]:
    """Patterns of the towers beside the decoder in which a name would match too."""
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
    return [rf"{re.escape(tower)}(\..*)?" for tower in towers]
